"""API keys. Only a digest is stored; the key itself is shown once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker import clock
from worker.store.moment import db_now, later
from worker.store.tables import api_key

SCOPES: Final = ("jobs:read", "jobs:write", "webhooks", "admin")
PREFIX: Final = "ck_"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as listed; `hint` is its first characters. Times aware UTC.

    budget_nano  what the calls of its jobs may cost in all; None: no bound, and nothing is counted
    spent_nano   what those that are over came to        held_nano  what is held for those that are open
    """

    id: str
    project_id: str
    name: str
    hint: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    budget_nano: int | None
    spent_nano: int
    held_nano: int


def digest_of(secret: str) -> str:
    """Keys are random and long, so a plain SHA-256 cannot be searched."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    conn: sa.Connection,
    project_id: str,
    name: str,
    *,
    scopes: Iterable[str] = SCOPES,
    secret: str | None = None,
    lasts_s: float | None = None,
    budget_nano: int | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and return it with its secret. A secret that exists already is returned as it stands.

    A budget is of the key's whole life: it is not changed later, since open calls are held against it.
    """
    secret = PREFIX + clock.new_secret() if secret is None else secret
    digest = digest_of(secret)
    try:
        with conn.begin_nested():
            conn.execute(
                api_key.insert().values(
                    id=clock.new_id("key"),
                    project_id=project_id,
                    name=name,
                    hint=secret[:7],
                    digest=digest,
                    scopes=" ".join(sorted(scopes)),
                    created_at=db_now(),
                    expires_at=later(sa.literal(lasts_s, sa.Float())) if lasts_s is not None else None,
                    budget_nano=budget_nano,
                )
            )
    except IntegrityError:
        pass
    row = conn.execute(sa.select(api_key).where(api_key.c.digest == digest)).one()
    return _key(row), secret


def find(conn: sa.Connection, secret: str) -> ApiKey | None:
    """The living key of this secret: known, not revoked, not expired."""
    row = conn.execute(
        sa.select(api_key).where(
            api_key.c.digest == digest_of(secret),
            api_key.c.revoked_at.is_(None),
            sa.or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > db_now()),
        )
    ).first()
    return _key(row) if row is not None else None


def used(conn: sa.Connection, key_id: str) -> None:
    """Note that a key was used; the caller does this now and then, not per request."""
    conn.execute(api_key.update().where(api_key.c.id == key_id).values(last_used_at=db_now()))


def revoke(conn: sa.Connection, key_id: str) -> bool:
    return (
        conn.execute(
            api_key.update().where(api_key.c.id == key_id, api_key.c.revoked_at.is_(None)).values(revoked_at=db_now())
        ).rowcount
        == 1
    )


def listed(conn: sa.Connection) -> list[ApiKey]:
    return [_key(row) for row in conn.execute(sa.select(api_key).order_by(api_key.c.id))]


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        hint=row.hint,
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        budget_nano=row.budget_nano,
        spent_nano=row.spent_nano,
        held_nano=row.held_nano,
    )
