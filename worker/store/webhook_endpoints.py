"""Who is told, and with which secret. What is secret arrives encrypted and leaves encrypted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker.domain.delivery import DeliveryState, Payload, Secrets, WebhookEndpoint
from worker.store.moment import db_now, later
from worker.store.text import clean
from worker.store.webhook_tables import delivery, webhook_endpoint, webhook_secret

_E = webhook_endpoint.c
_ALIVE = _E.deleted_at.is_(None)


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """`fingerprint` None: a standing one. `secret` None: signed with the project's."""

    id: str
    project_id: str
    url: str
    event_types: tuple[str, ...]
    name: str | None = None
    fingerprint: str | None = None
    payload: Payload = "thin"
    max_rps: float = 50.0
    max_concurrency: int = 20
    timeout_s: float = 15.0
    headers: str | None = None
    secret: str | None = None


def insert(conn: sa.Connection, new: NewEndpoint) -> None:
    conn.execute(
        webhook_endpoint.insert().values(
            id=new.id,
            project_id=new.project_id,
            fingerprint=new.fingerprint,
            url=new.url,
            name=new.name,
            event_types=" ".join(new.event_types),
            payload=new.payload,
            max_rps=new.max_rps,
            max_concurrency=new.max_concurrency,
            timeout_s=new.timeout_s,
            headers=new.headers,
            secret=new.secret,
            created_at=db_now(),
        )
    )


def ensure(conn: sa.Connection, new: NewEndpoint) -> str:
    """The id of the endpoint with this fingerprint, made if there is none."""
    find = sa.select(_E.id).where(_E.project_id == new.project_id, _E.fingerprint == new.fingerprint)
    found = conn.execute(find).scalar_one_or_none()
    if found is None:
        try:
            with conn.begin_nested():
                insert(conn, new)
        except IntegrityError:  # two requests with a new address at once
            pass
        else:
            return new.id
        found = conn.execute(find).scalar_one()
    return str(found)


def get(conn: sa.Connection, project_id: str, endpoint_id: str) -> WebhookEndpoint | None:
    row = conn.execute(_select().where(_E.id == endpoint_id, _E.project_id == project_id, _ALIVE)).first()
    return _endpoint(row) if row is not None else None


def many(conn: sa.Connection, ids: Sequence[str]) -> dict[str, WebhookEndpoint]:
    """By id, whatever their project: for the sender, which has them from its own rows."""
    rows = conn.execute(_select().where(_E.id.in_(ids), _ALIVE))
    return {row.id: _endpoint(row) for row in rows}


def standing(conn: sa.Connection, project_ids: Sequence[str]) -> dict[str, list[WebhookEndpoint]]:
    """The standing endpoints of these projects."""
    found: dict[str, list[WebhookEndpoint]] = {}
    query = _select().where(_E.project_id.in_(project_ids), _E.fingerprint.is_(None), _ALIVE).order_by(_E.id)
    for row in conn.execute(query):
        found.setdefault(row.project_id, []).append(_endpoint(row))
    return found


def listed(
    conn: sa.Connection, project_id: str, *, after: str | None = None, limit: int = 20
) -> tuple[list[WebhookEndpoint], bool]:
    """One page of the standing ones, newest first, and whether there is another."""
    where = [_E.project_id == project_id, _E.fingerprint.is_(None), _ALIVE]
    if after is not None:
        where.append(_E.id < after)
    rows = conn.execute(_select().where(*where).order_by(_E.id.desc()).limit(limit + 1)).all()
    return [_endpoint(row) for row in rows[:limit]], len(rows) > limit


def count(conn: sa.Connection, project_id: str) -> int:
    """How many standing ones there are."""
    mine = sa.select(sa.func.count()).where(_E.project_id == project_id, _E.fingerprint.is_(None), _ALIVE)
    return int(conn.execute(mine).scalar_one())


def update(conn: sa.Connection, project_id: str, endpoint_id: str, changes: Mapping[str, Any]) -> bool:
    """Change columns by name; False where there is no such endpoint."""
    values = dict(changes)
    if "event_types" in values:
        values["event_types"] = " ".join(values["event_types"])
    return _changed(conn, _mine(project_id, endpoint_id), values)


def rotate(conn: sa.Connection, project_id: str, endpoint_id: str, secret: str, keep_old_s: float) -> bool:
    """A new secret; the old one goes on signing beside it for `keep_old_s` seconds."""
    values = {
        "old_secret": webhook_endpoint.c.secret if keep_old_s > 0 else None,
        "old_secret_until_at": later(keep_old_s) if keep_old_s > 0 else None,
        "secret": secret,
    }
    return _changed(conn, _mine(project_id, endpoint_id), values)


def delete(conn: sa.Connection, project_id: str, endpoint_id: str) -> bool:
    """Nothing more is sent to it; what was waiting is skipped. False where there is no such endpoint."""
    if not _changed(conn, _mine(project_id, endpoint_id), {"deleted_at": db_now(), "secret": None, "old_secret": None}):
        return False
    skip_pending(conn, endpoint_id)
    return True


