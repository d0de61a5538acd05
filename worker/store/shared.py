"""Lines that make no call: twins of a line of their batch, and lines that an answer serves which is stored already.

Such a line shares the end of another job. Its own job is born with that end, in the transaction that counts it: before
that there is no row, so no claim, no sweep and no pause ever meets it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.state import JobStatus
from worker.store import batches, tallies
from worker.store.batch_tables import batch, batch_line
from worker.store.moment import begun, db_now
from worker.store.rows import Rows
from worker.store.tables import job, job_result

# Written out, so that the planner sees the condition of the index.
_AWAITED: Final = batch_line.c.shared == sa.literal_column("'awaited'")
_DIGESTS: Final = Rows(digest=sa.Text)
_BORN: Final = Rows(job_id=sa.Text, source_id=sa.Text)
_source: Final = job.alias("source")
_SAME: Final = (  # as of the job whose end it shares
    "project_id",
    "kind",
    "lane",
    "status",
    "models",
    "deadline_at",
    "max_attempts",
    "on_interruption",
    "served_provider",
    "served_label",
    "served_model",
    "max_cost_nano",
    "format",
)


# -- what a line may share ---------------------------------------------------------------------------------------


def leaders(conn: sa.Connection, batch_id: str, digests: Collection[str]) -> dict[str, str]:
    """By digest, the job of the line that stands in this batch for all that ask the same."""
    dialect = conn.dialect.name
    params = _DIGESTS.params(dialect, [(digest,) for digest in sorted(digests)])
    rows = conn.execute(_leaders(dialect), params | {"batch": batch_id})
    return {row.digest: row.job_id for row in rows if row.job_id is not None}


@cache
def _leaders(dialect: str) -> sa.Select[Any]:
    """One probe of the index for each: a list of digests would tempt the planner to read the whole batch."""
    v = _DIGESTS.table(dialect)
    mine = (
        sa.select(batch_line.c.job_id)
        .where(batch_line.c.digest == v.c.digest, batch_line.c.batch_id == sa.bindparam("batch"))
        .limit(1)
        .correlate(v)
        .scalar_subquery()
    )
    return sa.select(v.c.digest, mine.label("job_id"))


def answered(conn: sa.Connection, project_id: str, digests: Collection[str], max_age_s: float) -> dict[str, str]:
    """By digest, the newest job of this project that was answered no longer ago, and whose answer is stored."""
    dialect = conn.dialect.name
    params = _DIGESTS.params(dialect, [(digest,) for digest in sorted(digests)])
    rows = conn.execute(_answered(dialect), params | {"project": project_id, "since_s": -max_age_s})
    return {row.digest: row.job_id for row in rows if row.job_id is not None}


@cache
def _answered(dialect: str) -> sa.Select[Any]:
    """By digest first, then job by job. As a join, the planner once began with all jobs of the project."""
    v = _DIGESTS.table(dialect)
    good = (
        sa.select(sa.literal_column("1"))
        .where(
            job.c.id == batch_line.c.job_id,
            job.c.project_id == sa.bindparam("project"),
            *_still_stored(job),
            job.c.ended_at > begun(sa.bindparam("since_s", type_=sa.Float)),
        )
        .correlate(batch_line)
        .scalar_subquery()
    )
    newest = (
        sa.select(batch_line.c.job_id)
        .where(batch_line.c.digest == v.c.digest, good == sa.literal_column("1"))
        .order_by(batch_line.c.batch_id.desc())
        .limit(1)
        .correlate(v)
        .scalar_subquery()
    )
    return sa.select(v.c.digest, newest.label("job_id"))


def _still_stored(of: sa.FromClause) -> tuple[sa.ColumnElement[bool], ...]:
    return of.c.status == JobStatus.COMPLETED.value, of.c.purged_at.is_(None)


# -- born with their end -----------------------------------------------------------------------------------------


def serve(conn: sa.Connection, batch_id: str, lines: Sequence[tuple[str, str]]) -> bool:
    """End lines, (job id, id of the job that was answered), with those answers. False: one of these is no longer
    stored, or is just being forgotten; store nothing.
    """
    sources = {source_id for _, source_id in lines}
    kept = sa.select(job.c.id).where(job.c.id.in_(sources), *_still_stored(job))
    if conn.dialect.name != "sqlite":  # it stays until the copy is made
        kept = kept.with_for_update(read=True, skip_locked=True)
    if len(conn.execute(kept).all()) < len(sources):
        return False
    _bear(conn, batch_id, lines)
    return True


def ended_leaders(conn: sa.Connection, batch_id: str, most: int) -> list[str]:
    """Up to `most` jobs that have ended and whose end a line of this batch waits for."""
    return list(conn.execute(_ended_leaders(), {"batch": batch_id, "most": most}).scalars())


def share(conn: sa.Connection, batch_id: str, ended: Sequence[str], most: int) -> int:
    """Give up to `most` twins of these leaders, which have ended, the same ends. Returns how many.

    Whoever locks a line that is marked takes the mark off and makes its job: two that believe to own the batch make
    one of each.
    """
    chosen = (
        sa.select(batch_line.c.job_id, batch_line.c.source_id)
        .where(batch_line.c.batch_id == batch_id, _AWAITED, batch_line.c.source_id.in_(ended))
        .limit(most)  # in no order: a leader may have a million, and they would all be sorted for each page
    )
    if conn.dialect.name != "sqlite":
        chosen = chosen.with_for_update()
    born = [(row.job_id, row.source_id) for row in conn.execute(chosen)]
    if born:
        by_job = batch_line.c.job_id.in_([job_id for job_id, _ in born])
        conn.execute(batch_line.update().where(by_job).values(shared="twin"))
        batches.heard(conn, batch_id, len(born))
        _bear(conn, batch_id, born)
    return len(born)


@cache
def _ended_leaders() -> sa.Select[Any]:
    """Each is met once, however many wait for it (a loose index scan)."""
    mine = sa.and_(batch_line.c.batch_id == sa.bindparam("batch"), _AWAITED)
    source_id = batch_line.c.source_id
    first = sa.select(source_id).where(mine).order_by(source_id).limit(1).subquery("first")
    walk = sa.select(first.c.source_id).cte("walk", recursive=True)
    beyond = sa.select(source_id).where(mine, source_id > walk.c.source_id).order_by(source_id).limit(1)
    walk = walk.union_all(sa.select(beyond.scalar_subquery()).where(walk.c.source_id.is_not(None)))
    ended_at = sa.select(job.c.ended_at).where(job.c.id == walk.c.source_id).scalar_subquery()
    return sa.select(walk.c.source_id).where(ended_at.is_not(None)).limit(sa.bindparam("most"))


def _bear(conn: sa.Connection, batch_id: str, lines: Sequence[tuple[str, str]]) -> None:
    dialect = conn.dialect.name
    params = _BORN.params(dialect, lines)
    born = conn.execute(_jobs(dialect), params | {"batch": batch_id}).all()
    conn.execute(_results(dialect), params)
    tallies.add(conn, born)


@cache
def _jobs(dialect: str) -> Any:
    """No attempt, no token, no cost. A dead letter is the job that was called, not those that share its end."""
    v = _BORN.table(dialect)
    now = db_now()
    none = sa.literal(0)
    values = {
        "id": v.c.job_id,
        **{name: _source.c[name] for name in _SAME},
        "version": sa.literal(1),
        "priority": batch.c.priority,
        "created_at": now,
        "queued_at": now,
        "run_at": now,
        "ended_at": now,
        **dict.fromkeys(("attempts", "rows", "losses", "input_tokens", "output_tokens", "cost_nano"), none),
        "cost_complete": sa.true(),
        "batch_id": batch.c.id,
        "key_id": batch.c.key_id,
    }
    picked = (
        sa.select(*values.values())
        .select_from(v.join(_source, _source.c.id == v.c.source_id).join(batch, batch.c.id == sa.bindparam("batch")))
        .order_by(v.c.job_id)
    )
    return job.insert().from_select(list(values), picked).returning(*tallies.ENDED)


@cache
def _results(dialect: str) -> Any:
    v = _BORN.table(dialect)
    found = sa.select(v.c.job_id, job_result.c.body, job_result.c.error).join(
        job_result, job_result.c.job_id == v.c.source_id
    )
    return job_result.insert().from_select(["job_id", "body", "error"], found)
