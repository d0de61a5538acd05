"""Idempotency keys: what a request made is remembered in the transaction that made it."""

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


def prune(conn: sa.Connection) -> int:
    return conn.execute(idempotency.delete().where(idempotency.c.created_at <= begun(-KEPT_S))).rowcount
