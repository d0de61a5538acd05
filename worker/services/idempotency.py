"""A request that comes twice does its work once: what it made is remembered in the transaction that makes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from worker.store import idempotency
from worker.store.database import Connection, Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`route` names the operation, `key` is the caller's, `fingerprint` is of the request (see `fingerprint`)."""

    route: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Unkeyed:
    """Of a client that sends no key but repeats by itself, and counts: `attempt` 0 is its first try.

    `fingerprint` is of the request and of who sends it.
    """

    route: str
    fingerprint: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the same request made before, by its ids."""

    ids: tuple[str, ...]


class KeyReused(ValueError):
    """The idempotency key was used with another request."""


class _TooLate(Exception):
    """The same key in parallel: the other one was first. Rolls the transaction back."""


def fingerprint(request: Any) -> str:
    """SHA-256 of the request's JSON with sorted keys, hex."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def earlier(database: Database, project_id: str, sent: IdempotencyKey | Unkeyed | None) -> Earlier | None:
    """What this request made before; None: it is the first. Raises KeyReused."""
    match sent:
        case IdempotencyKey():
            with database.read() as conn:
                known = idempotency.find(conn, project_id, sent.route, sent.key)
            if known is None:
                return None
            if known.fingerprint != sent.fingerprint:
                key = sent.key[:40]
                raise KeyReused(f"Idempotency-Key {key!r} was used with another request in the last 24 hours")
            return Earlier(known.made)
        case Unkeyed(attempt=attempt) if attempt > 0:
            with database.write() as conn:
                made = idempotency.take(conn, project_id, sent.route, sent.fingerprint, attempt)
            return None if made is None else Earlier((made,))
    return None


def once(
    database: Database,
    project_id: str,
    sent: IdempotencyKey | Unkeyed | None,
    ids: Sequence[str],
    work: Callable[[Connection], T],
) -> T | Earlier:
    """What `work` returns, which makes what has these ids; all of it is committed, and remembered. Or nothing is, and
    it is said what the same request, which came in parallel, has made. Whoever calls has asked `earlier` before.

    Raises KeyReused, and what `work` raises.
    """
    try:
        with database.write() as conn:
            _remember(conn, project_id, sent, ids)
            return work(conn)
    except _TooLate:
        made = earlier(database, project_id, sent)
        assert made is not None
        return made


def _remember(conn: Connection, project_id: str, sent: IdempotencyKey | Unkeyed | None, ids: Sequence[str]) -> None:
    match sent:
        case IdempotencyKey(route, key, asked):
            if not idempotency.remember(conn, project_id, route, key, asked, ids):
                raise _TooLate
        case Unkeyed(route, asked, attempt):
            (made,) = ids
            idempotency.note(conn, project_id, route, asked, attempt, made)
