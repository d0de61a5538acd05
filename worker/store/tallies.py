"""How many lines of a batch have ended, what they cost, and which they are: noted by whoever ends them, in the same
transaction. It never goes down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from worker.domain.batch import Counts
from worker.domain.state import FINAL, JobStatus
from worker.store.batch_tables import batch_ended, batch_tally
from worker.store.tables import job

SLOTS: Final = 16  # of a batch: connections that write at once seldom meet in one
UNNOTED: Final = SLOTS  # the slot of lines that somebody ended without noting it
ENDED: Final = (job.c.id, job.c.batch_id, job.c.status, job.c.cost_nano, job.c.cost_complete)
_NAMES: Final = ("completed", "failed", "rest", "cost_nano", "unpriced")
_COUNTED: Final = {JobStatus.COMPLETED.value: "completed", JobStatus.FAILED.value: "failed"}
_AT_ONCE: Final = 1_000


@dataclass(slots=True)
class _Sums:
    values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0))
    job_ids: list[str] = field(default_factory=list)

    def add(self, row: Any) -> None:
        self.values[_COUNTED.get(row.status, "rest")] += 1
        self.values["cost_nano"] += row.cost_nano or 0
        self.values["unpriced"] += not row.cost_complete
        self.job_ids.append(row.id)


def add(conn: sa.Connection, moved: Iterable[Any]) -> None:
    """Count jobs that moved; rows have the columns of ENDED. What is no line, or not at its end, counts nothing."""
    sums: dict[str, _Sums] = {}
    for row in moved:
        if row.batch_id is not None and row.status in FINAL:
            sums.setdefault(row.batch_id, _Sums()).add(row)
    if not sums:
        return
    # In one order, so that two writers never wait for one another crosswise.
    told = [
        {"batch": batch_id, "job_ids": ",".join(sums[batch_id].job_ids), **sums[batch_id].values}
        for batch_id in sorted(sums)
    ]
    for statement in _add(conn.dialect.name):
        conn.execute(statement, told)


@cache
def _add(dialect: str) -> tuple[Any, ...]:
    """On Postgres one statement, elsewhere two."""
    insert = sqlite.insert(batch_tally) if dialect == "sqlite" else postgresql.insert(batch_tally)
    mine = sa.literal_column("0") if dialect == "sqlite" else sa.func.pg_backend_pid() % SLOTS
    batch_id = sa.bindparam("batch", type_=sa.Text)
    values = {name: sa.bindparam(name, type_=batch_tally.c[name].type) for name in _NAMES}
    counted = insert.values(batch_id=batch_id, slot=mine, **values).on_conflict_do_update(
        index_elements=["batch_id", "slot"],
        set_={name: batch_tally.c[name] + insert.excluded[name] for name in _NAMES},
    )
    upto = batch_tally.c.completed + batch_tally.c.failed + batch_tally.c.rest
    names = ["batch_id", "slot", "upto", "job_ids"]
    job_ids = sa.bindparam("job_ids", type_=sa.Text)
    if dialect == "sqlite":  # one connection writes at a time, and one slot will do
        at = sa.select(batch_id, batch_tally.c.slot, upto, job_ids).where(
            batch_tally.c.batch_id == batch_id, batch_tally.c.slot == 0
        )
        return counted, batch_ended.insert().from_select(names, at)
    now = counted.returning(batch_tally.c.slot, upto.label("upto")).cte("counted")
    return (batch_ended.insert().from_select(names, sa.select(batch_id, now.c.slot, now.c.upto, job_ids)),)


def ended(conn: sa.Connection, batch_id: str) -> int:
    """How many lines of one batch have ended."""
    return of(conn, [batch_id]).get(batch_id, Counts()).ended


def of(conn: sa.Connection, batch_ids: Iterable[str]) -> dict[str, Counts]:
    """Without `total`, which is the batch's."""
    rows = conn.execute(
        sa.select(batch_tally.c.batch_id, *(sa.func.sum(batch_tally.c[name]).label(name) for name in _NAMES))
        .where(batch_tally.c.batch_id.in_(list(batch_ids)))
        .group_by(batch_tally.c.batch_id)
    )
    return {
        row.batch_id: Counts(
            0, int(row.completed), int(row.failed), int(row.rest), int(row.cost_nano), int(row.unpriced)
        )
        for row in rows
    }


def heads(conn: sa.Connection, batch_id: str) -> dict[int, int]:
    """How many lines have ended in each slot."""
    ended = batch_tally.c.completed + batch_tally.c.failed + batch_tally.c.rest
    rows = conn.execute(sa.select(batch_tally.c.slot, ended.label("n")).where(batch_tally.c.batch_id == batch_id))
    return {row.slot: row.n for row in rows}


def ended_after(conn: sa.Connection, batch_id: str, slots: Mapping[int, int], most: int) -> list[tuple[int, str]]:
    """Up to `most` lines that have ended, (slot, job id), after so many in each slot: none is left out, however the
    commits of those who end them cross one another.
    """
    found: list[tuple[int, str]] = []
    for slot, head in sorted(heads(conn, batch_id).items()):
        after = slots.get(slot, 0)
        if after >= head or len(found) >= most:
            continue
        rows = conn.execute(
            sa.select(batch_ended.c.upto, batch_ended.c.job_ids)
            .where(batch_ended.c.batch_id == batch_id, batch_ended.c.slot == slot, batch_ended.c.upto > after)
            .order_by(batch_ended.c.upto)
            .limit(most - len(found))
        )
        for row in rows:
            job_ids = row.job_ids.split(",")
            first = row.upto - len(job_ids)
            found += [(slot, job_id) for job_id in job_ids[max(0, after - first) :]]
    return found[:most]


def recount(conn: sa.Connection, batch_id: str) -> Counts:
    """Note the lines that somebody ended without noting it. Only where none is open: then nobody else adds to them."""
    noted = {job_id for _, job_id in ended_after(conn, batch_id, {}, 2**31)}
    sums = _Sums()
    for row in conn.execute(sa.select(*ENDED).where(job.c.batch_id == batch_id).order_by(job.c.id)):
        if row.id not in noted:
            sums.add(row)
    if sums.job_ids:
        conn.execute(batch_tally.insert().values(batch_id=batch_id, slot=UNNOTED, **sums.values))
        conn.execute(
            batch_ended.insert(),
            [
                {
                    "batch_id": batch_id,
                    "slot": UNNOTED,
                    "upto": min(at + _AT_ONCE, len(sums.job_ids)),
                    "job_ids": ",".join(sums.job_ids[at : at + _AT_ONCE]),
                }
                for at in range(0, len(sums.job_ids), _AT_ONCE)
            ],
        )
    return of(conn, [batch_id]).get(batch_id, Counts())
