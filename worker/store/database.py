"""The database of a process: Postgres in production, SQLite embedded; one code path over both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_PG_OPTIONS: Final = (
    "-c timezone=UTC -c statement_timeout=30000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=30000"
)


Connection = sa.Connection
_NO_TABLE: Final = "42P01"


class Unavailable(Exception):
    """The database cannot be reached or is shutting down; the same work may succeed a moment later."""


class Database:
    """Short transactions only: nothing here is held while a provider is waited for."""

    def __init__(self, url: str, *, connections: int = 8, pings: bool = True) -> None:
        """`pings`: a connection is tried before it is lent; without, the first statement after an outage fails."""
        self.url: Final = sa.make_url(url)
        self.dialect: Final = self.url.get_backend_name()
        options: dict[str, Any] = {"pool_size": connections, "max_overflow": 0, "pool_timeout": 5.0}
        if self.dialect == "postgresql":
            options["pool_pre_ping"] = pings
            options["connect_args"] = {
                "connect_timeout": 3,
                "options": _PG_OPTIONS,
                "application_name": "completar",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            }
        else:
            options["connect_args"] = {"timeout": 10.0, "check_same_thread": False}
        self._engine = sa.create_engine(self.url, **options)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self.dialect == "sqlite":
            event.listen(self._engine, "connect", _pragmas)
            event.listen(self._engine, "begin", _begin_immediate)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction, committed when the block ends well. Raises Unavailable when the database is away.

        Without `durable` the commit does not wait for the disk; the next durable one of any session brings it there,
        for the log is written in order.
        """
        with _translated(), self._engine.begin() as conn:
            if not durable and self.dialect == "postgresql":
                conn.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            yield conn

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Statements that each see the newest committed rows. Raises Unavailable when the database is away."""
        with _translated(), self._autocommit.connect() as conn:
            yield conn

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as exc:
        raise Unavailable("no database connection was free in time") from exc
    except (OperationalError, InterfaceError) as exc:
        raise Unavailable(_reason(exc)) from exc
    except ProgrammingError as exc:
        if getattr(exc.orig, "sqlstate", None) == _NO_TABLE:
            raise Unavailable("the tables are not there yet: `completar db upgrade` makes them") from exc
        raise
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise Unavailable(_reason(exc)) from exc
        raise


def _reason(exc: DBAPIError) -> str:
    """The driver's first line, which names host and port but never the password."""
    return str(exc.orig).strip().splitlines()[0][:200] if exc.orig is not None else "the database is away"


def _pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(conn: sa.Connection) -> None:
    # A transaction that starts by reading and then writes would fail at once when another writer came between.
    conn.exec_driver_sql("BEGIN IMMEDIATE")
