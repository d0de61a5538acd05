"""Deliveries as people read them. Every query is scoped to a project."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from worker.domain.delivery import DeliveryState, DeliveryView
from worker.store.columns import written_out
from worker.store.views import since
from worker.store.webhook_tables import delivery, delivery_attempt, event

_D = delivery.c
_UNDELIVERED = tuple(s.value for s in (DeliveryState.EXHAUSTED, DeliveryState.REFUSED, DeliveryState.SKIPPED))


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing shows; `after` is the id of the last one of the page before. Newest first."""

    endpoint_id: str | None = None
    object_id: str | None = None
    state: DeliveryState | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    after: str | None = None
    limit: int = 20


def get(conn: sa.Connection, project_id: str, delivery_id: str) -> DeliveryView | None:
    """With all its attempts, in order."""
    row = conn.execute(_select().where(_D.id == delivery_id, _D.project_id == project_id)).first()
    if row is None:
        return None
    tries = conn.execute(
        sa.select(delivery_attempt)
        .where(delivery_attempt.c.delivery_id == delivery_id)
        .order_by(delivery_attempt.c.number)
    ).mappings()
    return _view(row, tuple(dict(t) for t in tries))


def listed(conn: sa.Connection, project_id: str, wanted: Filter) -> tuple[list[DeliveryView], bool]:
    """One page, without attempts, and whether there is another."""
    where: list[sa.ColumnElement[bool]] = [_D.project_id == project_id]
    if wanted.endpoint_id is not None:
        where.append(_D.endpoint_id == wanted.endpoint_id)
    if wanted.object_id is not None:
        where.append(_D.object_id == wanted.object_id)
    if wanted.state is not None:
        where += written_out(_D.state, wanted.state.value, _UNDELIVERED)
    if wanted.created_after is not None:
        where += [_D.created_at > wanted.created_after, _D.id >= since("whd", wanted.created_after)]
    if wanted.created_before is not None:
        where.append(_D.created_at < wanted.created_before)
    if wanted.after is not None:
        where.append(_D.id < wanted.after)
    rows = conn.execute(_select().where(*where).order_by(_D.id.desc()).limit(wanted.limit + 1)).all()
    return [_view(row) for row in rows[: wanted.limit]], len(rows) > wanted.limit


def body_of(conn: sa.Connection, project_id: str, event_id: str) -> str | None:
    """The thin body of an event as it went out."""
    return conn.execute(
        sa.select(event.c.thin).where(event.c.id == event_id, event.c.project_id == project_id)
    ).scalar_one_or_none()


def _select() -> sa.Select[Any]:
    return sa.select(delivery, event.c.type.label("event_type")).join(event, event.c.id == _D.event_id)


def _view(row: Any, tries: tuple[dict[str, Any], ...] = ()) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        endpoint_id=row.endpoint_id,
        event_id=row.event_id,
        event_type=row.event_type,
        object_id=row.object_id,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        http_status=row.http_status,
        fault=row.fault,
        created_at=row.created_at,
        due_at=row.due_at if row.state == DeliveryState.PENDING.value else None,
        ended_at=row.ended_at,
        tries=tries,
    )
