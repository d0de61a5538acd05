"""Idempotency keys: what a request made is remembered in the transaction that made it.

Of a client that sends no key, but repeats by itself and counts, it is remembered by what it asked (`note`). No two such
rows are alike, so that the same request may be made twice on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker.store.moment import begun, db_now, later
from worker.store.tables import idempotency
from worker.store.text import dumps

KEPT_S = 24 * 3600.0
# OpenAI's clients give an answer up after 600 s at most, and repeat within 8 s of that.
REPEATED_S = 660.0


@dataclass(frozen=True, slots=True)
class Remembered:
    """`fingerprint` of the first request (SHA-256 hex) and the ids of what it made."""

    fingerprint: str
    made: tuple[str, ...]


def find(conn: sa.Connection, project_id: str, route: str, key: str) -> Remembered | None:
    row = conn.execute(
        sa.select(idempotency.c.fingerprint, idempotency.c.made).where(
            idempotency.c.project_id == project_id,
            idempotency.c.route == route,
            idempotency.c.key == key,
            idempotency.c.created_at > later(-KEPT_S),
        )
    ).first()
    return Remembered(row.fingerprint, tuple(json.loads(row.made))) if row is not None else None


def remember(conn: sa.Connection, project_id: str, route: str, key: str, fingerprint: str, made: Sequence[str]) -> bool:
    """False: another request with this key was first; roll back and `find` it."""
    mine = (
        idempotency.c.project_id == project_id,
        idempotency.c.route == route,
        idempotency.c.key == key,
    )
    conn.execute(idempotency.delete().where(*mine, idempotency.c.created_at <= later(-KEPT_S)))
    try:
        with conn.begin_nested():
            conn.execute(
                idempotency.insert().values(
                    project_id=project_id,
                    route=route,
                    key=key,
                    fingerprint=fingerprint,
                    made=dumps(list(made)),
                    created_at=db_now(),
                )
            )
    except IntegrityError:
        return False
    return True


def note(conn: sa.Connection, project_id: str, route: str, fingerprint: str, attempt: int, made: str) -> None:
    """What the `attempt`-th repetition (0: the first try) of a request without a key has made."""
    conn.execute(
        idempotency.insert().values(
            project_id=project_id,
            route=_by_request(route, fingerprint),
            key=f"{attempt} {made}",
            fingerprint=fingerprint,
            made=dumps([made]),
            created_at=db_now(),
        )
    )


def take(conn: sa.Connection, project_id: str, route: str, fingerprint: str, attempt: int) -> str | None:
    """The newest that an earlier attempt of this request made, and no other repetition was given. It is this one's now.

    Of two equal requests that both lost their answers each gets its own.
    """
    mine = (idempotency.c.project_id == project_id, idempotency.c.route == _by_request(route, fingerprint))
    late = sa.select(idempotency.c.key).where(*mine, idempotency.c.created_at > later(-REPEATED_S))
    known: list[list[str]] = [key.split() for key in conn.execute(late).scalars()]
    for given, made in sorted(known, key=lambda one: one[1], reverse=True):
        taken = idempotency.update().where(*mine, idempotency.c.key == f"{given} {made}")
        values = {"key": f"{attempt} {made}", "created_at": db_now()}
        if int(given) < attempt and conn.execute(taken.values(**values)).rowcount == 1:
            return made
    return None


def _by_request(route: str, fingerprint: str) -> str:
    """Stands for the route. No caller's key can meet it: a route has no space."""
    return f"{route} {fingerprint[:40]}"


def prune(conn: sa.Connection, older_than_s: float = KEPT_S, most: int = 500) -> int:
    """Drop what no reader finds any more, a block of it. Returns how many."""
    key = (idempotency.c.project_id, idempotency.c.route, idempotency.c.key)
    old = sa.select(*key).where(idempotency.c.created_at <= begun(-older_than_s)).limit(most)
    return conn.execute(idempotency.delete().where(sa.tuple_(*key).in_(old))).rowcount
