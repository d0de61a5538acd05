"""Lines of a batch that have not ended, for whoever tends it: end them, park them, ask them to stop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.state import JobStatus
from worker.store.blocks import locked_block
from worker.store.jobs import EXPIRED, end_queued
from worker.store.moment import Moment, db_now
from worker.store.tables import job

_S = JobStatus
# Written out, so that the planner sees the condition of the index of open lines.
OPEN_LINE: Final = job.c.status.in_(
    [sa.literal_column(f"'{status.value}'") for status in (_S.QUEUED, _S.IN_PROGRESS, _S.CANCELLING)]
)
_FAR: Final = datetime(9999, 1, 1, tzinfo=UTC)  # when lines of a paused batch are due


def end(conn: sa.Connection, batch_id: str, to: JobStatus, most: int) -> int:
    """End up to `most` queued lines of a batch, as expired or as cancelled. Returns how many."""
    chosen = (
        sa.select(job.c.id)
        .where(job.c.batch_id == batch_id, OPEN_LINE, job.c.status == _S.QUEUED.value)
        .order_by(job.c.id)
        .limit(most)
    )
    expired = to is _S.EXPIRED
    failure = Failure(
        FailureKind.DEADLINE if expired else FailureKind.CANCELLED, EXPIRED if expired else "its batch was cancelled"
    )
    return end_queued(conn, chosen, to, failure)


def park(conn: sa.Connection, batch_id: str, most: int) -> int:
    """Put up to `most` queued lines of a batch out of the reach of any claim. Returns how many.

    One that waits for a provider loses the mark of that: the end of the provider's pause would wake it, and call.
    """
    reachable = sa.or_(job.c.run_at < sa.literal(_FAR, Moment()), job.c.parked_for.is_not(None))
    return _due_at(conn, batch_id, reachable, sa.literal(_FAR, Moment()), most)


def unpark(conn: sa.Connection, batch_id: str, most: int) -> int:
    """Make up to `most` of those due again. Returns how many. What its provider still cannot take is parked anew."""
    return _due_at(conn, batch_id, job.c.run_at >= sa.literal(_FAR, Moment()), db_now(), most)


def _due_at(conn: sa.Connection, batch_id: str, which: sa.ColumnElement[bool], moment: Any, most: int) -> int:
    chosen = (
        sa.select(job.c.id)
        .where(job.c.batch_id == batch_id, OPEN_LINE, job.c.status == _S.QUEUED.value, which)
        .order_by(job.c.id)
        .limit(most)
    )
    moved = job.update().where(job.c.id.in_(locked_block(conn, chosen)), job.c.status == _S.QUEUED.value)
    return len(conn.execute(moved.values(run_at=moment, parked_for=None).returning(job.c.id)).all())


def stop(conn: sa.Connection, batch_id: str) -> int:
    """Ask the running lines of a batch to stop, which hangs up on their calls. Returns how many."""
    return conn.execute(
        job.update()
        .where(job.c.batch_id == batch_id, OPEN_LINE, job.c.status == _S.IN_PROGRESS.value)
        .values(status=_S.CANCELLING.value, version=job.c.version + 1)
    ).rowcount


def any_left(conn: sa.Connection, batch_id: str) -> bool:
    """Whether a line of this batch has not ended."""
    found = sa.select(job.c.id).where(job.c.batch_id == batch_id, OPEN_LINE).limit(1)
    return conn.execute(found).first() is not None
