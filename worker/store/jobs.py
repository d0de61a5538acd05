"""Every move of a job but its claim: one function each, a guarded UPDATE whose row count decides.

Nothing else but `claims` assigns a status.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.answer import Failure
from worker.domain.failure import RETRYABLE, FailureKind
from worker.domain.job import STARTS_MAX, Ending, NewJob, Return, format_of
from worker.domain.money import NO_USAGE, Usage
from worker.domain.state import AttemptState, JobStatus
from worker.store import budgets, deaths, tallies
from worker.store.claims import going_on, of_none, unseen
from worker.store.database import Unavailable
from worker.store.moment import Moment, begun, db_now, later
from worker.store.rows import Rows
from worker.store.tables import attempt, death, job, job_input, job_result, subscription
from worker.store.text import clean, dumps
from worker.store.usage import unknown_cost

_S = JobStatus
_HELD = (_S.IN_PROGRESS, _S.CANCELLING)
# Written out, so that the planner sees the condition of the index of open lines.
_OPEN: Final[list[sa.ColumnElement[str]]] = [
    sa.literal_column(f"'{status.value}'") for status in (_S.QUEUED, _S.IN_PROGRESS, _S.CANCELLING)
]
EXPIRED: Final = "its deadline passed before it could be finished"


# -- in ----------------------------------------------------------------------------------------------------------

_NEW = Rows(
    id=sa.Text,
    project_id=sa.Text,
    kind=sa.Text,
    lane=sa.Text,
    priority=sa.Integer,
    models=sa.Text,
    deadline_s=sa.Float,
    max_attempts=sa.Integer,
    on_interruption=sa.Text,
    batch_id=sa.Text,
    retry_of=sa.Text,
    max_cost_nano=sa.BigInteger,
    key_id=sa.Text,
    notify=sa.Integer,
    format=sa.Integer,
)
_INPUT = Rows(job_id=sa.Text, body=sa.Text, metadata=sa.Text)
_MANY: Final = 50  # from so many on, Postgres takes the inputs by COPY: quoting them all in an array costs more


def insert(conn: sa.Connection, jobs: Sequence[NewJob]) -> None:
    """Store new jobs, queued and due now."""
    dialect = conn.dialect.name
    params = _NEW.params(
        dialect,
        [
            (
                j.id,
                j.project_id,
                j.kind,
                j.lane.value,
                j.priority,
                dumps(list(j.models)),
                j.deadline_s,
                j.max_attempts,
                j.on_interruption,
                j.batch_id,
                j.retry_of,
                j.max_cost_nano,
                j.key_id,
                j.notify,
                format_of(j.kind),
            )
            for j in jobs
        ],
    )
    conn.execute(_insert(dialect), params)
    insert_inputs(conn, jobs)


def insert_inputs(conn: sa.Connection, jobs: Sequence[NewJob]) -> None:
    """What these jobs ask. `insert` does it; by itself it is for jobs whose rows come with their end."""
    dialect = conn.dialect.name
    inputs = [
        (j.id, dumps({"input": j.input, "output_schema": j.output_schema}), dumps(dict(j.metadata))) for j in jobs
    ]
    if dialect == "postgresql" and len(inputs) >= _MANY:
        _copy(conn, inputs)
    else:
        conn.execute(_insert_inputs(dialect), _INPUT.params(dialect, inputs))


def _copy(conn: sa.Connection, inputs: Sequence[tuple[str, str, str]]) -> None:
    driver: Any = conn.connection.driver_connection
    away = conn.dialect.loaded_dbapi.OperationalError  # here nobody else translates it
    try:
        with driver.cursor() as cursor, cursor.copy("COPY job_input (job_id, body, metadata) FROM STDIN") as into:
            for row in inputs:
                into.write_row(row)
    except away as exc:
        raise Unavailable(f"the database is away ({type(exc).__name__})") from exc


@cache
def _insert_inputs(dialect: str) -> sa.Insert:
    v = _INPUT.table(dialect)
    return job_input.insert().from_select(["job_id", "body", "metadata"], sa.select(v.c.job_id, v.c.body, v.c.metadata))


@cache
def _insert(dialect: str) -> sa.Insert:
    v = _NEW.table(dialect)
    now = db_now()
    into_job = {
        "id": v.c.id,
        "project_id": v.c.project_id,
        "kind": v.c.kind,
        "lane": v.c.lane,
        "status": sa.literal(_S.QUEUED.value),
        "version": sa.literal(1),
        "priority": v.c.priority,
        "models": v.c.models,
        "created_at": now,
        "queued_at": now,
        "run_at": now,
        "deadline_at": later(v.c.deadline_s),
        "attempts": sa.literal(0),
        "rows": sa.literal(0),
        "losses": sa.literal(0),
        "max_attempts": v.c.max_attempts,
        "on_interruption": v.c.on_interruption,
        "cost_complete": sa.true(),
        "batch_id": v.c.batch_id,
        "retry_of": v.c.retry_of,
        "max_cost_nano": v.c.max_cost_nano,
        "key_id": v.c.key_id,
        "notify": v.c.notify,
        "format": v.c.format,
    }
    return job.insert().from_select(list(into_job), sa.select(*into_job.values()))


_IDS = Rows(id=sa.Text)


# -- in_progress -> anything -------------------------------------------------------------------------------------


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
_RESULT = Rows(job_id=sa.Text, body=sa.Text, error=sa.Text)


def settle(conn: sa.Connection, moves: Sequence[Settle]) -> set[str]:
    """Move claimed jobs on. Returns the ids that moved; one that is missing had lost its claim and was left alone.

    A job that is `cancelling` ends as `cancelled` whatever was asked for: what its calls came to is kept, an answer or
    an error is not.
    """
    dialect = conn.dialect.name
    params = _SETTLE.params(dialect, [_settle_row(m) for m in moves])
    rows = conn.execute(_settle(dialect), params).all()
    moved = {row.id: row.status for row in rows}
    tallies.add(conn, rows)
    results = [
        (
            m.job_id,
            m.to.result,
            _error_json(m.to.error, m.to.provider),
        )
        for m in moves
        if isinstance(m.to, Ending)
        and moved.get(m.job_id) == m.to.status.value
        and (m.to.result is not None or m.to.error is not None)
    ]
    if results:
        conn.execute(_results(dialect), _RESULT.params(dialect, results))
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
    conn.execute(job_result.insert().values(job_id=move.job_id, body=move.to.result, error=None))
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


def _error_json(error: Failure | None, provider: str | None = None) -> str | None:
    if error is None:
        return None
    return dumps(
        {
            "kind": error.kind.value,
            "code": clean(error.code, 100),
            "message": clean(error.message),
            "provider": provider,
            "retryable": error.kind in RETRYABLE,
        }
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
            unseen(job.c.claim_id == v.c.claim_id, job.c.status.in_([s.value for s in _HELD])),
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
def _results(dialect: str) -> sa.Insert:
    v = _RESULT.table(dialect)
    return job_result.insert().from_select(["job_id", "body", "error"], sa.select(v.c.job_id, v.c.body, v.c.error))


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


_FENCE = Rows(id=sa.Text, claim_id=sa.Text)


def still_ours(conn: sa.Connection, claims: Sequence[tuple[str, str]]) -> set[str]:
    """Of (job id, claim id) pairs, the jobs that may still make calls: the claim holds and nobody asked to stop.

    That stays so until the transaction ends: a cancel or a take-back waits, and then finds what was marked.
    """
    dialect = conn.dialect.name
    return set(conn.execute(_still_ours(dialect), _FENCE.params(dialect, claims)).scalars())


@cache
def _still_ours(dialect: str) -> sa.Select[Any]:
    v = _FENCE.table(dialect)
    return (
        sa.select(job.c.id)
        .where(
            job.c.id == v.c.id,
            unseen(job.c.claim_id == v.c.claim_id, job.c.status == _S.IN_PROGRESS.value, going_on(dialect)),
        )
        .with_for_update(read=True, of=job)
    )


def disown(conn: sa.Connection, worker_id: str, claims: Sequence[str]) -> int:
    """Put back what these claims hold, which their worker does not know of. Returns how many jobs."""
    stopping = job.c.status == _S.CANCELLING.value
    moved = conn.execute(
        job.update()
        .where(
            job.c.worker_id == worker_id, job.c.status.in_([s.value for s in _HELD]), job.c.claim_id.in_(list(claims))
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


# -- by people ---------------------------------------------------------------------------------------------------


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


# -- by the sweep ------------------------------------------------------------------------------------------------


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
    mine = sa.and_(job.c.worker_id == worker_id, job.c.status.in_([s.value for s in _HELD]))
    # Locked first: a worker that is only slow may end its job now, and sums made before must not replace its own.
    held = conn.execute(
        sa.select(job.c.id, job.c.claim_id, job.c.deaths).where(mine).order_by(job.c.id).with_for_update()
    ).all()
    if not held:
        return TakenBack(0, 0, 0)
    params = _IDS.params(conn.dialect.name, [(row.id,) for row in held])
    chosen = sa.select(_IDS.table(conn.dialect.name).c.id)
    open_calls = conn.execute(
        attempt.update()
        .where(attempt.c.job_id.in_(chosen), attempt.c.state == AttemptState.SENT.value)
        .values(
            state=AttemptState.LOST.value,
            kind=FailureKind.INTERRUPTED.value,
            ended_at=db_now(),
            reason="the worker died with this call open; whether it was billed is unknown",
        )
        .returning(attempt.c.job_id, attempt.c.held_nano, attempt.c.target),
        params,
    ).all()
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


@cache
def _take_back(dialect: str) -> Any:
    chosen = sa.select(_IDS.table(dialect).c.id)
    stopping = job.c.status == _S.CANCELLING.value
    return (
        job.update()
        .where(
            job.c.id.in_(chosen),
            job.c.worker_id == sa.bindparam("worker"),
            job.c.status.in_([s.value for s in _HELD]),
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


_CONVICTED = f"its worker died {STARTS_MAX} times while it had this job, and it is not started again"
_FORBIDDEN = "its worker died with the call open, and on_interruption is `fail`"


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
    error = _error_json(Failure(kind, why))
    if ended:
        conn.execute(job_result.insert(), [{"job_id": row.id, "body": None, "error": error} for row in ended])
    return len(ended)


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
    return _end_queued(conn, late, _S.EXPIRED, Failure(FailureKind.DEADLINE, EXPIRED))


def refuse(conn: sa.Connection, job_id: str, why: str) -> None:
    """End a job as failed in the transaction that stores it: it is born so, and nobody claims it."""
    _end_queued(conn, sa.select(job.c.id).where(job.c.id == job_id), _S.FAILED, Failure(FailureKind.BAD_REQUEST, why))


def end_lines(conn: sa.Connection, batch_id: str, to: JobStatus, most: int) -> int:
    """End up to `most` queued lines of a batch, as expired or as cancelled. Returns how many."""
    chosen = (
        sa.select(job.c.id)
        .where(job.c.batch_id == batch_id, job.c.status.in_(_OPEN), job.c.status == _S.QUEUED.value)
        .order_by(job.c.id)
        .limit(most)
    )
    expired = to is _S.EXPIRED
    failure = Failure(
        FailureKind.DEADLINE if expired else FailureKind.CANCELLED, EXPIRED if expired else "its batch was cancelled"
    )
    return _end_queued(conn, chosen, to, failure)


def _end_queued(conn: sa.Connection, chosen: sa.Select[Any], to: JobStatus, why: Failure) -> int:
    if conn.dialect.name != "sqlite":  # one that is just being claimed is not ours
        chosen = chosen.with_for_update(skip_locked=True)
    once = chosen.cte("chosen")  # a subquery with a lock may be run again for each row, and then has no limit
    ended = conn.execute(
        job.update()
        .where(job.c.id.in_(sa.select(once.c.id)), job.c.status == _S.QUEUED.value)
        .values(status=to.value, version=job.c.version + 1, ended_at=db_now(), error_kind=why.kind.value)
        .returning(*tallies.ENDED)
    ).all()
    error = _error_json(why)
    if ended:
        rows = [(row.id, None, error) for row in ended]
        conn.execute(_results(conn.dialect.name), _RESULT.params(conn.dialect.name, rows))
    tallies.add(conn, ended)
    return len(ended)


_FAR: Final = datetime(9999, 1, 1, tzinfo=UTC)  # when lines of a paused batch are due


def park_lines(conn: sa.Connection, batch_id: str, most: int) -> int:
    """Put up to `most` queued lines of a batch out of the reach of any claim. Returns how many.

    One that waits for a provider loses the mark of that: the end of the provider's pause would wake it, and call.
    """
    reachable = sa.or_(job.c.run_at < sa.literal(_FAR, Moment()), job.c.parked_for.is_not(None))
    return _due_at(conn, batch_id, reachable, sa.literal(_FAR, Moment()), most)


def unpark_lines(conn: sa.Connection, batch_id: str, most: int) -> int:
    """Make up to `most` of those due again. Returns how many. What its provider still cannot take is parked anew."""
    return _due_at(conn, batch_id, job.c.run_at >= sa.literal(_FAR, Moment()), db_now(), most)


def _due_at(conn: sa.Connection, batch_id: str, which: sa.ColumnElement[bool], moment: Any, most: int) -> int:
    chosen = (
        sa.select(job.c.id)
        .where(job.c.batch_id == batch_id, job.c.status.in_(_OPEN), job.c.status == _S.QUEUED.value, which)
        .order_by(job.c.id)
        .limit(most)
    )
    if conn.dialect.name != "sqlite":
        chosen = chosen.with_for_update(skip_locked=True)
    once = chosen.cte("chosen")
    moved = job.update().where(job.c.id.in_(sa.select(once.c.id)), job.c.status == _S.QUEUED.value)
    return len(conn.execute(moved.values(run_at=moment, parked_for=None).returning(job.c.id)).all())


def stop_lines(conn: sa.Connection, batch_id: str) -> int:
    """Ask the running lines of a batch to stop, which hangs up on their calls. Returns how many."""
    return conn.execute(
        job.update()
        .where(job.c.batch_id == batch_id, job.c.status.in_(_OPEN), job.c.status == _S.IN_PROGRESS.value)
        .values(status=_S.CANCELLING.value, version=job.c.version + 1)
    ).rowcount


def any_open(conn: sa.Connection, batch_id: str) -> bool:
    """Whether a line of this batch has not ended."""
    found = sa.select(job.c.id).where(job.c.batch_id == batch_id, job.c.status.in_(_OPEN)).limit(1)
    return conn.execute(found).first() is not None


def purge(conn: sa.Connection, older_than_s: float, most: int = 500) -> int:
    """Forget prompts, answers and attempts of jobs that ended long ago; a tombstone row stays. Returns how many.

    Lines of an open batch are kept: its files are written of them when the last one has ended.
    """
    kept = sa.and_(job.c.ended_at.is_not(None), job.c.purged_at.is_(None))
    over = of_none(conn.dialect.name, "batch.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")
    old = sa.select(job.c.id).where(kept, job.c.ended_at < begun(-older_than_s), over).limit(most)
    purged = job.update().where(job.c.id.in_(old), kept).values(purged_at=db_now(), version=job.c.version + 1)
    ids = list(conn.execute(purged.returning(job.c.id)).scalars())
    if ids:
        for table in (job_input, job_result, attempt, death):
            conn.execute(table.delete().where(table.c.job_id.in_(ids)))
        conn.execute(subscription.delete().where(subscription.c.object_id.in_(ids)))
    return len(ids)
