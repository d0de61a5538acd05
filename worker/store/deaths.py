"""Deaths of workers as their jobs saw them: one row per claim that died with its worker. The cause of a dead letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from worker.store.moment import db_now
from worker.store.rows import Rows
from worker.store.tables import death, worker

_DEATHS = Rows(job_id=sa.Text, claim_id=sa.Text, open_target=sa.Text)


@dataclass(frozen=True, slots=True)
class Death:
    """One worker's death while it had the job; times by the database's clock, aware UTC.

    heartbeat_at  the worker's last sign of life; `host`, `pid` and this are None where nothing is known of it
    in_flight     jobs it had, this one included
    open_target   who was being asked; None: no call of this job was open
    """

    worker_id: str
    host: str | None
    pid: int | None
    heartbeat_at: datetime | None
    found_at: datetime
    in_flight: int
    open_target: str | None


def add(conn: sa.Connection, worker_id: str, held: Sequence[Any], open_targets: Mapping[str, str]) -> None:
    """`held` are rows with `id` and `claim_id`, `open_targets` the targets of open calls by job."""
    dialect = conn.dialect.name
    told = conn.execute(
        sa.select(worker.c.host, worker.c.pid, worker.c.heartbeat_at).where(worker.c.id == worker_id)
    ).one_or_none()
    v = _DEATHS.table(dialect)
    values: dict[str, Any] = {
        "job_id": v.c.job_id,
        "claim_id": v.c.claim_id,
        "worker_id": sa.literal(worker_id),
        "host": sa.literal(told.host if told is not None else None, sa.Text),
        "pid": sa.literal(told.pid if told is not None else None, sa.Integer),
        "heartbeat_at": sa.literal(told.heartbeat_at if told is not None else None, death.c.heartbeat_at.type),
        "found_at": db_now(),
        "in_flight": sa.literal(len(held)),
        "open_target": v.c.open_target,
    }
    records = [(row.id, row.claim_id, open_targets.get(row.id)) for row in held]
    conn.execute(
        death.insert().from_select(list(values), sa.select(*values.values())), _DEATHS.params(dialect, records)
    )


def of_jobs(conn: sa.Connection, job_ids: Sequence[str]) -> dict[str, list[Death]]:
    """Deaths by job, oldest first."""
    found: dict[str, list[Death]] = {job_id: [] for job_id in job_ids}
    for row in conn.execute(sa.select(death).where(death.c.job_id.in_(job_ids)).order_by(death.c.found_at)):
        found[row.job_id].append(
            Death(row.worker_id, row.host, row.pid, row.heartbeat_at, row.found_at, row.in_flight, row.open_target)
        )
    return found
