"""Postgres tells workers that a lane has due rows: `pg_notify` and LISTEN. A hint, as every message is.

A notice that is lost (a pooler in between, a connection that broke) costs until the next look for due rows, no job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from worker import events
from worker.domain.failure import Lane
from worker.store.database import Database, Unavailable

CHANNEL: Final = "completar"
AGAIN_S: Final = 2.0  # until a broken connection is made anew
LOOK_S: Final = 1.0  # between two looks whether it is time to stop


def send(conn: sa.Connection, lane: Lane) -> None:
    """Tell every worker that listens to this database."""
    conn.execute(sa.select(sa.func.pg_notify(CHANNEL, lane.value)))


def listen(database: Database, heard: Callable[[Lane], None], stopping: threading.Event) -> None:
    """Until `stopping`, in a thread of the caller's: `heard` for each notice. Holds one connection of the pool."""
    while not stopping.is_set():
        try:
            with database.session() as conn:
                driver: Any = conn.connection.driver_connection
                driver.autocommit = True
                driver.execute(f"LISTEN {CHANNEL}")
                for lane in Lane:
                    heard(lane)  # what was said before we listened
                while not stopping.is_set():
                    for notice in driver.notifies(timeout=LOOK_S):
                        with suppress(ValueError):  # of a release that knows more lanes
                            heard(Lane(notice.payload))
        except (Unavailable, psycopg.Error) as exc:
            events.emit("notices.away", level="warning", error=type(exc).__name__)
            stopping.wait(AGAIN_S)
