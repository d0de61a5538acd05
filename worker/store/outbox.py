"""From what happened to who is told: notes are taken from the outbox and become events and deliveries, all or none.

Whoever takes notes deletes them in the transaction that inserts what they became, so that a crash in between leaves
them where they were and no note is told twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from worker.domain.delivery import NewDelivery, NewEvent, Note
from worker.store.moment import begun, db_now
from worker.store.rows import Rows
from worker.store.webhook_tables import delivery, event, outbox, subscription

_IDS = Rows(id=sa.Text)


def take(conn: sa.Connection, most: int) -> list[Note]:
    """The oldest notes that nobody else is taking just now, deleted; they are back when the transaction fails."""
    # Two statements: in one, Postgres may run a locking subquery with a LIMIT more than once, each time over new rows.
    oldest = sa.select(outbox).order_by(outbox.c.id).limit(most)
    if conn.dialect.name == "postgresql":
        oldest = oldest.with_for_update(skip_locked=True)
    rows = conn.execute(oldest).all()
    if rows:
        conn.execute(outbox.delete().where(outbox.c.id.in_([row.id for row in rows])))
    return [Note(r.id, r.project_id, r.object, r.object_id, r.type, r.version, r.at) for r in rows]


def prune(conn: sa.Connection, older_than_s: float, most: int = 500) -> int:
    """Drop notes that nobody took for so long: no worker sends webhooks. Returns how many."""
    oldest = sa.select(outbox.c.id).order_by(outbox.c.id).limit(most)
    return conn.execute(outbox.delete().where(outbox.c.id.in_(oldest), outbox.c.at < begun(-older_than_s))).rowcount


def subscribe(conn: sa.Connection, pairs: Sequence[tuple[str, str]]) -> None:
    """(object id, endpoint id): these endpoints hear of these objects."""
    if pairs:
        conn.execute(
            subscription.insert(), [{"object_id": object_id, "endpoint_id": endpoint} for object_id, endpoint in pairs]
        )


def subscribers(conn: sa.Connection, object_ids: Sequence[str]) -> dict[str, list[str]]:
    """Endpoint ids by object."""
    params = _IDS.params(conn.dialect.name, [(i,) for i in object_ids])
    found: dict[str, list[str]] = {}
    for row in conn.execute(_subscribers(conn.dialect.name), params):
        found.setdefault(row.object_id, []).append(row.endpoint_id)
    return found


@cache
def _subscribers(dialect: str) -> sa.Select[Any]:
    v = _IDS.table(dialect)
    return (
        sa.select(subscription.c.object_id, subscription.c.endpoint_id)
        .where(subscription.c.object_id.in_(sa.select(v.c.id)))
        .order_by(subscription.c.object_id, subscription.c.endpoint_id)
    )


_EVENT = Rows(id=sa.Text, project_id=sa.Text, type=sa.Text, object_id=sa.Text, thin=sa.Text, full=sa.Text)
_DELIVERY = Rows(
    id=sa.Text,
    project_id=sa.Text,
    endpoint_id=sa.Text,
    event_id=sa.Text,
    object_id=sa.Text,
    state=sa.Text,
    trigger=sa.Text,
)


def tell(conn: sa.Connection, events: Sequence[NewEvent], deliveries: Sequence[NewDelivery]) -> None:
    """Store events and what is to be delivered of them, due now."""
    dialect = conn.dialect.name
    if events:
        rows = [(e.id, e.project_id, e.type, e.object_id, e.thin, e.full) for e in events]
        conn.execute(_tell_events(dialect), _EVENT.params(dialect, rows))
    if deliveries:
        told = [
            (d.id, d.project_id, d.endpoint_id, d.event_id, d.object_id, d.state.value, d.trigger) for d in deliveries
        ]
        conn.execute(_tell_deliveries(dialect), _DELIVERY.params(dialect, told))


@cache
def _tell_events(dialect: str) -> sa.Insert:
    v = _EVENT.table(dialect)
    values = {name: v.c[name] for name in ("id", "project_id", "type", "object_id", "thin", "full")}
    return event.insert().from_select([*values, "created_at"], sa.select(*values.values(), db_now()))


@cache
def _tell_deliveries(dialect: str) -> sa.Insert:
    v = _DELIVERY.table(dialect)
    copied = ("id", "project_id", "endpoint_id", "event_id", "object_id", "state", "trigger")
    values: dict[str, Any] = {name: v.c[name] for name in copied}
    values |= {"tries": sa.literal(0), "attempts": sa.literal(0), "due_at": db_now(), "created_at": db_now()}
    values["ended_at"] = sa.case((v.c.state == "skipped", db_now()), else_=sa.null())
    return delivery.insert().from_select(list(values), sa.select(*values.values()))
