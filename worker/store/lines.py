"""The lines of a batch: which job each is, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Literal

import sqlalchemy as sa

from worker.domain.job import JobView
from worker.domain.state import JobStatus
from worker.store import views
from worker.store.batch_tables import batch_line
from worker.store.rows import Rows
from worker.store.tables import job, job_input, job_result

Shared = Literal["awaited", "twin", "cached"]
_NEW: Final = Rows(
    line=sa.Integer,
    job_id=sa.Text,
    custom_id=sa.Text,
    encoding=sa.Text,
    hold_nano=sa.BigInteger,
    digest=sa.Text,
    shared=sa.Text,
    source_id=sa.Text,
)
_INTO: Final = ("line", "job_id", "custom_id", "encoding", "hold_nano", "digest", "shared", "source_id")


@dataclass(frozen=True, slots=True)
class Line:
    """`number` is of the file, from 1; `custom_id` is JSON text; `encoding` of vectors, where it was asked for.

    hold_nano  what it may cost, where its batch has a bound
    digest     of what it asks, where it stands in its batch for all lines that ask the same
    shared     whether it makes no call, but shares the end of the job `source_id`; until then it has no job
    twin_of    the custom_id, as JSON text, of the line of the batch whose end it shares; only where lines are read
    """

    number: int
    job_id: str
    custom_id: str
    encoding: str | None = None
    hold_nano: int | None = None
    digest: str | None = None
    shared: Shared | None = None
    source_id: str | None = None
    twin_of: str | None = None


def insert(conn: sa.Connection, batch_id: str, lines: Sequence[Line]) -> None:
    dialect = conn.dialect.name
    v = _NEW.table(dialect)
    picked = sa.select(sa.literal(batch_id, sa.Text), *(v.c[name] for name in _INTO))
    rows = [(x.number, x.job_id, x.custom_id, x.encoding, x.hold_nano, x.digest, x.shared, x.source_id) for x in lines]
    params = _NEW.params(dialect, rows)
    conn.execute(batch_line.insert().from_select(["batch_id", *_INTO], picked), params)


def ended(
    conn: sa.Connection, project_id: str, batch_id: str, after: int, most: int, most_bytes: int
) -> list[tuple[Line, JobView]]:
    """The lines after `after` in order, with what became of each: up to `most`, whose answers have `most_bytes`
    together; one at least. For a batch whose lines have all ended. Raises LookupError for a line without its job.
    """
    asked = {"batch": batch_id, "project": project_id, "after": after, "most": most, "bytes": most_bytes}
    rows = conn.execute(_upcoming(conn.dialect.name), asked).all()
    return list(zip(_named(conn, [_line(row) for row in rows]), map(_job, rows), strict=True))


@cache
def _upcoming(dialect: str) -> sa.Select[Any]:
    """One statement. A line's job and answer are looked up by their keys, whatever the planner thinks of a scan: it
    takes a table of a hundred thousand jobs for cheaper to be read whole than to be asked for a thousand of them.
    """
    ahead = (
        sa.select(batch_line)
        .where(batch_line.c.batch_id == sa.bindparam("batch"), batch_line.c.line > sa.bindparam("after"))
        .order_by(batch_line.c.line)
        .limit(sa.bindparam("most"))
        .cte("ahead")
    )
    size = sa.func.coalesce(_of_result(views.body_bytes(dialect), ahead), 0)
    sized = sa.select(ahead, size.label("size")).cte("sized")
    upto = sa.func.sum(sized.c.size).over(order_by=sized.c.line)
    fitting = sa.select(sized, upto.label("upto")).cte("fitting")
    mine = sa.and_(job.c.id == fitting.c.job_id, job.c.project_id == sa.bindparam("project"))
    if dialect == "sqlite":
        of_it: sa.FromClause = job
        found = fitting.outerjoin(job, mine)
    else:  # with an offset it stays a lookup of its own
        of_it = sa.select(job).where(mine).offset(0).lateral("of_it")
        found = fitting.outerjoin(of_it, sa.true())
    texts = (job_result.c.body, job_result.c.error)
    return (
        sa.select(
            *(fitting.c[name] for name in _INTO),
            *of_it.c,
            *(_of_result(text, fitting).label(text.name) for text in texts),
            sa.select(job_input.c.metadata)
            .where(job_input.c.job_id == fitting.c.job_id)
            .scalar_subquery()
            .label("meta"),
            sa.null().label("pause_id"),  # what has ended waits for none
        )
        .select_from(found)
        .where(sa.or_(fitting.c.upto <= sa.bindparam("bytes"), fitting.c.upto == fitting.c.size))
        .order_by(fitting.c.line)
    )


def _of_result(column: sa.ColumnElement[Any], lines: sa.CTE) -> Any:
    return sa.select(column).where(job_result.c.job_id == lines.c.job_id).scalar_subquery()


def of_jobs(conn: sa.Connection, job_ids: Sequence[str]) -> dict[str, Line]:
    """By the id of the job."""
    rows = conn.execute(sa.select(batch_line).where(batch_line.c.job_id.in_(job_ids)))
    return {line.job_id: line for line in _named(conn, [_line(row) for row in rows])}


def held_nano(conn: sa.Connection, batch_id: str) -> int:
    """What all lines that are jobs may cost, whether they have ended or not."""
    held = sa.select(sa.func.sum(batch_line.c.hold_nano)).where(batch_line.c.batch_id == batch_id)
    return int(conn.execute(held).scalar_one() or 0)


def completed(conn: sa.Connection, batch_id: str, after: int, most: int) -> tuple[list[int], int | None]:
    """Of the next `most` lines after `after` those that were answered; and the last one looked at, None: no more."""
    rows = conn.execute(
        sa.select(batch_line.c.line, job.c.status)
        .join(job, job.c.id == batch_line.c.job_id)
        .where(batch_line.c.batch_id == batch_id, batch_line.c.line > after)
        .order_by(batch_line.c.line)
        .limit(most)
    ).all()
    answered = [row.line for row in rows if row.status == JobStatus.COMPLETED.value]
    return answered, rows[-1].line if rows else None


def _line(row: Any) -> Line:
    return Line(row.line, row.job_id, row.custom_id, row.encoding, row.hold_nano, row.digest, row.shared, row.source_id)


def _named(conn: sa.Connection, lines: list[Line]) -> list[Line]:
    """With the names of those whose ends they share."""
    sources = {line.source_id for line in lines if line.shared == "twin"}
    if not sources:
        return lines
    found = sa.select(batch_line.c.job_id, batch_line.c.custom_id).where(batch_line.c.job_id.in_(sources))
    names = {row.job_id: row.custom_id for row in conn.execute(found)}
    # One that is just being forgotten has no name any more.
    return [replace(line, twin_of=names.get(line.source_id)) if line.shared == "twin" else line for line in lines]


def sizes(conn: sa.Connection, job_ids: Sequence[str]) -> dict[str, int]:
    """Bytes of the answers, where there are any: how many of them fit into memory at once."""
    statement = sa.select(job_result.c.job_id, views.body_bytes(conn.dialect.name).label("size")).where(
        job_result.c.job_id.in_(job_ids), job_result.c.body.is_not(None)
    )
    return {row.job_id: row.size for row in conn.execute(statement)}


def _job(row: Any) -> JobView:
    if row.id is None:
        raise LookupError(f"line {row.line} has no job {row.job_id}")
    return views.view(row)
