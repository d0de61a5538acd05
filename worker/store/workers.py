"""Worker processes and their heartbeats: one row each, so a beat costs one row, not one per job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from worker.domain.state import HELD
from worker.store.moment import db_now, later
from worker.store.tables import job, worker
from worker.store.text import dumps


def register(conn: sa.Connection, *, worker_id: str, host: str, pid: int, lanes: Sequence[str], release: str) -> None:
    conn.execute(
        worker.insert().values(
            id=worker_id,
            host=host,
            pid=pid,
            lanes=",".join(lanes),
            release=release,
            started_at=db_now(),
            heartbeat_at=db_now(),
            report="{}",
        )
    )


def beat(conn: sa.Connection, worker_id: str, report: Mapping[str, Any]) -> bool:
    """False: this worker has been declared dead meanwhile and must not go on under this id."""
    return (
        conn.execute(
            worker.update()
            .where(worker.c.id == worker_id, worker.c.dead_at.is_(None))
            .values(heartbeat_at=db_now(), report=dumps(report))
        ).rowcount
        == 1
    )


def living(conn: sa.Connection, lease_s: float) -> int:
    """How many workers have beaten within the lease."""
    return int(conn.execute(sa.select(sa.func.count()).where(_fresh(lease_s))).scalar_one())


def bury(conn: sa.Connection, lease_s: float) -> int:
    """Declare workers dead whose heartbeat is older than the lease. Returns how many died just now."""
    return conn.execute(
        worker.update()
        .where(worker.c.dead_at.is_(None), worker.c.heartbeat_at < later(-lease_s))
        .values(dead_at=db_now())
    ).rowcount


def dead_holders(conn: sa.Connection) -> list[str]:
    """Dead workers that still hold claims: also those whose burial was itself cut short."""
    holding = sa.select(job.c.worker_id).where(job.c.status.in_([s.value for s in HELD])).distinct().subquery()
    return list(
        conn.execute(
            sa.select(holding.c.worker_id)
            .select_from(holding.outerjoin(worker, worker.c.id == holding.c.worker_id))
            .where(sa.or_(worker.c.id.is_(None), worker.c.dead_at.is_not(None)))
        ).scalars()
    )


def leave(conn: sa.Connection, worker_id: str) -> None:
    """A worker that stopped in order holds nothing any more."""
    conn.execute(worker.update().where(worker.c.id == worker_id).values(dead_at=db_now()))


def reports(conn: sa.Connection, lease_s: float) -> dict[str, dict[str, Any]]:
    """What each living worker last said of itself, by id. Where the last one was killed, nobody has buried it."""
    rows = conn.execute(sa.select(worker.c.id, worker.c.report).where(_fresh(lease_s)))
    return {row.id: json.loads(row.report) for row in rows}


@dataclass(frozen=True, slots=True)
class Seen:
    """alive  it has beaten within the lease; silent: it has not, and no worker that lives has found it dead; gone"""

    id: str
    state: Literal["alive", "silent", "gone"]
    host: str
    pid: int
    lanes: tuple[str, ...]
    release: str
    started_at: datetime
    heartbeat_at: datetime
    dead_at: datetime | None
    report: dict[str, Any]


def listed(conn: sa.Connection, lease_s: float) -> list[Seen]:
    """All that are remembered, the newest first: those that are gone for a day."""
    state = sa.case((worker.c.dead_at.is_not(None), "gone"), (_fresh(lease_s), "alive"), else_="silent").label("state")
    rows = conn.execute(sa.select(worker, state).order_by(worker.c.started_at.desc(), worker.c.id.desc()))
    return [
        Seen(
            row.id,
            row.state,
            row.host,
            row.pid,
            tuple(row.lanes.split(",")),
            row.release,
            row.started_at,
            row.heartbeat_at,
            row.dead_at,
            json.loads(row.report),
        )
        for row in rows
    ]


def _fresh(lease_s: float) -> sa.ColumnElement[bool]:
    return sa.and_(worker.c.dead_at.is_(None), worker.c.heartbeat_at >= later(-lease_s))


def forget(conn: sa.Connection, older_than_s: float) -> int:
    """Drop rows of workers that died long ago."""
    return conn.execute(worker.delete().where(worker.c.dead_at < later(-older_than_s))).rowcount
