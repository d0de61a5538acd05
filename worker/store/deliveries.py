"""Every move of a delivery, one function each: a guarded UPDATE whose row count decides.

Who claims deliveries of an endpoint locks its row for that moment, so what it may take at once and per second holds for
all workers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.delivery import DeliveryState, Due, Tried, Trigger
from worker.store import webhook_endpoints
from worker.store.moment import begun, db_now, later, seconds_until
from worker.store.rows import Rows
from worker.store.tables import worker
from worker.store.text import clean
from worker.store.webhook_tables import delivery, delivery_attempt, event, webhook_endpoint

_S = DeliveryState
_D = delivery.c
_E = webhook_endpoint.c
BURST_S: Final = 1.0  # so much of an endpoint's rate may come at once
DISABLE_AFTER_S: Final = 5 * 86400.0  # of nothing but failures
_AGAIN: Final = [_S.EXHAUSTED.value, _S.REFUSED.value, _S.SKIPPED.value]


# -- pending -> sending ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """held_back  an endpoint has more that is due, but not yet by its rate
    after      the endpoint after which the next claim is to look; "" where this one looked at the last
    """

    due: list[Due]
    held_back: bool
    after: str


def claim(conn: sa.Connection, room: int, *, after: str, worker_id: str, claim_id: str, most: int = 100) -> Taken:
    """Take up to `room` due deliveries of the endpoints whose id comes after `after`, `most` of them, a part for each.

    Endpoints are found by one index probe each; their backlogs are never ranked together.
    """
    endpoints = [str(e) for e in conn.execute(_due_endpoints(), {"after": after, "most": most}).scalars()]
    taken: list[Due] = []
    held_back = False
    for n, endpoint_id in enumerate(endpoints):
        part = -(-(room - len(taken)) // (len(endpoints) - n))
        if part <= 0:
            return Taken(taken, held_back, endpoints[n - 1])
        quota, by_rate = _quota(conn, endpoint_id, part)
        if quota > 0:
            found = _take(conn, endpoint_id, quota, worker_id, claim_id)
            taken.extend(found)
            if found:
                _spend(conn, endpoint_id, len(found))
        held_back = held_back or by_rate
    return Taken(taken, held_back, endpoints[-1] if len(endpoints) == most else "")


@cache
def _due_endpoints() -> sa.Select[Any]:
    """The distinct endpoints with something due, in order of their ids (a loose index scan)."""
    due = sa.and_(_D.state == sa.literal_column("'pending'"), _D.due_at <= db_now())
    first = sa.select(sa.func.min(_D.endpoint_id).label("id")).where(due, _D.endpoint_id > sa.bindparam("after"))
    walk = sa.select(first.subquery().c.id, sa.literal(1).label("n")).cte("walk", recursive=True)
    probe = sa.select(sa.func.min(_D.endpoint_id)).where(due, _D.endpoint_id > walk.c.id).scalar_subquery()
    more = sa.and_(walk.c.id.is_not(None), walk.c.n < sa.bindparam("most"))
    walk = walk.union_all(sa.select(probe, walk.c.n + 1).where(more))
    return sa.select(walk.c.id).where(walk.c.id.is_not(None))


def _quota(conn: sa.Connection, endpoint_id: str, part: int) -> tuple[int, bool]:
    """How many of this endpoint may go now, and whether its rate is what bounds them. Locks its row.

    What came back, or was told, just as the endpoint was disabled or deleted is skipped here.
    """
    query = sa.select(
        _E.max_rps,
        _E.max_concurrency,
        sa.func.coalesce(seconds_until(_E.due_at), 0.0).label("ahead_s"),
        sa.or_(_E.disabled_at.is_not(None), _E.deleted_at.is_not(None)).label("silenced"),
    ).where(_E.id == endpoint_id)
    if conn.dialect.name == "postgresql":
        query = query.with_for_update(skip_locked=True)
    row = conn.execute(query).first()
    if row is None:  # another worker is at it
        return 0, False
    if row.silenced:
        webhook_endpoints.skip_pending(conn, endpoint_id)
        return 0, False
    sending = sa.select(sa.func.count()).where(_D.endpoint_id == endpoint_id, _D.state == _S.SENDING.value)
    places = row.max_concurrency - conn.execute(sending).scalar_one()
    burst_s = max(BURST_S, 1.0 / row.max_rps)
    earned = int((burst_s - max(0.0, row.ahead_s)) * row.max_rps + 1e-6)
    return max(0, min(part, places, earned)), earned < min(part, places)


def _take(conn: sa.Connection, endpoint_id: str, quota: int, worker_id: str, claim_id: str) -> list[Due]:
    due = (
        sa.select(_D.id)
        .where(_D.endpoint_id == endpoint_id, _D.state == sa.literal_column("'pending'"), _D.due_at <= db_now())
        .order_by(_D.due_at, _D.id)
        .limit(quota)
    )
    if conn.dialect.name == "postgresql":
        due = due.with_for_update(skip_locked=True)
    # Two statements: in one, Postgres may run a locking subquery with a LIMIT more than once, each time over new rows.
    ids = conn.execute(due).scalars().all()
    full = sa.and_(_E.id == endpoint_id, _E.payload == "full")
    body = sa.case((sa.exists().where(full), sa.func.coalesce(event.c.full, event.c.thin)), else_=event.c.thin)
    rows = conn.execute(
        delivery.update()
        .where(_D.id.in_(ids), _D.state == _S.PENDING.value)
        .values(state=_S.SENDING.value, claim_id=claim_id, worker_id=worker_id)
        .returning(
            _D.id,
            _D.project_id,
            _D.event_id,
            _D.trigger,
            _D.tries,
            _D.attempts,
            _D.due_at,
            sa.select(body).where(event.c.id == _D.event_id).scalar_subquery().label("body"),
        )
    ).all()
    return [
        Due(r.id, claim_id, r.project_id, endpoint_id, r.event_id, r.trigger, r.tries, r.attempts, r.due_at, r.body)
        for r in rows
    ]


def _spend(conn: sa.Connection, endpoint_id: str, n: int) -> None:
    ahead_s = sa.func.coalesce(seconds_until(_E.due_at), 0.0)
    start = sa.case((ahead_s > 0, ahead_s), else_=sa.literal(0.0))
    conn.execute(
        webhook_endpoint.update()
        .where(_E.id == endpoint_id)
        .values(due_at=later(start + sa.literal(float(n)) / _E.max_rps))
    )


# -- sending -> anything ---------------------------------------------------------------------------------------------

_TRIED = Rows(
    id=sa.Text,
    claim_id=sa.Text,
    state=sa.Text,
    wait_s=sa.Float,
    counted=sa.Integer,
    http_status=sa.Integer,
    fault=sa.Text,
)
_PHASES: Final = ("dns_s", "connect_s", "tls_s", "first_byte_s", "total_s")


def settle(conn: sa.Connection, tries: Sequence[Tried]) -> tuple[set[str], list[str]]:
    """Record tries that are over. Returns the deliveries that moved (one that is missing had lost its claim) and the
    endpoints that have failed for so long that they should be disabled.
    """
    dialect = conn.dialect.name
    params = _TRIED.params(
        dialect,
        [
            (
                t.due.id,
                t.due.claim_id,
                t.state.value,
                t.wait_s,
                1 if t.due.trigger == "auto" else 0,
                t.http_status,
                t.fault,
            )
            for t in tries
        ],
    )
    # Plain columns only: SQLite 3.40 takes a NULL for something in expressions of the RETURNING of an UPDATE FROM.
    moved = {
        row.id: row.due_at if row.state == _S.PENDING.value else None for row in conn.execute(_settle(dialect), params)
    }
    kept = [t for t in tries if t.due.id in moved]
    if kept:
        conn.execute(delivery_attempt.insert(), [_attempt(t, moved[t.due.id]) for t in kept])
    real = [t for t in kept if t.due.trigger != "test"]
    _heard(conn, {t.due.endpoint_id for t in real if t.state is _S.DELIVERED})
    return set(moved), _silent(conn, {t.due.endpoint_id for t in real if t.state is not _S.DELIVERED})


@cache
def _settle(dialect: str) -> Any:
    v = _TRIED.table(dialect)
    gone = sa.exists().where(_E.id == _D.endpoint_id, sa.or_(_E.disabled_at.is_not(None), _E.deleted_at.is_not(None)))
    again = sa.and_(v.c.wait_s.is_not(None), sa.not_(gone))
    return (
        delivery.update()
        .where(_D.id == v.c.id, _D.claim_id == v.c.claim_id, _D.state == _S.SENDING.value)
        .values(
            state=sa.case((sa.and_(v.c.wait_s.is_not(None), gone), _S.SKIPPED.value), else_=v.c.state),
            tries=_D.tries + v.c.counted,
            attempts=_D.attempts + 1,
            trigger="auto",
            due_at=sa.case((again, later(v.c.wait_s)), else_=_D.due_at),
            claim_id=None,
            worker_id=None,
            http_status=v.c.http_status,
            fault=v.c.fault,
            ended_at=sa.case((again, sa.null()), else_=db_now()),
        )
        .returning(_D.id, _D.state, _D.due_at)
    )


def _attempt(t: Tried, next_at: datetime | None) -> dict[str, Any]:
    return {
        "delivery_id": t.due.id,
        "number": t.due.attempts + 1,
        "trigger": t.due.trigger,
        "scheduled_at": t.due.scheduled_at,
        "started_at": t.started_at,
        "http_status": t.http_status,
        "fault": t.fault,
        "reason": clean(t.reason),
        "address": t.address,
        **{name: t.phases.get(name) for name in _PHASES},
        "answer": clean(t.answer, 8192),
        "next_at": next_at,
        "signed_with": t.signed_with,
    }


def _heard(conn: sa.Connection, endpoint_ids: set[str]) -> None:
    if endpoint_ids:
        conn.execute(
            webhook_endpoint.update()
            .where(_E.id.in_(endpoint_ids), _E.failing_since_at.is_not(None))
            .values(failing_since_at=None)
        )


def _silent(conn: sa.Connection, endpoint_ids: set[str]) -> list[str]:
    if not endpoint_ids:
        return []
    conn.execute(
        webhook_endpoint.update()
        .where(_E.id.in_(endpoint_ids), _E.failing_since_at.is_(None))
        .values(failing_since_at=db_now())
    )
    long = sa.and_(_E.id.in_(endpoint_ids), _E.disabled_at.is_(None), _E.failing_since_at < later(-DISABLE_AFTER_S))
    return list(conn.execute(sa.select(_E.id).where(long)).scalars())


# -- by the sweep ----------------------------------------------------------------------------------------------------


def take_back(conn: sa.Connection) -> int:
    """Free what dead workers were sending. Whether the receiver has it is unknown: it is sent again under its id."""
    dead = (
        sa.select(_D.worker_id)
        .outerjoin(worker, worker.c.id == _D.worker_id)
        .where(_D.state == _S.SENDING.value, sa.or_(worker.c.id.is_(None), worker.c.dead_at.is_not(None)))
        .distinct()
    )
    return conn.execute(
        delivery.update()
        .where(_D.state == _S.SENDING.value, _D.worker_id.in_(dead))
        .values(state=_S.PENDING.value, claim_id=None, worker_id=None, due_at=db_now())
    ).rowcount


def claimed(conn: sa.Connection, worker_id: str) -> list[tuple[str, str]]:
    """(delivery id, claim id) of all that this worker is sending."""
    query = sa.select(_D.id, _D.claim_id).where(_D.state == sa.literal_column("'sending'"), _D.worker_id == worker_id)
    return [(row.id, row.claim_id) for row in conn.execute(query)]


def give_back(conn: sa.Connection, claims: Sequence[tuple[str, str]], wait_s: float = 0.0) -> None:
    """(delivery id, claim id): claimed by us, and nothing of it is on record. Due again after `wait_s`."""
    for delivery_id, claim_id in claims:
        conn.execute(
            delivery.update()
            .where(_D.id == delivery_id, _D.claim_id == claim_id, _D.state == _S.SENDING.value)
            .values(state=_S.PENDING.value, claim_id=None, worker_id=None, due_at=later(wait_s))
        )


def purge(conn: sa.Connection, older_than_s: float, most: int = 500) -> int:
    """Forget deliveries that ended long ago, and events nobody waits for. Returns how many of the more numerous."""
    old = sa.select(_D.id).where(_D.ended_at.is_not(None), _D.created_at < begun(-older_than_s)).limit(most)
    ids = list(conn.execute(old).scalars())
    if ids:
        conn.execute(delivery_attempt.delete().where(delivery_attempt.c.delivery_id.in_(ids)))
        conn.execute(delivery.delete().where(_D.id.in_(ids)))
    waited_for = sa.exists().where(_D.event_id == event.c.id)
    alone = sa.select(event.c.id).where(event.c.created_at < begun(-older_than_s), sa.not_(waited_for)).limit(most)
    forgotten = conn.execute(event.delete().where(event.c.id.in_(alone))).rowcount
    return max(len(ids), forgotten)


# -- by people -------------------------------------------------------------------------------------------------------


def resend(conn: sa.Connection, project_id: str, delivery_id: str) -> bool:
    """Send once more, now, with the same id and body; the automatic schedule keeps its count. False while it is being
    sent, where its endpoint is disabled or gone, or where there is no such delivery.
    """
    where = sa.and_(_D.id == delivery_id, _D.state != _S.SENDING.value)
    return _wake(conn, project_id, where, "manual") == 1


def recover(
    conn: sa.Connection, project_id: str, endpoint_id: str, since: datetime, until: datetime | None = None
) -> int:
    """Send again what failed or was skipped in this time, and at once what waits for its next try. Returns how many."""
    waits = sa.and_(_D.state == _S.PENDING.value, _D.attempts > 0, _D.due_at > db_now())
    where = sa.and_(_D.endpoint_id == endpoint_id, sa.or_(_D.state.in_(_AGAIN), waits), _D.created_at >= since)
    if until is not None:
        where = sa.and_(where, _D.created_at <= until)
    return _wake(conn, project_id, where, "recover")


def _wake(conn: sa.Connection, project_id: str, where: sa.ColumnElement[bool], trigger: Trigger) -> int:
    alive = sa.exists().where(_E.id == _D.endpoint_id, _E.disabled_at.is_(None), _E.deleted_at.is_(None))
    return conn.execute(
        delivery.update()
        .where(where, _D.project_id == project_id, alive)
        .values(state=_S.PENDING.value, trigger=trigger, due_at=db_now(), ended_at=None)
    ).rowcount


def keep_trial(conn: sa.Connection, tried: Tried) -> None:
    """A try that a person asked for and watched: over before there is a row of it. Its event is stored already."""
    due = tried.due
    conn.execute(
        delivery.insert().values(
            id=due.id,
            project_id=due.project_id,
            endpoint_id=due.endpoint_id,
            event_id=due.event_id,
            object_id=due.endpoint_id,
            state=tried.state.value,
            tries=0,
            attempts=1,
            trigger=due.trigger,
            due_at=db_now(),
            http_status=tried.http_status,
            fault=tried.fault,
            created_at=db_now(),
            ended_at=db_now(),
        )
    )
    conn.execute(delivery_attempt.insert(), [_attempt(tried, None)])
