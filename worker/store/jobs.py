"""Every move of a job, one function each: a guarded UPDATE whose row count decides. Nothing else assigns a status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa

from worker.domain.answer import Failure
from worker.domain.failure import RETRYABLE, FailureKind, Lane
from worker.domain.fairness import shares
from worker.domain.job import FORMAT, STARTS_MAX, Claimed, Ending, NewJob, Return, format_of
from worker.domain.money import NO_USAGE, Usage
from worker.domain.state import AttemptState, JobStatus
from worker.store import budgets
from worker.store.moment import db_now, later, seconds_until
from worker.store.rows import Rows
from worker.store.tables import api_key, attempt, job, job_input, job_result
from worker.store.text import clean, dumps

_S = JobStatus
_HELD = (_S.IN_PROGRESS, _S.CANCELLING)


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
    body=sa.Text,
    metadata=sa.Text,
    format=sa.Integer,
)


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
                dumps({"input": j.input, "output_schema": j.output_schema}),
                dumps(dict(j.metadata)),
                format_of(j.kind),
            )
            for j in jobs
        ],
    )
    for statement in _insert(dialect):
        conn.execute(statement, params)


@cache
def _insert(dialect: str) -> tuple[sa.Insert, sa.Insert]:
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
        "format": v.c.format,
    }
    return (
        job.insert().from_select(list(into_job), sa.select(*into_job.values())),
        job_input.insert().from_select(["job_id", "body", "metadata"], sa.select(v.c.id, v.c.body, v.c.metadata)),
    )


# -- queued -> in_progress ---------------------------------------------------------------------------------------

_IDS = Rows(id=sa.Text)
_GROUPS = Rows(project_id=sa.Text, priority=sa.Integer, quota=sa.Integer)


def claim(conn: sa.Connection, ids: Sequence[str], *, worker_id: str, claim_id: str) -> list[Claimed]:
    """Take these jobs if they are still queued and due. A row that does not come back is not ours."""
    dialect = conn.dialect.name
    params = _IDS.params(dialect, [(i,) for i in ids]) | {"worker": worker_id, "claim": claim_id, "known": FORMAT}
    return [_claimed(row, claim_id) for row in conn.execute(_claim(dialect), params)]


def claim_block(
    conn: sa.Connection, lane: Lane, room: int, *, worker_id: str, claim_id: str, max_projects: int = 100
) -> list[Claimed]:
    """Take up to `room` due jobs of a lane: fair between projects, priority and then age within each.

    First the projects and priorities that have work are read off the index, then rows are locked in those: the
    backlog is never ranked as a whole.
    """
    taken = _chosen(conn, lane, room, max_projects)
    return claim(conn, taken, worker_id=worker_id, claim_id=claim_id) if taken else []


def claimable(conn: sa.Connection, lane: Lane) -> bool:
    """Whether a claim of this lane would find anything now. Locks what it finds until the transaction ends."""
    return bool(_chosen(conn, lane, 1, 100))


def _chosen(conn: sa.Connection, lane: Lane, room: int, max_projects: int) -> list[str]:
    groups = [(r.project_id, r.priority) for r in conn.execute(_groups(), {"lane": lane.value, "most": max_projects})]
    taken: list[str] = []
    spent: dict[str, int] = {}
    for share in shares(groups, room):
        quota = min(share.quota - spent.get(share.project_id, 0), room - len(taken))
        if quota <= 0:
            continue
        found = conn.execute(
            _due(conn.dialect.name),
            {
                "lane": lane.value,
                "project": share.project_id,
                "priority": share.priority,
                "quota": quota,
                "known": FORMAT,
            },
        ).scalars()
        before = len(taken)
        taken.extend(found)
        spent[share.project_id] = spent.get(share.project_id, 0) + len(taken) - before
    return taken


@cache
def _groups() -> sa.Select[Any]:
    """The distinct (project, priority) of queued rows, one index probe each (a loose index scan)."""
    queued = sa.and_(job.c.lane == sa.bindparam("lane"), job.c.status == sa.literal_column("'queued'"))
    order = (job.c.project_id, job.c.priority)
    first = sa.select(*order).where(queued).order_by(*order).limit(1).subquery("first")
    walk = sa.select(first.c.project_id, first.c.priority, sa.literal(1).label("n")).cte("walk", recursive=True)
    beyond = sa.tuple_(job.c.project_id, job.c.priority) > sa.tuple_(walk.c.project_id, walk.c.priority)
    probe = [sa.select(c).where(queued, beyond).order_by(*order).limit(1).scalar_subquery() for c in order]
    more = sa.and_(walk.c.project_id.is_not(None), walk.c.n < sa.bindparam("most"))
    walk = walk.union_all(sa.select(*probe, walk.c.n + 1).where(more))
    return sa.select(walk.c.project_id, walk.c.priority).where(walk.c.project_id.is_not(None))


@cache
def _due(dialect: str) -> sa.Select[Any]:
    statement = (
        sa.select(job.c.id)
        .where(
            job.c.lane == sa.bindparam("lane"),
            job.c.project_id == sa.bindparam("project"),
            job.c.priority == sa.bindparam("priority"),
            job.c.status == sa.literal_column("'queued'"),
            # now() is one value for the whole statement, so Postgres can use it as a bound of the index scan.
            job.c.run_at <= (db_now() if dialect == "sqlite" else sa.func.now()),
            job.c.format <= sa.bindparam("known"),
        )
        .order_by(job.c.run_at, job.c.id)
        .limit(sa.bindparam("quota"))
    )
    return statement if dialect == "sqlite" else statement.with_for_update(skip_locked=True)


@cache
def _claim(dialect: str) -> Any:
    v = _IDS.table(dialect)
    body = sa.select(job_input.c.body).where(job_input.c.job_id == job.c.id).scalar_subquery()
    budgeted = sa.select(api_key.c.id).where(api_key.c.id == job.c.key_id, api_key.c.budget_nano.is_not(None))
    return (
        job.update()
        .where(
            job.c.id.in_(sa.select(v.c.id)),
            job.c.status == _S.QUEUED.value,
            job.c.run_at <= db_now(),
            job.c.format <= sa.bindparam("known"),
        )
        .values(
            status=_S.IN_PROGRESS.value,
            version=job.c.version + 1,
            claim_id=sa.bindparam("claim"),
            worker_id=sa.bindparam("worker"),
            started_at=sa.func.coalesce(job.c.started_at, db_now()),
        )
        .returning(
            job.c.id,
            job.c.project_id,
            job.c.kind,
            job.c.lane,
            job.c.models,
            job.c.attempts,
            job.c.rows,
            job.c.losses,
            job.c.max_attempts,
            job.c.on_interruption,
            job.c.max_cost_nano,
            budgeted.scalar_subquery().label("budget_key"),
            seconds_until(job.c.deadline_at).label("remaining_s"),
            body.label("body"),
        )
    )


def _claimed(row: Any, claim_id: str) -> Claimed:
    return Claimed(
        id=row.id,
        claim_id=claim_id,
        project_id=row.project_id,
        kind=row.kind,
        lane=Lane(row.lane),
        models=row.models,
        body=row.body,
        attempts=row.attempts,
        losses=row.losses,
        max_attempts=row.max_attempts,
        on_interruption=row.on_interruption,
        remaining_s=row.remaining_s,
        rows=row.rows,
        max_cost_nano=row.max_cost_nano,
        budget_key=row.budget_key,
    )


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
    moved = {row.id: row.status for row in conn.execute(_settle(dialect), params)}
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
        .where(job.c.id == v.c.id, job.c.claim_id == v.c.claim_id, job.c.status.in_([s.value for s in _HELD]))
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
        .returning(job.c.id, job.c.status)
    )


@cache
def _results(dialect: str) -> sa.Insert:
    v = _RESULT.table(dialect)
    return job_result.insert().from_select(["job_id", "body", "error"], sa.select(v.c.job_id, v.c.body, v.c.error))


_FENCE = Rows(id=sa.Text, claim_id=sa.Text)


def still_ours(conn: sa.Connection, claims: Sequence[tuple[str, str]]) -> set[str]:
    """Of (job id, claim id) pairs, the jobs that may still make calls: the claim holds and nobody asked to stop."""
    dialect = conn.dialect.name
    return set(conn.execute(_still_ours(dialect), _FENCE.params(dialect, claims)).scalars())


@cache
def _still_ours(dialect: str) -> sa.Select[Any]:
    v = _FENCE.table(dialect)
    return sa.select(job.c.id).where(
        job.c.id == v.c.id, job.c.claim_id == v.c.claim_id, job.c.status == _S.IN_PROGRESS.value
    )


# -- by people ---------------------------------------------------------------------------------------------------


def cancel(conn: sa.Connection, project_id: str, job_id: str) -> JobStatus | None:
    """Ask a job to stop: queued ends at once, running becomes `cancelling`. The new status, or None where unknown.

    One statement for both: a job that is given back between two would escape either.
    """
    mine = sa.and_(job.c.id == job_id, job.c.project_id == project_id)
    queued = job.c.status == _S.QUEUED.value
    status = conn.execute(
        job.update()
        .where(mine, job.c.status.in_([_S.QUEUED.value, _S.IN_PROGRESS.value]))
        .values(
            status=sa.case((queued, _S.CANCELLED.value), else_=_S.CANCELLING.value),
            version=job.c.version + 1,
            ended_at=sa.case((queued, db_now()), else_=sa.null()),
            error_kind=sa.case((queued, FailureKind.CANCELLED.value), else_=job.c.error_kind),
        )
        .returning(job.c.status)
    ).scalar_one_or_none()
    if status is None:
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

    A job whose open call may not be repeated (`on_interruption: fail`), or whose workers died STARTS_MAX times with a
    call of it open, ends as failed.
    """
    held = conn.execute(
        sa.select(job.c.id, job.c.claim_id).where(
            job.c.worker_id == worker_id, job.c.status.in_([s.value for s in _HELD])
        )
    ).all()
    if not held:
        return TakenBack(0, 0, 0)
    ids = [row.id for row in held]
    params = _IDS.params(conn.dialect.name, [(i,) for i in ids])
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
        .returning(attempt.c.job_id, attempt.c.held_nano),
        params,
    ).all()
    lost = {row.job_id for row in open_calls}
    called = conn.execute(sa.select(attempt.c.job_id).distinct().where(attempt.c.job_id.in_(chosen)), params).scalars()
    for job_id in called.all():  # calls closed within the dead claim are on record but not yet in the sums
        _recount(conn, job_id)
    moved = conn.execute(_take_back(conn.dialect.name), params | {"worker": worker_id}).all()
    if lost:
        _give_up_lost(conn, [job_id for job_id in ids if job_id in lost])
    failed = conn.execute(
        sa.select(sa.func.count()).where(job.c.id.in_(chosen), job.c.status == _S.FAILED.value), params
    ).scalar_one()
    budgets.charge_lost(conn, [(row.job_id, row.held_nano) for row in open_calls if row.held_nano is not None])
    cancelled = sum(1 for row in moved if row.status == _S.CANCELLED.value)
    return TakenBack(len(moved) - cancelled - failed, cancelled, failed)


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
        )
        .returning(job.c.id, job.c.status)
    )


