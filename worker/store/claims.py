"""queued -> in_progress: the claims. Fair between projects, and whatever the statistics of the tables say.

None waits for the disk: no call leaves before its mark is there, and with it all that was committed before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker import clock
from worker.domain.failure import Lane
from worker.domain.fairness import shares
from worker.domain.job import FORMAT, SUSPECT_FROM, Claimed
from worker.domain.state import JobStatus
from worker.store.moment import db_now, seconds_until
from worker.store.rows import Rows
from worker.store.tables import api_key, job, job_input

_S = JobStatus
_IDS = Rows(id=sa.Text)
GROUPS_MAX: Final = 100  # projects and priorities that one claim looks into


def claim(
    conn: sa.Connection, ids: Sequence[str], *, worker_id: str, claim_id: str, suspects: bool = False
) -> list[Claimed]:
    """Take these jobs if they are still queued and due, and no suspects (or: none but suspects).

    A row that does not come back is not ours.
    """
    dialect = conn.dialect.name
    params = _IDS.params(dialect, [(i,) for i in ids]) | {"worker": worker_id, "claim": claim_id, "known": FORMAT}
    return [_claimed(row, claim_id) for row in conn.execute(_claim(dialect, suspects=suspects), params)]


@dataclass(slots=True)
class Turn:
    """Where a claim begins to look for projects with work: behind those that the one before looked at.

    after  a project's id; "" begins with the first one
    part   whether the last look was at some of the projects only
    found  jobs that were taken since the round began
    """

    after: str = ""
    part: bool = False
    found: int = 0

    def goes_on(self, taken: int, room: int) -> bool:
        """Whether another claim may find something now, after one that took so many jobs of `room`."""
        self.found += taken
        if self.after:
            return True
        found, self.found = self.found, 0
        return taken >= room or (self.part and found > 0)


def claim_block(
    conn: sa.Connection,
    lane: Lane,
    room: int,
    *,
    worker_id: str,
    claim_id: str,
    turn: Turn | None = None,
    most: int = GROUPS_MAX,
) -> list[Claimed]:
    """Take up to `room` due jobs of a lane: fair between projects, priority and then age within each.

    First the projects and priorities that have work are read off the index, `most` of them at a time, then rows are
    locked in those: the backlog is never ranked as a whole. Where there are more, the next claim with the same `turn`
    looks at the next ones: those that were looked at may have nothing that is due.
    """
    taken = _chosen(conn, lane, room, turn if turn is not None else Turn(), most)
    return claim(conn, taken, worker_id=worker_id, claim_id=claim_id) if taken else []


def claimable(conn: sa.Connection, lane: Lane) -> bool:
    """Whether a claim of this lane would find anything now. Locks what it finds until the transaction ends."""
    turn = Turn()
    while not _chosen(conn, lane, 1, turn, GROUPS_MAX):
        if not turn.after:
            return False
    return True


def _turned(conn: sa.Connection, lane: Lane, turn: Turn, most: int) -> list[tuple[str, int]]:
    """The next projects with work and their priorities; no project is cut in two unless it fills the whole list."""
    found = conn.execute(_groups(), {"lane": lane.value, "most": most, "after": turn.after})
    groups = [(row.project_id, row.priority) for row in found]
    turn.part = bool(turn.after) or len(groups) >= most
    if len(groups) < most:
        turn.after = ""
        return groups
    last = groups[-1][0]
    whole = [group for group in groups if group[0] != last] or groups
    turn.after = whole[-1][0]
    return whole


def _chosen(conn: sa.Connection, lane: Lane, room: int, turn: Turn, most: int) -> list[str]:
    groups = _turned(conn, lane, turn, most)
    taken: dict[tuple[str, int], Sequence[str]] = {}
    draw = clock.draw()
    while groups and (left := room - sum(map(len, taken.values()))) > 0:  # what some leave goes to the others
        spent: Counter[str] = Counter()
        for share in shares(groups, left, draw):
            group = (share.project_id, share.priority)
            quota = share.quota - spent[share.project_id]
            if quota <= 0:
                continue
            before = len(taken.get(group, ()))
            wanted = {
                "lane": lane.value,
                "project": group[0],
                "priority": group[1],
                "quota": before + quota,
                "known": FORMAT,
            }
            taken[group] = conn.execute(_due(conn.dialect.name), wanted).scalars().all()  # those it had, and more
            spent[share.project_id] += len(taken[group]) - before
            if len(taken[group]) < before + quota:
                groups.remove(group)
    return [job_id for found in taken.values() for job_id in found]


def claim_suspect(conn: sa.Connection, lanes: Sequence[Lane], *, worker_id: str, claim_id: str) -> Claimed | None:
    """Take the one suspect that has been due longest: a job that may have killed its workers."""
    dialect = conn.dialect.name
    found = conn.execute(
        _suspect(dialect), {"lanes": [lane.value for lane in lanes], "known": FORMAT}
    ).scalar_one_or_none()
    if found is None:
        return None
    return next(iter(claim(conn, [found], worker_id=worker_id, claim_id=claim_id, suspects=True)), None)


@cache
def _suspect(dialect: str) -> sa.Select[Any]:
    statement = (
        sa.select(job.c.id)
        .where(
            job.c.status == sa.literal_column("'queued'"),
            job.c.deaths >= sa.literal_column(str(SUSPECT_FROM)),
            unseen(
                going_on(dialect),
                job.c.format <= sa.bindparam("known"),
                job.c.lane.in_(sa.bindparam("lanes", expanding=True)),
                job.c.run_at <= db_now(),
            ),
        )
        .order_by(job.c.run_at, job.c.id)
        .limit(1)
    )
    return statement if dialect == "sqlite" else statement.with_for_update(skip_locked=True)


def unseen(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """These conditions, for rows that are to be found by something else: the planner does not look into a CASE.

    What it knows of a queue is of another time. With the conditions in sight it once took a block of jobs out of a
    backlog of 24,000 by reading them all, for it held that almost nothing was queued.
    """
    return sa.case((sa.and_(*conditions), sa.true()), else_=sa.false())


def going_on(dialect: str) -> sa.ColumnElement[bool]:
    """Not a line of a batch that somebody stopped."""
    return of_none(dialect, "batch.status = 'cancelling'")


def of_none(dialect: str, which: str) -> sa.ColumnElement[bool]:
    """Not a line of a batch of which this is true. These, which are few, are looked up once for all rows.

    As text, for SQLAlchemy goes through every part of a statement each time; and as an array, for Postgres takes a
    list to be looked up anew for each row, and then finds the statement too costly to be planned once for all.
    """
    these = f"SELECT batch.id FROM batch WHERE {which}"  # noqa: S608 - of our own words
    among = f"NOT IN ({these})" if dialect == "sqlite" else f"<> ALL (ARRAY({these}))"
    return sa.literal_column(f"(job.batch_id IS NULL OR job.batch_id {among})")


_HELD = Rows(id=sa.Text, claim_id=sa.Text)


def still_ours(conn: sa.Connection, held: Sequence[tuple[str, str]]) -> set[str]:
    """Of (job id, claim id) pairs, the jobs that may still make calls.

    That stays so until the transaction ends: a cancel or a take-back waits, and then finds what was marked.
    """
    dialect = conn.dialect.name
    return set(conn.execute(_still_ours(dialect), _HELD.params(dialect, sorted(held))).scalars())


@cache
def _still_ours(dialect: str) -> sa.Select[Any]:
    v = _HELD.table(dialect)
    ours = sa.select(job.c.id).where(job.c.id == v.c.id, may_call(dialect, v.c.claim_id))
    return ours.with_for_update(read=True, of=job)


def may_call(dialect: str, claim_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """The claim holds, and nobody asked to stop."""
    return unseen(job.c.claim_id == claim_id, job.c.status == _S.IN_PROGRESS.value, going_on(dialect))


@cache
def _groups() -> sa.Select[Any]:
    """The distinct (project, priority) of queued rows, one index probe each (a loose index scan)."""
    queued = sa.and_(job.c.lane == sa.bindparam("lane"), job.c.status == sa.literal_column("'queued'"))
    order = (job.c.project_id, job.c.priority)
    first = (
        sa.select(*order)
        .where(queued, job.c.project_id > sa.bindparam("after"))
        .order_by(*order)
        .limit(1)
        .subquery("first")
    )
    walk = sa.select(first.c.project_id, first.c.priority, sa.literal(1).label("n")).cte("walk", recursive=True)
    beyond = sa.tuple_(job.c.project_id, job.c.priority) > sa.tuple_(walk.c.project_id, walk.c.priority)
    probe = [sa.select(c).where(queued, beyond).order_by(*order).limit(1).scalar_subquery() for c in order]
    more = sa.and_(walk.c.project_id.is_not(None), walk.c.n < sa.bindparam("most"))
    walk = walk.union_all(sa.select(*probe, walk.c.n + 1).where(more))
    return sa.select(walk.c.project_id, walk.c.priority).where(walk.c.project_id.is_not(None))


@cache
def _due(dialect: str) -> sa.Select[Any]:
    statement = (
        sa.select(job.c.id)
        .where(
            job.c.lane == sa.bindparam("lane"),
            job.c.project_id == sa.bindparam("project"),
            job.c.priority == sa.bindparam("priority"),
            job.c.status == sa.literal_column("'queued'"),
            going_on(dialect),
            # now() is one value for the whole statement, so Postgres can use it as a bound of the index scan.
            job.c.run_at <= (db_now() if dialect == "sqlite" else sa.func.now()),
            job.c.format <= sa.bindparam("known"),
            job.c.deaths < SUSPECT_FROM,
        )
        .order_by(job.c.run_at, job.c.id)
        .limit(sa.bindparam("quota"))
    )
    return statement if dialect == "sqlite" else statement.with_for_update(skip_locked=True)


@cache
def _claim(dialect: str, *, suspects: bool = False) -> Any:
    v = _IDS.table(dialect)
    body = sa.select(job_input.c.body).where(job_input.c.job_id == job.c.id).scalar_subquery()
    budgeted = sa.select(api_key.c.id).where(api_key.c.id == job.c.key_id, api_key.c.budget_nano.is_not(None))
    return (
        job.update()
        .where(
            job.c.id.in_(sa.select(v.c.id)),
            unseen(
                job.c.status == _S.QUEUED.value,
                job.c.run_at <= db_now(),
                job.c.format <= sa.bindparam("known"),
                job.c.deaths >= SUSPECT_FROM if suspects else job.c.deaths < SUSPECT_FROM,
            ),
        )
        .values(
            status=_S.IN_PROGRESS.value,
            version=job.c.version + 1,
            claim_id=sa.bindparam("claim"),
            worker_id=sa.bindparam("worker"),
            started_at=sa.func.coalesce(job.c.started_at, db_now()),
        )
        .returning(
            job.c.id,
            job.c.project_id,
            job.c.kind,
            job.c.lane,
            job.c.models,
            job.c.attempts,
            job.c.rows,
            job.c.losses,
            job.c.deaths,
            job.c.max_attempts,
            job.c.on_interruption,
            job.c.max_cost_nano,
            budgeted.scalar_subquery().label("budget_key"),
            seconds_until(job.c.deadline_at).label("remaining_s"),
            body.label("body"),
            *_lax(dialect),
        )
    )


def _lax(dialect: str) -> list[sa.ColumnElement[Any]]:
    """Lets the commit not wait for the disk. Said by the statement itself, to which it is a round trip less."""
    if dialect == "sqlite":
        return []
    return [sa.func.set_config("synchronous_commit", "off", True).label("lax")]


def _claimed(row: Any, claim_id: str) -> Claimed:
    return Claimed(
        id=row.id,
        claim_id=claim_id,
        project_id=row.project_id,
        kind=row.kind,
        lane=Lane(row.lane),
        models=row.models,
        body=row.body,
        attempts=row.attempts,
        losses=row.losses,
        deaths=row.deaths,
        max_attempts=row.max_attempts,
        on_interruption=row.on_interruption,
        remaining_s=row.remaining_s,
        rows=row.rows,
        max_cost_nano=row.max_cost_nano,
        budget_key=row.budget_key,
    )
