"""Attempt rows: one per upstream call, one per target passed over. Calls in SQL = calls the provider saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from worker.domain.failure import FailureKind
from worker.domain.job import AttemptRow
from worker.domain.money import Usage
from worker.domain.state import AttemptState
from worker.store.claims import may_call
from worker.store.moment import db_now
from worker.store.rows import Rows
from worker.store.tables import attempt, job
from worker.store.text import clean, dumps

_BEGUN = Rows(
    id=sa.Text,
    job_id=sa.Text,
    claim_id=sa.Text,
    number=sa.Integer,
    state=sa.Text,
    target=sa.Text,
    provider=sa.Text,
    model=sa.Text,
    key_name=sa.Text,
    kind=sa.Text,
    reason=sa.Text,
    held_nano=sa.BigInteger,
    member=sa.Text,
)
_CLOSED = Rows(
    job_id=sa.Text,
    id=sa.Text,
    state=sa.Text,
    kind=sa.Text,
    http_status=sa.Integer,
    returned_model=sa.Text,
    first_byte_s=sa.Float,
    total_s=sa.Float,
    retry_after_s=sa.Float,
    reason=sa.Text,
    input_tokens=sa.BigInteger,
    output_tokens=sa.BigInteger,
    cached_tokens=sa.BigInteger,
    reasoning_tokens=sa.BigInteger,
    cost_nano=sa.BigInteger,
    provider_request_id=sa.Text,
    answer=sa.Text,
)


def begin(conn: sa.Connection, rows: Sequence[AttemptRow]) -> None:
    """Store calls about to be sent (`sent`) and targets passed over (`skipped`)."""
    if rows:
        dialect = conn.dialect.name
        conn.execute(_begin(dialect), _BEGUN.params(dialect, [_begun(r) for r in rows]))


def mark(conn: sa.Connection, rows: Sequence[AttemptRow]) -> set[str]:
    """Store calls about to be sent, of the jobs that may still make any: by their ids. See `claims.still_ours`.

    One statement, for each job waits for it before its call leaves.
    """
    dialect = conn.dialect.name
    ordered = sorted(rows, key=attrgetter("job_id"))  # as others lock several jobs
    return set(conn.execute(_mark(dialect), _BEGUN.params(dialect, [_begun(r) for r in ordered])).scalars())


def _begun(r: AttemptRow) -> tuple[Any, ...]:
    return (
        r.id,
        r.job_id,
        r.claim_id,
        r.number,
        r.state.value,
        r.target,
        r.provider,
        r.model,
        r.key_name,
        r.kind.value if r.kind is not None else None,
        clean(r.reason),
        r.held_nano,
        clean(r.member),
    )


@cache
def _begin(dialect: str) -> sa.Insert:
    v = _BEGUN.table(dialect)
    return _inserted(v, _stamped(v))


@cache
def _mark(dialect: str) -> Any:
    v = _BEGUN.table(dialect)
    ours = _stamped(v).where(job.c.id == v.c.job_id, may_call(dialect, v.c.claim_id))
    return _inserted(v, ours.with_for_update(read=True, of=job)).returning(attempt.c.job_id)


def _stamped(v: sa.FromClause) -> sa.Select[Any]:
    return sa.select(*v.c, sa.case((v.c.state == AttemptState.SENT.value, db_now())))


def _inserted(v: sa.FromClause, rows: sa.Select[Any]) -> sa.Insert:
    return attempt.insert().from_select([*v.c.keys(), "sent_at"], rows)


def close(conn: sa.Connection, rows: Sequence[AttemptRow]) -> None:
    """Store what became of calls. A call already given up as `lost` is overwritten: the answer came after all."""
    if not rows:
        return
    dialect = conn.dialect.name
    records = [
        (
            r.job_id,
            r.id,
            r.state.value,
            r.kind.value if r.kind is not None else None,
            r.http_status,
            clean(r.returned_model, 200),
            r.first_byte_s,
            r.total_s,
            r.retry_after_s,
            clean(r.reason),
            r.usage.input_tokens,
            r.usage.output_tokens,
            r.usage.cached_tokens,
            r.usage.reasoning_tokens,
            r.cost_nano,
            clean(r.provider_request_id, 200),
            dumps(r.answer) if r.answer is not None else None,
        )
        for r in rows
    ]
    conn.execute(_close(dialect), _CLOSED.params(dialect, records))


@cache
def _close(dialect: str) -> sa.Update:
    v = _CLOSED.table(dialect)
    values = {name: v.c[name] for name in v.c.keys() if name not in {"job_id", "id"}}  # noqa: SIM118 - columns
    return (
        attempt.update()
        .where(attempt.c.job_id == v.c.job_id, attempt.c.id == v.c.id)
        .values(**values, ended_at=db_now())
    )


_CALLS = Rows(job_id=sa.Text, id=sa.Text)


def recorded(conn: sa.Connection, rows: Sequence[AttemptRow]) -> dict[str, tuple[AttemptState, int]]:
    """State and hold (nano-dollars) of calls as they are on record, by id; locked until the transaction ends."""
    dialect = conn.dialect.name
    params = _CALLS.params(dialect, [(r.job_id, r.id) for r in rows])
    return {row.id: (AttemptState(row.state), row.held_nano or 0) for row in conn.execute(_recorded(dialect), params)}


@cache
def _recorded(dialect: str) -> sa.Select[Any]:
    v = _CALLS.table(dialect)
    return (
        sa.select(attempt.c.id, attempt.c.state, attempt.c.held_nano)
        .where(attempt.c.job_id == v.c.job_id, attempt.c.id == v.c.id)
        .with_for_update(of=attempt)
    )


@dataclass(frozen=True, slots=True)
class Attempt:
    """A stored attempt: the row, and when by the database's clock (aware UTC)."""

    row: AttemptRow
    sent_at: datetime | None
    ended_at: datetime | None


def of_jobs(conn: sa.Connection, job_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    """Attempts by job, in the order they were made."""
    found: dict[str, list[Attempt]] = {job_id: [] for job_id in job_ids}
    statement = sa.select(attempt).where(attempt.c.job_id.in_(job_ids)).order_by(attempt.c.job_id, attempt.c.number)
    for row in conn.execute(statement):
        found[row.job_id].append(_attempt(row))
    return found


def _attempt(row: Any) -> Attempt:
    return Attempt(
        AttemptRow(
            id=row.id,
            job_id=row.job_id,
            claim_id=row.claim_id,
            number=row.number,
            state=AttemptState(row.state),
            target=row.target,
            provider=row.provider,
            model=row.model,
            key_name=row.key_name,
            kind=FailureKind(row.kind) if row.kind is not None else None,
            http_status=row.http_status,
            returned_model=row.returned_model,
            first_byte_s=row.first_byte_s,
            total_s=row.total_s,
            retry_after_s=row.retry_after_s,
            reason=row.reason,
            usage=Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens),
            cost_nano=row.cost_nano,
            provider_request_id=row.provider_request_id,
            held_nano=row.held_nano,
            member=row.member,
            answer=json.loads(row.answer) if row.answer is not None else None,
        ),
        row.sent_at,
        row.ended_at,
    )
