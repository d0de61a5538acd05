"""The lines of a batch: which job each is, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from worker.store.batch_tables import batch_line
from worker.store.rows import Rows
from worker.store.tables import job_result

_NEW: Final = Rows(line=sa.Integer, job_id=sa.Text, custom_id=sa.Text, encoding=sa.Text)


@dataclass(frozen=True, slots=True)
class Line:
    """`number` is of the file, from 1; `custom_id` is JSON text; `encoding` of vectors, where it was asked for."""

    number: int
    job_id: str
    custom_id: str
    encoding: str | None = None


def insert(conn: sa.Connection, batch_id: str, lines: Sequence[Line]) -> None:
    dialect = conn.dialect.name
    v = _NEW.table(dialect)
    into = ["batch_id", "line", "job_id", "custom_id", "encoding"]
    picked = sa.select(sa.literal(batch_id, sa.Text), v.c.line, v.c.job_id, v.c.custom_id, v.c.encoding)
    params = _NEW.params(dialect, [(x.number, x.job_id, x.custom_id, x.encoding) for x in lines])
    conn.execute(batch_line.insert().from_select(into, picked), params)


def upcoming(conn: sa.Connection, batch_id: str, after: int, most: int) -> list[Line]:
    """The lines after `after`, in order."""
    rows = conn.execute(
        sa.select(batch_line)
        .where(batch_line.c.batch_id == batch_id, batch_line.c.line > after)
        .order_by(batch_line.c.line)
        .limit(most)
    )
    return [Line(row.line, row.job_id, row.custom_id, row.encoding) for row in rows]


def sizes(conn: sa.Connection, job_ids: Sequence[str]) -> dict[str, int]:
    """Bytes of the answers, where there are any: how many of them fit into memory at once."""
    # Of a text that is kept apart Postgres knows its bytes without reading it, but not its letters.
    length = sa.func.length if conn.dialect.name == "sqlite" else sa.func.octet_length
    statement = sa.select(job_result.c.job_id, length(job_result.c.body).label("size")).where(
        job_result.c.job_id.in_(job_ids), job_result.c.body.is_not(None)
    )
    return {row.job_id: row.size for row in conn.execute(statement)}