def _recount(conn: sa.Connection, job_id: str) -> None:
    """Sum a job's attempts anew: after a crash the running sums of the dead claim are gone."""
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
            cost_complete=sa.and_(job.c.cost_complete, sa.literal(sums.lost == 0)),
        )
    )


def _give_up_lost(conn: sa.Connection, ids: Sequence[str]) -> None:
    ended = conn.execute(
        job.update()
        .where(
            job.c.id.in_(ids),
            job.c.status == _S.QUEUED.value,
            sa.or_(job.c.on_interruption == "fail", job.c.losses >= STARTS_MAX),
        )
        .values(
            status=_S.FAILED.value,
            version=job.c.version + 1,
            ended_at=db_now(),
            error_kind=FailureKind.INTERRUPTED.value,
        )
        .returning(job.c.id, job.c.losses, job.c.on_interruption)
    ).all()
    for row in ended:
        why = (
            "its worker died with the call open, and on_interruption is `fail`"
            if row.on_interruption == "fail"
            else f"its worker died {row.losses} times with a call of this job open"
        )
        conn.execute(
            job_result.insert().values(
                job_id=row.id, body=None, error=_error_json(Failure(FailureKind.INTERRUPTED, why))
            )
        )


def expire(conn: sa.Connection, most: int = 500) -> int:
    """End queued jobs whose deadline has passed. Returns how many."""
    late = (
        sa.select(job.c.id)
        .where(
            job.c.status == sa.literal_column("'queued'"), job.c.deadline_at.is_not(None), job.c.deadline_at <= db_now()
        )
        .limit(most)
    )
    if conn.dialect.name == "postgresql":  # one that is just being claimed ends where it runs
        late = late.with_for_update(skip_locked=True)
    ids = list(
        conn.execute(
            job.update()
            .where(job.c.id.in_(late), job.c.status == _S.QUEUED.value)
            .values(
                status=_S.EXPIRED.value,
                version=job.c.version + 1,
                ended_at=db_now(),
                error_kind=FailureKind.DEADLINE.value,
            )
            .returning(job.c.id)
        ).scalars()
    )
    error = _error_json(Failure(FailureKind.DEADLINE, "its deadline passed before it could be finished"))
    if ids:
        conn.execute(job_result.insert(), [{"job_id": i, "body": None, "error": error} for i in ids])
    return len(ids)


def purge(conn: sa.Connection, older_than_s: float, most: int = 500) -> int:
    """Forget prompts, answers and attempts of jobs that ended long ago; a tombstone row stays. Returns how many."""
    old = sa.select(job.c.id).where(
        job.c.ended_at.is_not(None), job.c.purged_at.is_(None), job.c.ended_at < later(-older_than_s)
    )
    ids = list(conn.execute(old.limit(most)).scalars())
    if ids:
        for table in (job_input, job_result, attempt):
            conn.execute(table.delete().where(table.c.job_id.in_(ids)))
        conn.execute(job.update().where(job.c.id.in_(ids)).values(purged_at=db_now(), version=job.c.version + 1))
    return len(ids)
