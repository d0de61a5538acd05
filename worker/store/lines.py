"""The lines of a batch: which job each is, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import sqlalchemy as sa

from worker.domain.state import JobStatus
from worker.store.batch_tables import batch_line
from worker.store.rows import Rows
from worker.store.tables import job, job_result

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


def upcoming(conn: sa.Connection, batch_id: str, after: int, most: int) -> list[Line]:
    """The lines after `after`, in order."""
    rows = conn.execute(
        sa.select(batch_line)
        .where(batch_line.c.batch_id == batch_id, batch_line.c.line > after)
        .order_by(batch_line.c.line)
        .limit(most)
    )
    return _named(conn, [_line(row) for row in rows])


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
    # Of a text that is kept apart Postgres knows its bytes without reading it, but not its letters.
    length = sa.func.length if conn.dialect.name == "sqlite" else sa.func.octet_length
    statement = sa.select(job_result.c.job_id, length(job_result.c.body).label("size")).where(
        job_result.c.job_id.in_(job_ids), job_result.c.body.is_not(None)
    )
    return {row.job_id: row.size for row in conn.execute(statement)}
