"""Jobs whose worker died: back into the queue, or given up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.job import STARTS_MAX
from worker.domain.state import HELD, AttemptState, JobStatus
from worker.store import budgets, deaths, endings, tallies
from worker.store.moment import db_now
from worker.store.rows import Rows
from worker.store.tables import attempt, job
from worker.store.usage import unknown_cost

_S = JobStatus
_IDS = Rows(id=sa.Text)
_CONVICTED = f"its worker died {STARTS_MAX} times while it had this job, and it is not started again"
_FORBIDDEN = "its worker died with the call open, and on_interruption is `fail`"


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Of one dead worker: back in the queue, ended as cancelled, ended as failed."""

    queued: int
    cancelled: int
    failed: int


def take_back(conn: sa.Connection, worker_id: str) -> TakenBack:
    """Free the claims of a dead worker. Its open calls become `lost`: whether they were billed is unknown, so budgets
    are charged what was held for them.

    Each claim's end is put on record as a death of that job. A job whose open call may not be repeated
    (`on_interruption: fail`), or whose workers died STARTS_MAX times while they had it, ends as failed.
    """
    mine = sa.and_(job.c.worker_id == worker_id, job.c.status.in_([s.value for s in HELD]))
    # Locked first: a worker that is only slow may end its job now, and sums made before must not replace its own.
    held = conn.execute(
        sa.select(job.c.id, job.c.claim_id, job.c.deaths).where(mine).order_by(job.c.id).with_for_update()
    ).all()
    if not held:
        return TakenBack(0, 0, 0)
    params = _IDS.params(conn.dialect.name, [(row.id,) for row in held])
    chosen = sa.select(_IDS.table(conn.dialect.name).c.id)
    why = "the worker died with this call open; whether it was billed is unknown"
    open_calls = conn.execute(_lose(attempt.c.job_id.in_(chosen), FailureKind.INTERRUPTED, why), params).all()
    lost = {row.job_id: row.target for row in open_calls}
    called = conn.execute(sa.select(attempt.c.job_id).distinct().where(attempt.c.job_id.in_(chosen)), params).scalars()
    for job_id in called.all():  # calls closed within the dead claim are on record but not yet in the sums
        recount(conn, job_id)
    deaths.add(conn, worker_id, held, lost)
    guilty = {row.id for row in held if row.deaths + 1 >= STARTS_MAX}
    failed = _give_up(conn, guilty, FailureKind.POISON, job.c.deaths + 1 >= STARTS_MAX, _CONVICTED)
    failed += _give_up(conn, lost.keys() - guilty, FailureKind.INTERRUPTED, job.c.on_interruption == "fail", _FORBIDDEN)
    moved = conn.execute(_take_back(conn.dialect.name), params | {"worker": worker_id}).all()
    tallies.add(conn, moved)
    budgets.charge_lost(conn, [(row.job_id, row.held_nano) for row in open_calls if row.held_nano is not None])
    cancelled = sum(1 for row in moved if row.status == _S.CANCELLED.value)
    return TakenBack(len(moved) - cancelled, cancelled, failed)


def forget(conn: sa.Connection, job_id: str, claim_id: str) -> int:
    """Of a claim that a fault of ours has ended: its open calls become `lost`, for nobody is left who could say what
    became of them, and the job's sums are made anew. What was held for them, in nano-dollars.
    """
    mine = sa.and_(attempt.c.job_id == job_id, attempt.c.claim_id == claim_id)
    why = "a fault of the worker ended the job with this call open; whether it was billed is unknown"
    lost = conn.execute(_lose(mine, FailureKind.INTERNAL, why)).all()
    recount(conn, job_id)
    return sum(row.held_nano for row in lost if row.held_nano is not None)


def _lose(which: sa.ColumnElement[bool], kind: FailureKind, why: str) -> Any:
    return (
        attempt.update()
        .where(which, attempt.c.state == AttemptState.SENT.value)
        .values(state=AttemptState.LOST.value, kind=kind.value, ended_at=db_now(), reason=why)
        .returning(attempt.c.job_id, attempt.c.held_nano, attempt.c.target)
    )


@cache
def _take_back(dialect: str) -> Any:
    chosen = sa.select(_IDS.table(dialect).c.id)
    stopping = job.c.status == _S.CANCELLING.value
    return (
        job.update()
        .where(
            job.c.id.in_(chosen),
            job.c.worker_id == sa.bindparam("worker"),
            job.c.status.in_([s.value for s in HELD]),
        )
        .values(
            status=sa.case((stopping, _S.CANCELLED.value), else_=_S.QUEUED.value),
            version=job.c.version + 1,
            claim_id=None,
            worker_id=None,
            run_at=db_now(),
            parked_for=None,
            ended_at=sa.case((stopping, db_now()), else_=sa.null()),
            error_kind=sa.case((stopping, FailureKind.CANCELLED.value), else_=job.c.error_kind),
            deaths=job.c.deaths + 1,
        )
        .returning(*tallies.ENDED)
    )


def recount(conn: sa.Connection, job_id: str, *, cost_complete: bool | None = None) -> None:
    """Sum a job's attempts anew: after a crash the running sums of the dead claim are gone.

    cost_complete  whether the whole cost is known; None: as before, unless a call was lost
    """
    calls = attempt.c.state != AttemptState.SKIPPED.value
    sums = conn.execute(
        sa.select(
            sa.func.count().label("rows"),
            sa.func.coalesce(sa.func.sum(sa.case((calls, 1), else_=0)), 0).label("attempts"),
            *(
                sa.func.sum(attempt.c[name]).label(name)
                for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nano")
            ),
            # Claims, not calls: of a hedged job one death loses two.
            sa.func.count(sa.distinct(sa.case((attempt.c.state == AttemptState.LOST.value, attempt.c.claim_id)))).label(
                "lost"
            ),
            sa.func.count(sa.case((unknown_cost, 1))).label("unknown_cost"),
        ).where(attempt.c.job_id == job_id)
    ).one()
    conn.execute(
        job.update()
        .where(job.c.id == job_id)
        .values(
            rows=sums.rows,
            attempts=sums.attempts,
            input_tokens=sums.input_tokens,
            output_tokens=sums.output_tokens,
            cached_tokens=sums.cached_tokens,
            reasoning_tokens=sums.reasoning_tokens,
            cost_nano=sums.cost_nano,
            losses=sums.lost,
            cost_complete=sa.and_(job.c.cost_complete, sa.literal(sums.unknown_cost == 0))
            if cost_complete is None
            else cost_complete,
        )
    )


def _give_up(
    conn: sa.Connection, ids: Collection[str], kind: FailureKind, where: sa.ColumnElement[bool], why: str
) -> int:
    """End those of these jobs of a dead worker that must not be asked again. How many."""
    if not ids:
        return 0
    ended = conn.execute(
        job.update()
        .where(job.c.id.in_(ids), job.c.status == _S.IN_PROGRESS.value, where)
        .values(
            status=_S.FAILED.value,
            version=job.c.version + 1,
            claim_id=None,
            worker_id=None,
            ended_at=db_now(),
            deaths=job.c.deaths + 1,
            error_kind=kind.value,
        )
        .returning(*tallies.ENDED)
    ).all()
    tallies.add(conn, ended)
    error = endings.error_json(Failure(kind, why))
    endings.add(conn, [(row.id, None, error) for row in ended])
    return len(ended)
