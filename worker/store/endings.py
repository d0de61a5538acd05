"""What a job ends with: its answer or its error, in a row beside the job's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import sqlalchemy as sa

from worker.domain.answer import Failure
from worker.domain.failure import RETRYABLE
from worker.store.rows import Rows
from worker.store.tables import job_result
from worker.store.text import clean, dumps

_RESULT: Final = Rows(job_id=sa.Text, body=sa.Text, error=sa.Text)


def add(conn: sa.Connection, ends: Sequence[tuple[str, str | None, str | None]]) -> None:
    """Job id, answer and error of each, both as JSON."""
    if ends:
        dialect = conn.dialect.name
        conn.execute(_add(dialect), _RESULT.params(dialect, ends))


def error_json(error: Failure | None, provider: str | None = None) -> str | None:
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
def _add(dialect: str) -> sa.Insert:
    v = _RESULT.table(dialect)
    return job_result.insert().from_select(["job_id", "body", "error"], sa.select(v.c.job_id, v.c.body, v.c.error))
