"""Bring a database to this release's schema, and tell whether it is there.

A migration meets traffic. One that waits for a table's lock makes every statement behind it wait too, so it waits for a
moment only, gives up with nothing changed, and comes again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from worker import clock, events
from worker.store.database import Database, Unavailable

_MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
_ONE_AT_A_TIME: Final = 7263514  # of Postgres's advisory locks
_NOT_NOW: Final = frozenset({"55P03", "40P01"})  # the lock was not to be had in time; a deadlock


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a migration waits for a lock, and with that everybody behind it; and for how long it comes again."""

    lock_s: float = 1.0
    pause_s: float = 2.0  # in which all that waited behind it goes on
    total_s: float = 120.0


USUAL: Final = Patience()
HEAD: Final = "head"


class Locked(Unavailable):
    """Others held the tables all the time; what is missing was not migrated."""


class _Busy(Exception):
    pass


def _config(conn: sa.Connection | None = None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(_MIGRATIONS))
    made.attributes["connection"] = conn
    return made


def upgrade(database: Database, revision: str = HEAD, *, patience: Patience = USUAL) -> None:
    """Run every migration that is missing. Raises Unavailable when the database is away, Locked when it is too busy."""
    if revision == HEAD and not pending(database):
        return
    give_up_at = clock.monotonic_s() + patience.total_s
    while True:
        try:
            with _connection(database, patience) as conn:
                command.upgrade(_config(conn), revision)
        except _Busy as exc:
            if clock.monotonic_s() >= give_up_at:
                raise Locked(f"{exc}, for {patience.total_s:g} s; nothing was changed by halves, run it again") from exc
            events.emit("migration.waiting", level="warning", reason=str(exc))
            threading.Event().wait(patience.pause_s * (0.75 + 0.5 * clock.draw()))
        else:
            return


@contextmanager
def _connection(database: Database, patience: Patience) -> Iterator[sa.Connection]:
    if database.dialect != "postgresql":
        with database.write() as conn:
            yield conn
        return
    with database.session() as conn:
        try:
            conn.exec_driver_sql(f"SET lock_timeout = {round(patience.lock_s * 1000)}")
            conn.exec_driver_sql("SET statement_timeout = 0")  # an index of a big table takes its time
            # Asked for, not waited for: a session that waits for it would hold up an index built beside the traffic.
            alone = conn.execute(sa.select(sa.func.pg_try_advisory_lock(_ONE_AT_A_TIME))).scalar_one()
            conn.commit()
            if not alone:
                raise _Busy("another process is migrating")
            yield conn
            conn.commit()
        except sa.exc.DBAPIError as exc:
            if getattr(exc.orig, "sqlstate", None) in _NOT_NOW:
                raise _Busy("a table is in use by a long transaction") from exc
            raise


def pending(database: Database) -> bool:
    """Whether the schema is behind this release. Raises Unavailable when the database is away.

    One that is ahead of it is not: during a deploy the release before runs on for a while.
    """
    scripts = ScriptDirectory.from_config(_config())
    with database.read() as conn:
        current = MigrationContext.configure(conn).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    return current != scripts.get_current_head() and (current is None or current in known)
