"""How many lines of a batch have ended: added to by whoever ends them, in the same transaction. It never goes down."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.batch import Counts
from worker.domain.state import FINAL, JobStatus
from worker.store.batch_tables import batch_tally
from worker.store.tables import job

SLOTS: Final = 16  # of a batch: connections that write at once seldom meet in one
_NAMES: Final = ("completed", "failed", "rest")
_COUNTED: Final = {JobStatus.COMPLETED.value: "completed", JobStatus.FAILED.value: "failed"}


def add(conn: sa.Connection, moved: Iterable[tuple[str | None, str]]) -> None:
    """Count jobs that moved: (batch id, new status). What is no line, or not at its end, counts nothing."""
    sums: dict[str, dict[str, int]] = {}
    for batch_id, status in moved:
        if batch_id is not None and status in FINAL:
            sums.setdefault(batch_id, {"completed": 0, "failed": 0, "rest": 0})[_COUNTED.get(status, "rest")] += 1
    if sums:  # in one order, so that two writers never wait for one another crosswise
        conn.execute(_add(conn.dialect.name), [{"batch": batch_id, **sums[batch_id]} for batch_id in sorted(sums)])


@cache
def _add(dialect: str) -> Any:
    insert = sqlite.insert(batch_tally) if dialect == "sqlite" else postgresql.insert(batch_tally)
    mine = sa.literal_column("0") if dialect == "sqlite" else sa.func.pg_backend_pid() % SLOTS
    values = {name: sa.bindparam(name, type_=sa.Integer) for name in _NAMES}
    return insert.values(batch_id=sa.bindparam("batch"), slot=mine, **values).on_conflict_do_update(
        index_elements=["batch_id", "slot"],
        set_={name: batch_tally.c[name] + insert.excluded[name] for name in _NAMES},
    )


def of(conn: sa.Connection, batch_ids: Iterable[str]) -> dict[str, Counts]:
    """Without `total`, which is the batch's."""
    rows = conn.execute(
        sa.select(
            batch_tally.c.batch_id,
            *(sa.func.sum(batch_tally.c[name]).label(name) for name in ("completed", "failed", "rest")),
        )
        .where(batch_tally.c.batch_id.in_(list(batch_ids)))
        .group_by(batch_tally.c.batch_id)
    )
    return {row.batch_id: Counts(0, int(row.completed), int(row.failed), int(row.rest)) for row in rows}


def recount(conn: sa.Connection, batch_id: str) -> Counts:
    """From the jobs themselves. Only where none of its lines is open: then nobody else adds to it."""
    found = {
        row.status: int(row.n)
        for row in conn.execute(
            sa.select(job.c.status, sa.func.count().label("n")).where(job.c.batch_id == batch_id).group_by(job.c.status)
        )
    }
    completed, failed = found.get(JobStatus.COMPLETED.value, 0), found.get(JobStatus.FAILED.value, 0)
    counts = Counts(0, completed, failed, sum(found.values()) - completed - failed)
    conn.execute(batch_tally.delete().where(batch_tally.c.batch_id == batch_id))
    conn.execute(
        batch_tally.insert().values(
            batch_id=batch_id, slot=0, completed=counts.completed, failed=counts.failed, rest=counts.rest
        )
    )
    return counts
