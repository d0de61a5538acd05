"""What waits in a lane of a project, off the index of the claim: no row of `job` is read unless the lane is full."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.failure import Lane
from worker.domain.intake import Backlog, Bounds
from worker.domain.job import LOWEST
from worker.domain.ramp import URGENT
from worker.store.moment import begun, seconds_until
from worker.store.tables import job, project

RATE_S: Final = 10.0  # the stretch over which ends are counted
RATE_MOST: Final = 20_000  # and no further
_PRIORITIES: Final = range(LOWEST, URGENT + 1)  # that a job may have


def look(conn: sa.Connection, project_id: str, lane: Lane, count_to: int) -> Backlog:
    """One statement, as long as the lane is deep, and no longer than `count_to` index entries."""
    params = {"project": project_id, "lane": lane.value, "most": count_to}
    row = conn.execute(_backlog(), params).one()
    return Backlog(row.waiting, max(0.0, row.oldest_s or 0.0))


def ended_per_s(conn: sa.Connection, project_id: str, lane: Lane) -> float:
    """How fast this lane of the project drains just now."""
    ended = (
        sa.select(sa.literal(1))
        .where(
            job.c.ended_at > begun(-RATE_S),
            job.c.purged_at.is_(None),
            job.c.project_id == project_id,
            job.c.lane == lane.value,
        )
        .limit(RATE_MOST)
        .subquery()
    )
    found: int = conn.execute(sa.select(sa.func.count()).select_from(ended)).scalar_one()
    return found / RATE_S


def own_bounds(conn: sa.Connection, project_id: str) -> Bounds:
    """The project's own; None where it has none."""
    row = conn.execute(
        sa.select(project.c.queue_depth, project.c.queue_age_s).where(project.c.id == project_id)
    ).first()
    return Bounds(None, None) if row is None else Bounds(row.queue_depth, row.queue_age_s)


@cache
def _backlog() -> sa.Select[Any]:
    mine = sa.and_(
        job.c.lane == sa.bindparam("lane"),
        job.c.project_id == sa.bindparam("project"),
        job.c.status == sa.literal_column("'queued'"),
    )
    some = sa.select(sa.literal(1)).where(mine).limit(sa.bindparam("most")).subquery()
    # The index has the first job of each priority at hand; over all priorities it would have to be read whole.
    firsts = [
        sa.select(job.c.run_at)
        .where(mine, job.c.priority == sa.literal_column(str(priority)))
        .order_by(job.c.run_at)
        .limit(1)
        .scalar_subquery()
        for priority in _PRIORITIES
    ]
    first = sa.union_all(*(sa.select(one.label("run_at")) for one in firsts)).subquery("first")
    return sa.select(
        sa.select(sa.func.count()).select_from(some).scalar_subquery().label("waiting"),
        sa.select(-sa.func.min(seconds_until(first.c.run_at))).scalar_subquery().label("oldest_s"),
    )
