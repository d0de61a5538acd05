"""Jobs that wait for a pause to end. They carry its mark and are due only far in the future, so that no claim meets
them; they are found through an index of their own, in which no other row stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.failure import Lane
from worker.domain.job import Claimed
from worker.store import claims
from worker.store.moment import db_now
from worker.store.rows import Rows
from worker.store.tables import job

MOST_MARKS: Final = 500

_IDS = Rows(id=sa.Text)
# A line that came back into the queue while its batch is paused has its mark until whoever tends the batch sees it.
_RESTING: Final = "batch.status IN ('validating', 'in_progress') AND batch.paused_at IS NOT NULL"
_PARKED: Final = sa.and_(job.c.parked_for.is_not(None), job.c.status == sa.literal_column("'queued'"))


def marks(conn: sa.Connection) -> list[tuple[str, Lane]]:
    """The distinct marks of parked jobs with their lanes: one probe of the index each, however many jobs there are."""
    return [(row.parked_for, Lane(row.lane)) for row in conn.execute(_marks())]


@cache
def _marks() -> sa.Select[Any]:
    order = (job.c.parked_for, job.c.lane)
    first = sa.select(*order).where(_PARKED).order_by(*order).limit(1).subquery("first")
    walk = sa.select(first.c.parked_for, first.c.lane, sa.literal(1).label("n")).cte("walk", recursive=True)
    beyond = sa.tuple_(*order) > sa.tuple_(walk.c.parked_for, walk.c.lane)
    probe = [sa.select(c).where(_PARKED, beyond).order_by(*order).limit(1).scalar_subquery() for c in order]
    more = sa.and_(walk.c.parked_for.is_not(None), walk.c.n < MOST_MARKS)
    walk = walk.union_all(sa.select(*probe, walk.c.n + 1).where(more))
    return sa.select(walk.c.parked_for, walk.c.lane).where(walk.c.parked_for.is_not(None))


def wake(conn: sa.Connection, mark: str, lane: Lane, most: int) -> int:
    """Make up to `most` jobs of a mark due now, the oldest first. Returns how many."""
    # Chosen by a statement of its own: as a subquery, Postgres may evaluate it anew for each row, past the limit.
    ids = list(conn.execute(_first(conn, [mark], lane, most)).scalars())
    if not ids:
        return 0
    dialect = conn.dialect.name
    return len(conn.execute(_wake(dialect), _IDS.params(dialect, [(one,) for one in ids])).all())


@cache
def _wake(dialect: str) -> Any:
    chosen = sa.select(_IDS.table(dialect).c.id)
    return (
        job.update()
        .where(job.c.id.in_(chosen), _PARKED)
        .values(parked_for=None, run_at=db_now(), version=job.c.version + 1)
        .returning(job.c.id)
    )


def claim_one(
    conn: sa.Connection, wanted: Iterable[str], lanes: Collection[Lane], *, worker_id: str, claim_id: str
) -> Claimed | None:
    """Take one job with one of these marks out of its park, at once and for this worker alone. It may be a suspect:
    another worker that claimed it would not have the leave to probe, and would only park it again.
    """
    found = list(wanted)
    for lane in lanes:
        ids = list(conn.execute(_first(conn, found, lane, 1)).scalars()) if found else []
        if not ids:
            continue
        conn.execute(
            job.update().where(job.c.id.in_(ids), job.c.status == "queued").values(parked_for=None, run_at=db_now())
        )
        for suspects in (False, True):
            claimed = claims.claim(conn, ids, worker_id=worker_id, claim_id=claim_id, suspects=suspects)
            if claimed:
                return claimed[0]
    return None


def _first(conn: sa.Connection, wanted: list[str], lane: Lane, most: int) -> sa.Select[Any]:
    """The oldest of them; none of a batch that is paused."""
    statement = (
        sa.select(job.c.id)
        .where(_PARKED, job.c.parked_for.in_(wanted), job.c.lane == lane.value)
        .where(claims.of_none(conn.dialect.name, _RESTING))
        .order_by(job.c.parked_for, job.c.lane, job.c.id)
        .limit(most)
    )
    return statement if conn.dialect.name == "sqlite" else statement.with_for_update(skip_locked=True)