def disable(conn: sa.Connection, endpoint_id: str, reason: str) -> bool:
    """False where it was disabled already: there is one transition, and so one notice."""
    where = sa.and_(_E.id == endpoint_id, _E.disabled_at.is_(None), _ALIVE)
    if not _changed(conn, where, {"disabled_at": db_now(), "disabled_reason": clean(reason, 500)}):
        return False
    skip_pending(conn, endpoint_id)
    return True


def enable(conn: sa.Connection, project_id: str, endpoint_id: str) -> bool:
    """Of a job's own address too: there is no other way back for it."""
    values = {"disabled_at": None, "disabled_reason": None, "failing_since_at": None}
    where = sa.and_(_E.id == endpoint_id, _E.project_id == project_id, _E.disabled_at.is_not(None), _ALIVE)
    return _changed(conn, where, values)


def skip_pending(conn: sa.Connection, endpoint_id: str) -> None:
    """What waits for an endpoint that is disabled or gone; the row of the endpoint is locked."""
    conn.execute(
        delivery.update()
        .where(delivery.c.endpoint_id == endpoint_id, delivery.c.state == DeliveryState.PENDING.value)
        .values(state=DeliveryState.SKIPPED.value, ended_at=db_now())
    )


def project_secrets(conn: sa.Connection, project_id: str) -> Secrets | None:
    row = conn.execute(sa.select(*_secrets(webhook_secret)).where(webhook_secret.c.project_id == project_id)).first()
    return Secrets(row.secret, row.old_secret) if row is not None else None


def ensure_project_secret(conn: sa.Connection, project_id: str, secret: Callable[[], str]) -> bool:
    """Give the project this secret unless it has one; True where it was given."""
    if project_secrets(conn, project_id) is not None:
        return False
    try:
        with conn.begin_nested():
            conn.execute(webhook_secret.insert().values(project_id=project_id, secret=secret()))
    except IntegrityError:
        return False
    return True


def rotate_project_secret(conn: sa.Connection, project_id: str, secret: str, keep_old_s: float) -> None:
    """As `rotate`, for the project's own secret; it is made where there was none."""
    if ensure_project_secret(conn, project_id, lambda: secret):
        return
    conn.execute(
        webhook_secret.update()
        .where(webhook_secret.c.project_id == project_id)
        .values(
            old_secret=webhook_secret.c.secret if keep_old_s > 0 else None,
            old_secret_until_at=later(keep_old_s) if keep_old_s > 0 else None,
            secret=secret,
        )
    )


def sealed(conn: sa.Connection) -> list[tuple[sa.Table, str, dict[str, str]]]:
    """Everything encrypted, as (table, id, texts by column): for the change of the key it is encrypted with."""
    found: list[tuple[sa.Table, str, dict[str, str]]] = []
    for table, names in (
        (webhook_endpoint, ("headers", "secret", "old_secret")),
        (webhook_secret, ("secret", "old_secret")),
    ):
        key = table.primary_key.columns[0]
        for row in conn.execute(sa.select(key, *(table.c[name] for name in names))):
            texts = {name: text for name, text in zip(names, row[1:], strict=True) if text is not None}
            if texts:
                found.append((table, row[0], texts))
    return found


def reseal(conn: sa.Connection, table: sa.Table, row_id: str, texts: Mapping[str, str], was: Mapping[str, str]) -> bool:
    """Put texts encrypted anew in the place of the old ones; False where somebody changed them meanwhile."""
    unchanged = [table.c[name] == text for name, text in was.items()]
    where = sa.and_(table.primary_key.columns[0] == row_id, *unchanged)
    return conn.execute(table.update().where(where).values(**texts)).rowcount == 1


def _mine(project_id: str, endpoint_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_E.id == endpoint_id, _E.project_id == project_id, _E.fingerprint.is_(None), _ALIVE)


def _changed(conn: sa.Connection, where: sa.ColumnElement[bool], values: Mapping[str, Any]) -> bool:
    return conn.execute(webhook_endpoint.update().where(where).values(**values)).rowcount == 1


def _secrets(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    """The secret, and the old one while its time lasts."""
    valid = table.c.old_secret_until_at > db_now()
    return [table.c.secret, sa.case((valid, table.c.old_secret), else_=sa.null()).label("old_secret")]


def _select() -> sa.Select[Any]:
    plain = [column for column in _E if column.name not in ("secret", "old_secret", "old_secret_until_at")]
    return sa.select(*plain, *_secrets(webhook_endpoint))


def _endpoint(row: Any) -> WebhookEndpoint:
    return WebhookEndpoint(
        id=row.id,
        project_id=row.project_id,
        url=row.url,
        name=row.name,
        standing=row.fingerprint is None,
        event_types=tuple(row.event_types.split()),
        payload=row.payload,
        max_rps=row.max_rps,
        max_concurrency=row.max_concurrency,
        timeout_s=row.timeout_s,
        headers=row.headers,
        secrets=Secrets(row.secret, row.old_secret) if row.secret is not None else None,
        failing_since_at=row.failing_since_at,
        disabled_at=row.disabled_at,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
    )
