"""Pauses on record: one row per scope, moved by guarded statements. What every process mirrors."""

from __future__ import annotations

import math
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker.domain.pause import Cause, Pause, PauseKind, Scope
from worker.store.moment import db_now, later, seconds_until
from worker.store.tables import pause
from worker.store.text import clean

SHOWN_S: Final = 60.0  # so long a pause that is over is shown to the mirrors
_KEPT_S: Final = 2 * 86_400.0  # longer than a job is parked at a time
_MOST: Final = 2_000
_REASON_CUT: Final = 600


def begin(conn: sa.Connection, cause: Cause) -> None:
    """The first failure opens a pause; a later one makes it longer where the provider named a longer wait.

    What a person has paused stays as it is.
    """
    mine = pause.c.id == cause.scope.id
    opened = {
        "kind": cause.kind.value,
        "reason": clean(cause.reason, _REASON_CUT),
        "since_at": db_now(),
        "until_at": later(cause.wait_s),
        "probes": 0,
        "who": None,
        "closed_at": None,
    }
    if _moved(conn, pause.update().where(mine, pause.c.closed_at.is_not(None)).values(**opened)):
        return
    if _insert(conn, cause.scope, opened) or cause.floor_s is None:
        return
    longer = sa.and_(
        mine,
        pause.c.closed_at.is_(None),
        pause.c.kind != PauseKind.OPERATOR.value,
        pause.c.until_at < later(cause.floor_s),
    )
    _moved(conn, pause.update().where(longer).values(until_at=later(cause.floor_s), reason=opened["reason"]))


def take_probe(conn: sa.Connection, seen: Pause, next_s: float) -> bool:
    """Whether the caller, alone of all, may let one call through. The next probe is then due in `next_s`."""
    return _moved(
        conn,
        pause.update()
        .where(
            pause.c.id == seen.scope.id,
            pause.c.closed_at.is_(None),
            pause.c.kind != PauseKind.OPERATOR.value,
            pause.c.probes == seen.probes,
            pause.c.until_at <= db_now(),
        )
        .values(probes=pause.c.probes + 1, until_at=later(next_s)),
    )


def end(conn: sa.Connection, scope: Scope) -> bool:
    """A probe was answered. What a person has paused stays so."""
    return _moved(
        conn,
        pause.update()
        .where(pause.c.id == scope.id, pause.c.closed_at.is_(None), pause.c.kind != PauseKind.OPERATOR.value)
        .values(closed_at=db_now()),
    )


def begin_by(conn: sa.Connection, scope: Scope, reason: str, who: str) -> None:
    """A person pauses something, whatever it was before; nothing but a person ends that."""
    values = {
        "kind": PauseKind.OPERATOR.value,
        "reason": clean(reason, _REASON_CUT),
        "since_at": db_now(),
        "until_at": None,
        "probes": 0,
        "who": who,
        "closed_at": None,
    }
    if not _insert(conn, scope, values):
        _moved(conn, pause.update().where(pause.c.id == scope.id).values(**values))


def end_by(conn: sa.Connection, scope: Scope, who: str) -> None:
    """A person lets something go on. On record even where there was no pause: every process is to hear of it."""
    over = {"kind": PauseKind.OPERATOR.value, "who": who, "closed_at": db_now()}
    fresh = {"reason": "let go on by an operator", "since_at": db_now(), "until_at": None, "probes": 0}
    if not _insert(conn, scope, {**fresh, **over}):
        _moved(conn, pause.update().where(pause.c.id == scope.id).values(**over))


def end_all_by(conn: sa.Connection, provider: str, who: str, *, key: str | None = None) -> int:
    """A person lets all of a provider, or one key of it, go on, except targets that were closed one by one.

    Returns how many pauses ended.
    """
    forced = sa.and_(pause.c.covers == "target", pause.c.kind == PauseKind.OPERATOR.value)
    of_key = sa.or_(sa.and_(pause.c.covers == "key", pause.c.name == key), pause.c.key_name == key)
    meant = sa.not_(forced) if key is None else of_key
    return conn.execute(
        pause.update()
        .where(pause.c.provider == provider, pause.c.closed_at.is_(None), meant)
        .values(closed_at=db_now(), who=who)
    ).rowcount


def current(conn: sa.Connection) -> list[Pause]:
    """Those that hold, and those that ended less than SHOWN_S ago."""
    rows = conn.execute(
        _select()
        .where(sa.or_(pause.c.closed_at.is_(None), pause.c.closed_at > later(-SHOWN_S)))
        .order_by(pause.c.closed_at.is_not(None), pause.c.since_at, pause.c.id)
        .limit(_MOST)
    )
    return [_pause(row) for row in rows]


def holding(conn: sa.Connection, provider: str | None = None) -> list[Pause]:
    """Those that hold just now, the oldest first."""
    where: list[sa.ColumnElement[bool]] = [pause.c.closed_at.is_(None)]
    if provider is not None:
        where.append(pause.c.provider == provider)
    return [_pause(row) for row in conn.execute(_select().where(*where).order_by(pause.c.since_at).limit(_MOST))]


def forget(conn: sa.Connection) -> int:
    """Drop those that ended long ago, and those that nobody has had a use for in all that time."""
    idle = sa.and_(pause.c.closed_at.is_(None), pause.c.until_at < later(-_KEPT_S))
    return conn.execute(pause.delete().where(sa.or_(pause.c.closed_at < later(-_KEPT_S), idle))).rowcount


def _insert(conn: sa.Connection, scope: Scope, values: dict[str, Any]) -> bool:
    if conn.execute(sa.select(pause.c.id).where(pause.c.id == scope.id)).first() is not None:
        return False
    row = {
        "id": scope.id,
        "covers": scope.covers,
        "provider": scope.provider,
        "name": clean(scope.name),
        "key_name": scope.key,
        "tag": scope.tag,
        **values,
    }
    try:
        with conn.begin_nested():
            conn.execute(pause.insert().values(**row))
    except IntegrityError:  # somebody else was first
        return False
    return True


def _moved(conn: sa.Connection, move: sa.Update) -> bool:
    return conn.execute(move).rowcount == 1


def _select() -> sa.Select[Any]:
    over = -seconds_until(pause.c.closed_at)
    return sa.select(pause, seconds_until(pause.c.until_at).label("wait_s"), over.label("over_s"))


def _pause(row: Any) -> Pause:
    return Pause(
        scope=Scope(row.covers, row.provider, row.name, row.key_name, row.tag),
        kind=PauseKind(row.kind),
        reason=row.reason,
        since_at=row.since_at,
        until_at=row.until_at,
        probes=row.probes,
        who=row.who,
        closed_at=row.closed_at,
        wait_s=row.wait_s if row.wait_s is not None else math.inf,
        over_s=row.over_s,
    )
