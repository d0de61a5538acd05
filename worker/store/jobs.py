"""A job is stopped by somebody, or its time is up: a guarded UPDATE each, whose row count decides."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from worker.clock import least_id
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.state import JobStatus
from worker.store import endings, tallies
from worker.store.batch_tables import OPEN_BATCH
from worker.store.blocks import locked_block
from worker.store.claims import of_none
from worker.store.moment import begun, db_now, instant
from worker.store.tables import attempt, death, job, job_input, job_result
from worker.store.webhook_tables import subscription

_S = JobStatus
EXPIRED: Final = "its deadline passed before it could be finished"


def cancel(conn: sa.Connection, project_id: str, job_id: str) -> JobStatus | None:
    """Ask a job to stop: queued ends at once, running becomes `cancelling`. The new status, or None where unknown.

    One statement for both: a job that is given back between two would escape either.
    """
    mine = sa.and_(job.c.id == job_id, job.c.project_id == project_id)
    queued = job.c.status == _S.QUEUED.value
    stopped = conn.execute(
        job.update()
        .where(mine, job.c.status.in_([_S.QUEUED.value, _S.IN_PROGRESS.value]))
        .values(
            status=sa.case((queued, _S.CANCELLED.value), else_=_S.CANCELLING.value),
            version=job.c.version + 1,
            ended_at=sa.case((queued, db_now()), else_=sa.null()),
            error_kind=sa.case((queued, FailureKind.CANCELLED.value), else_=job.c.error_kind),
        )
        .returning(*tallies.ENDED)
    ).one_or_none()
    if stopped is not None:
        tallies.add(conn, [stopped])
        return JobStatus(stopped.status)
    status = conn.execute(sa.select(job.c.status).where(mine)).scalar_one_or_none()
    return JobStatus(status) if status is not None else None


def cancelling(conn: sa.Connection, worker_id: str) -> list[str]:
    """Jobs this worker holds and somebody asked to stop."""
    return list(
        conn.execute(
            # The status stands in the text: only then can every plan of it use ix_job_claimed.
            sa.select(job.c.id).where(
                job.c.worker_id == worker_id, job.c.status == sa.literal_column("'cancelling'", sa.Text)
            )
        ).scalars()
    )


def expire(conn: sa.Connection, most: int = 500) -> int:
    """End queued jobs whose deadline has passed. Returns how many."""
    late = (
        sa.select(job.c.id)
        .where(
            job.c.status == sa.literal_column("'queued'"),
            job.c.deadline_at.is_not(None),
            job.c.deadline_at <= begun(0.0),
        )
        .limit(most)
    )
    return end_queued(conn, late, _S.EXPIRED, Failure(FailureKind.DEADLINE, EXPIRED))


def refuse(conn: sa.Connection, job_id: str, why: str) -> None:
    """End a job as failed in the transaction that stores it: it is born so, and nobody claims it."""
    end_queued(conn, sa.select(job.c.id).where(job.c.id == job_id), _S.FAILED, Failure(FailureKind.BAD_REQUEST, why))


def end_queued(conn: sa.Connection, chosen: sa.Select[Any], to: JobStatus, why: Failure) -> int:
    """End those of the jobs that `chosen` selects which are queued and that nobody holds. Returns how many."""
    ended = conn.execute(
        job.update()
        .where(job.c.id.in_(locked_block(conn, chosen)), job.c.status == _S.QUEUED.value)
        .values(status=to.value, version=job.c.version + 1, ended_at=db_now(), error_kind=why.kind.value)
        .returning(*tallies.ENDED)
    ).all()
    error = endings.error_json(why)
    endings.add(conn, [(row.id, None, error) for row in ended])
    tallies.add(conn, ended)
    return len(ended)


def purge(conn: sa.Connection, older_than_s: float, most: int = 500) -> int:
    """Forget prompts, answers and attempts of jobs that ended long ago; a tombstone row stays. Returns how many.

    Lines of an open batch are kept: its files are written of them when the last one has ended.
    """
    kept = sa.and_(job.c.ended_at.is_not(None), job.c.purged_at.is_(None))
    over = of_none(conn.dialect.name, OPEN_BATCH)
    old = sa.select(job.c.id).where(kept, job.c.ended_at < begun(-older_than_s), over).limit(most)
    purged = job.update().where(job.c.id.in_(old), kept).values(purged_at=db_now(), version=job.c.version + 1)
    ids = list(conn.execute(purged.returning(job.c.id)).scalars())
    if ids:
        for table in (job_input, job_result, attempt, death):
            conn.execute(table.delete().where(table.c.job_id.in_(ids)))
        conn.execute(subscription.delete().where(subscription.c.object_id.in_(ids)))
    return len(ids)


def forget(conn: sa.Connection, older_than_s: float, most: int = 500) -> int:
    """Drop the tombstones of jobs that were made that long ago. Returns how many.

    Their ids are in the order of their making, so that it takes no index of its own.
    """
    since = least_id("job", instant(conn).timestamp() - older_than_s)
    first = sa.select(job.c.id).where(job.c.id < since, job.c.purged_at.is_not(None)).order_by(job.c.id).limit(most)
    ids = list(conn.execute(first).scalars())
    if ids:
        conn.execute(job.delete().where(job.c.id.in_(ids)))
    return len(ids)
