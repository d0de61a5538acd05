"""Lines of a batch that go before all else of their project, since its window ends soon. See domain/ramp.py."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from worker.domain.failure import Lane
from worker.domain.ramp import URGENT
from worker.store.blocks import locked_block
from worker.store.moment import db_now
from worker.store.open_lines import OPEN_LINE
from worker.store.tables import job

# Written out, so that the planner sees the condition of the index.
_QUEUED = job.c.status == sa.literal_column("'queued'")


def count(conn: sa.Connection, project_id: str, batch_id: str, most: int) -> int:
    """How many lines of a batch are urgent and due, up to `most`. Off the index of the claim: only urgent ones are
    looked at.
    """
    some = (
        sa.select(sa.literal(1))
        .where(
            job.c.lane == Lane.BATCH.value,
            job.c.project_id == project_id,
            job.c.priority == URGENT,
            _QUEUED,
            job.c.run_at <= _now(conn),
            job.c.batch_id == batch_id,
        )
        .limit(most)
        .subquery()
    )
    return int(conn.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())


def hurry(conn: sa.Connection, batch_id: str, most: int) -> int:
    """Make up to `most` due lines of a batch urgent, in the order of its file. Returns how many."""
    waiting = (_QUEUED, job.c.priority < URGENT)
    chosen = (
        sa.select(job.c.id)
        .where(job.c.batch_id == batch_id, OPEN_LINE, *waiting, job.c.run_at <= _now(conn))
        .order_by(job.c.id)
        .limit(most)
    )
    moved = job.update().where(job.c.id.in_(locked_block(conn, chosen)), *waiting).values(priority=URGENT)
    return len(conn.execute(moved.returning(job.c.id)).all())


def _now(conn: sa.Connection) -> Any:
    """One value for the whole statement, so that Postgres can use it as a bound of the scan."""
    return db_now() if conn.dialect.name == "sqlite" else sa.func.now()
