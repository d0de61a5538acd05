"""What turned out to be true, and how each vote of a prediction did. Nothing is written before an outcome comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker.domain.answer import Json
from worker.domain.calibration import Forecast
from worker.store.moment import db_now
from worker.store.tables import prediction_outcome as outcome
from worker.store.tables import prediction_score as score
from worker.store.text import clean, dumps

PANEL = ""  # the model under which the verdict of a panel is kept


@dataclass(frozen=True, slots=True)
class Outcome:
    """`corrected_at`: when another value was given than at first; None: it stands as it was recorded."""

    job_id: str
    value: Json
    recorded_at: datetime
    corrected_at: datetime | None


@dataclass(frozen=True, slots=True)
class Scored:
    """A forecast with the seat whose it was; its `member` is the model that answered."""

    seat: str
    forecast: Forecast


def outcome_of(conn: sa.Connection, project_id: str, job_id: str) -> Outcome | None:
    row = conn.execute(
        sa.select(outcome).where(outcome.c.job_id == job_id, outcome.c.project_id == project_id)
    ).one_or_none()
    return None if row is None else Outcome(row.job_id, json.loads(row.value), row.recorded_at, row.corrected_at)


def record(
    conn: sa.Connection,
    project_id: str,
    job_id: str,
    kind: str,
    value: Json,
    voted_at: datetime,
    scored: Sequence[Scored],
) -> None:
    """Store an outcome, or correct it: the scores of the first one go. The same value again changes nothing."""
    said = dumps(value)
    stored = sa.select(outcome.c.value).where(outcome.c.job_id == job_id).with_for_update()
    known = conn.execute(stored).scalar_one_or_none()
    if known is None:
        made = {"job_id": job_id, "project_id": project_id, "type": kind, "value": said, "recorded_at": db_now()}
        try:
            with conn.begin_nested():
                conn.execute(outcome.insert().values(**made))
        except IntegrityError:  # somebody was faster
            known = conn.execute(stored).scalar_one()
    if known == said:
        return
    if known is not None:
        conn.execute(outcome.update().where(outcome.c.job_id == job_id).values(value=said, corrected_at=db_now()))
        conn.execute(score.delete().where(score.c.job_id == job_id))
    if scored:
        conn.execute(score.insert(), [_row(project_id, job_id, kind, voted_at, one) for one in scored])


def _row(project_id: str, job_id: str, kind: str, voted_at: datetime, one: Scored) -> dict[str, Any]:
    forecast = one.forecast
    return {
        "project_id": project_id,
        "model": clean(forecast.member, 300),
        "job_id": job_id,
        "member": clean(one.seat, 300),
        "type": kind,
        "correct": forecast.right,
        "probability": forecast.probability,
        "happened": forecast.happened,
        "voted_at": voted_at,
    }


def forecasts(
    conn: sa.Connection,
    project_id: str,
    *,
    models: Sequence[str] | None = None,
    kind: str | None = None,
    since: datetime | None = None,
    most: int = 200_000,
) -> list[Forecast]:
    """The newest votes whose outcome is known; those of one job stand together."""
    wanted = [score.c.project_id == project_id]
    if models is not None:
        wanted.append(score.c.model.in_(models))
    if kind is not None:
        wanted.append(score.c.type == kind)
    if since is not None:
        wanted.append(score.c.voted_at >= since)
    statement = (
        sa.select(score.c.model, score.c.correct, score.c.probability, score.c.happened)
        .where(*wanted)
        .order_by(score.c.job_id.desc(), score.c.member)
        .limit(most)
    )
    return [Forecast(row.model, row.correct, row.probability, row.happened) for row in conn.execute(statement)]
