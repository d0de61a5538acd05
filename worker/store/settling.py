"""in_progress -> anything: what workers say of the jobs they hold. Every move is fenced by the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from worker.domain.failure import FailureKind
from worker.domain.job import Ending, Return
from worker.domain.money import NO_USAGE, Usage
from worker.domain.state import HELD, AttemptState, JobStatus
from worker.store import endings, tallies
from worker.store.claims import unseen
from worker.store.moment import db_now, later
from worker.store.rows import Rows
from worker.store.tables import attempt, job
from worker.store.text import clean

_S = JobStatus


@dataclass(frozen=True, slots=True)
class Settle:
    """One claim is over: an end, or the job goes back to the queue. Sums are over the calls of this claim alone."""

    job_id: str
    claim_id: str
    to: Ending | Return
    calls: int = 0
    rows: int = 0
    usage: Usage = NO_USAGE
    cost_nano: int | None = None
    cost_complete: bool = True


_SETTLE = Rows(
    id=sa.Text,
    claim_id=sa.Text,
    status=sa.Text,
    wait_s=sa.Float,
    parked_for=sa.Text,
    calls=sa.Integer,
    rows=sa.Integer,
    input_tokens=sa.BigInteger,
    output_tokens=sa.BigInteger,
    cached_tokens=sa.BigInteger,
    reasoning_tokens=sa.BigInteger,
    cost_nano=sa.BigInteger,
    cost_complete=sa.Boolean,
    served_provider=sa.Text,
    served_label=sa.Text,
    served_model=sa.Text,
    error_kind=sa.Text,
)


def settle(conn: sa.Connection, moves: Sequence[Settle]) -> set[str]:
    """Move claimed jobs on. Returns the ids that moved; one that is missing had lost its claim and was left alone.

    A job that is `cancelling` ends as `cancelled` whatever was asked for: what its calls came to is kept, an answer or
    an error is not.
    """
    dialect = conn.dialect.name
    # In the order of their ids, as others lock several: a cancel of many beside it ended in a deadlock.
    params = _SETTLE.params(dialect, [_settle_row(m) for m in sorted(moves, key=attrgetter("job_id"))])
    rows = conn.execute(_settle(dialect), params).all()
    moved = {row.id: row.status for row in rows}
    tallies.add(conn, rows)
    ends = [
        (m.job_id, m.to.result, endings.error_json(m.to.error, m.to.provider))
        for m in moves
        if isinstance(m.to, Ending)
        and moved.get(m.job_id) == m.to.status.value
        and (m.to.result is not None or m.to.error is not None)
    ]
    endings.add(conn, ends)
    return set(moved)


def adopt(conn: sa.Connection, move: Settle) -> bool:
    """End a job with a good answer whose claim has passed on, while no newer claim has a call open: it was paid for.

    True: the job is completed by it. A newer claim that marks its call at this very moment is waited for.
    """
    if not isinstance(move.to, Ending) or move.to.status is not JobStatus.COMPLETED:
        return False
    # Locked first: a statement that waited for a mark would still not see the call, which came after its snapshot.
    mine = sa.and_(job.c.id == move.job_id, job.c.status.in_([_S.QUEUED.value, _S.IN_PROGRESS.value]))
    if conn.execute(sa.select(job.c.id).where(mine).with_for_update()).first() is None:
        return False
    params = _SETTLE.params(conn.dialect.name, [_settle_row(move)])
    ended = conn.execute(_adopt(conn.dialect.name), params).first()
    if ended is None:
        return False
    tallies.add(conn, [ended])
    endings.add(conn, [(move.job_id, move.to.result, None)])
    return True


def _settle_row(m: Settle) -> tuple[Any, ...]:
    end = m.to if isinstance(m.to, Ending) else None
    served = end.served if end is not None else None
    return (
        m.job_id,
        m.claim_id,
        end.status.value if end is not None else _S.QUEUED.value,
        m.to.wait_s if isinstance(m.to, Return) else 0.0,
        m.to.parked_for if isinstance(m.to, Return) else None,
        m.calls,
        m.rows,
        m.usage.input_tokens,
        m.usage.output_tokens,
        m.usage.cached_tokens,
        m.usage.reasoning_tokens,
        m.cost_nano,
        m.cost_complete,
        served.provider if served is not None else None,
        clean(served.label) if served is not None else None,
        clean(served.model) if served is not None else None,
        end.error.kind.value if end is not None and end.error is not None else None,
    )


@cache
def _settle(dialect: str) -> Any:
    v = _SETTLE.table(dialect)
    stopping = job.c.status == _S.CANCELLING.value
    back = sa.and_(v.c.status == _S.QUEUED.value, sa.not_(stopping))
    sums = {
        name: sa.case((v.c[name].is_(None), job.c[name]), else_=sa.func.coalesce(job.c[name], 0) + v.c[name])
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_nano")
    }
    return (
        job.update()
        .where(
            job.c.id == v.c.id,
            unseen(job.c.claim_id == v.c.claim_id, job.c.status.in_([s.value for s in HELD])),
        )
        .values(
            status=sa.case((stopping, _S.CANCELLED.value), else_=v.c.status),
            version=job.c.version + 1,
            claim_id=None,
            worker_id=None,
            run_at=sa.case((back, later(v.c.wait_s)), else_=job.c.run_at),
            parked_for=v.c.parked_for,
            ended_at=sa.case((back, sa.null()), else_=db_now()),
            attempts=job.c.attempts + v.c.calls,
            rows=job.c.rows + v.c.rows,
            **sums,
            cost_complete=sa.and_(job.c.cost_complete, v.c.cost_complete),
            **{
                name: sa.case((sa.not_(stopping), v.c[name]))
                for name in ("served_provider", "served_label", "served_model")
            },
            error_kind=sa.case((stopping, FailureKind.CANCELLED.value), else_=v.c.error_kind),
        )
        .returning(*tallies.ENDED)
    )


@cache
def _adopt(dialect: str) -> Any:
    """Without the sums: those of the claim are counted anew from its calls."""
    v = _SETTLE.table(dialect)
    sent = sa.exists().where(attempt.c.job_id == job.c.id, attempt.c.state == AttemptState.SENT.value)
    newer = sa.or_(
        job.c.status == _S.QUEUED.value,
        sa.and_(job.c.status == _S.IN_PROGRESS.value, job.c.claim_id != v.c.claim_id),
    )
    return (
        job.update()
        .where(job.c.id == v.c.id, newer, sa.or_(job.c.status == _S.QUEUED.value, ~sent))
        .values(
            status=_S.COMPLETED.value,
            version=job.c.version + 1,
            claim_id=None,
            worker_id=None,
            ended_at=db_now(),
            served_provider=v.c.served_provider,
            served_label=v.c.served_label,
            served_model=v.c.served_model,
            error_kind=None,
        )
        .returning(*tallies.ENDED)
    )


def disown(conn: sa.Connection, worker_id: str, claims: Sequence[str]) -> int:
    """Put back what these claims hold, which their worker does not know of. Returns how many jobs."""
    stopping = job.c.status == _S.CANCELLING.value
    moved = conn.execute(
        job.update()
        .where(
            job.c.worker_id == worker_id, job.c.status.in_([s.value for s in HELD]), job.c.claim_id.in_(list(claims))
        )
        .values(
            status=sa.case((stopping, _S.CANCELLED.value), else_=_S.QUEUED.value),
            version=job.c.version + 1,
            claim_id=None,
            worker_id=None,
            ended_at=sa.case((stopping, db_now()), else_=sa.null()),
            error_kind=sa.case((stopping, FailureKind.CANCELLED.value), else_=job.c.error_kind),
        )
        .returning(*tallies.ENDED)
    ).all()
    tallies.add(conn, moved)
    return len(moved)
