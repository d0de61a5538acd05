"""The database of a process: Postgres in production, SQLite embedded; one code path over both."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.clock import monotonic_s
from worker.store.pulse import Pulse, connection

_PG_OPTIONS: Final = (
    "-c timezone=UTC -c statement_timeout=30000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000"
    # Rows are looked up by index, and the part of a table that lives is in memory; nothing here is worth compiling.
    " -c random_page_cost=1.1 -c jit=off"
)


Connection = sa.Connection
_OLDER_SCHEMA: Final = ("42P01", "42703")  # no such table, no such column
# The server says of itself, or of us, that nothing can be done just now: no fault of the statement's. Jobs whose ends a
# standby refused were given up as broken, and their answers set aside.
_NOT_NOW: Final = {
    "25006": "the database takes no writes: a standby, or one that its provider has locked, as when its disk is full",
    "42501": "the database's user may not do this: name the owner of the schema in DATABASE_URL, or grant it",
}
_POOLED: Final = "unsupported startup parameter"
_POOLER: Final = "DATABASE_URL names a pooler that takes no settings of a session: name the database itself"
_FRESH_S: Final = 1.0  # a connection that worked so short a while ago is lent as it is
_LEFT: Final = "completar_left_s"


class Unavailable(Exception):
    """The database cannot be reached or is shutting down; the same work may succeed a moment later."""


class Database:
    """Short transactions only: nothing here is held while a provider is waited for."""

    def __init__(self, url: str, *, connections: int = 8, pings: bool = True) -> None:
        """`pings`: one that lay idle is tried before it is lent; without, the first statement after an outage fails."""
        self.url: Final = sa.make_url(url)
        self.dialect: Final = self.url.get_backend_name()
        options: dict[str, Any] = {"pool_size": connections, "max_overflow": 0, "pool_timeout": 5.0}
        if self.dialect == "postgresql":
            options["connect_args"] = {
                "connect_timeout": 2,
                "options": _PG_OPTIONS,
                "application_name": "completar",
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 5000,  # ms without an acknowledgement: the line is cut, not the server slow
            }
        else:
            options["connect_args"] = {"timeout": 10.0, "check_same_thread": False}
        self._gone = threading.Event()
        self._engine = sa.create_engine(self.url, **options)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._pulse = Pulse(self.url.host or self.url.query.get("host"), self.url.port)  # type: ignore[arg-type]
        if self.dialect == "postgresql":
            event.listen(self._engine, "do_connect", _watching(self._pulse))
            if pings:
                event.listen(self._engine, "checkin", _left)
                event.listen(self._engine, "checkout", _tried(self._engine.dialect))
        if self.dialect == "sqlite":
            event.listen(self._engine, "do_connect", _private)
            event.listen(self._engine, "connect", _pragmas)
            event.listen(self._engine, "begin", _begin_immediate)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, committed when the block ends well. Raises Unavailable when the database is away."""
        with self._lent(self._engine) as conn, conn.begin():
            yield conn

    def each(self) -> AbstractContextManager[sa.Connection]:
        """Statements that are committed one by one: nobody waits for a BEGIN and a COMMIT. Raises Unavailable."""
        return self._lent(self._autocommit)

    def read(self) -> AbstractContextManager[sa.Connection]:
        """Statements that each see the newest committed rows. Raises Unavailable when the database is away."""
        return self._lent(self._autocommit)

    def read_only(self) -> bool:
        """Whether the server would refuse a write just now. Raises Unavailable when the database is away."""
        if self.dialect != "postgresql":
            return False
        with self.read() as conn:
            return bool(conn.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on")

    @contextmanager
    def session(self) -> Iterator[sa.Connection]:
        """A connection that is not lent again afterwards, for what sets things of its own. Raises Unavailable."""
        with _translated(), self._engine.connect() as conn:
            try:
                yield conn
            finally:
                conn.invalidate()

    @contextmanager
    def _lent(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        if self._gone.is_set() or self._pulse.stopped():
            raise Unavailable("closed" if self._gone.is_set() else "the database does not answer")
        with _translated(), engine.connect() as conn:
            try:
                yield conn
            except DBAPIError as exc:
                if _sqlstate(exc) in _NOT_NOW:  # kept, it would go on to a standby when another server has taken over
                    conn.invalidate()
                raise
            finally:
                if self._gone.is_set():  # nobody is left to close it later
                    conn.invalidate()

    def close(self) -> None:
        """For good: whoever still asks, in a thread of its own perhaps, finds it Unavailable."""
        self._gone.set()
        self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as exc:
        raise Unavailable("no database connection was free in time") from exc
    except (OperationalError, InterfaceError) as exc:
        raise Unavailable(_reason(exc)) from exc
    except DBAPIError as exc:
        state = _sqlstate(exc)
        if state in _OLDER_SCHEMA:
            raise Unavailable(
                "the database is not at this release's schema: `python3 run.py db upgrade` brings it there"
            ) from exc
        if state in _NOT_NOW:
            raise Unavailable(f"{_reason(exc)}; {_NOT_NOW[state]}") from exc
        if exc.connection_invalidated:
            raise Unavailable(_reason(exc)) from exc
        raise


def _sqlstate(exc: DBAPIError) -> str:
    return getattr(exc.orig, "sqlstate", None) or ""


def _reason(exc: DBAPIError) -> str:
    """The driver's first line, which names host and port but never the password."""
    told = str(exc.orig).strip().splitlines()[0][:200] if exc.orig is not None else "the database is away"
    return f"{told}; {_POOLER}" if _POOLED in told else told


def _watching(pulse: Pulse) -> Callable[..., Any]:
    watched = connection(pulse)

    def connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
        if not pulse.beats():  # it would be waited for as long as connect_timeout says
            raise OperationalError("connect", None, psycopg.OperationalError("the database does not answer"))
        return watched.connect(*arguments, **parameters)

    return connect


def _left(_connection: Any, record: Any) -> None:
    record.info[_LEFT] = monotonic_s()


def _tried(dialect: sa.Dialect) -> Callable[..., None]:
    """What `pool_pre_ping` does, but not each time: a request takes four connections in as many milliseconds, and a
    waiting one looks every three; the pings were more of its round trips than anything else.
    """

    def tried(connection: Any, record: Any, _proxy: Any) -> None:
        left_s = record.info.get(_LEFT)
        if left_s is None or (monotonic_s() - left_s < _FRESH_S and not _heard(connection.fileno())):
            return
        try:
            dialect.do_ping(connection)
        except psycopg.Error as exc:
            raise InvalidatePoolError from exc

    return tried


def _heard(connection: int) -> bool:
    """Whether an idle connection, by its file descriptor, has something to read: most often that the server hung up."""
    if hasattr(select, "poll"):  # not on Windows, whose `select` takes any number
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([connection], [], [], 0)[0])


def _private(_dialect: Any, _record: Any, arguments: Any, _parameters: Any) -> None:
    """A file that is new is for its owner only, whatever folder it is in; its log has the rights of the file.

    One that is there is not opened: closing it would drop the locks that SQLite holds in this process
    (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_), and
    another process then took the log away from under us.
    """
    if arguments[0].startswith((":", "file:")):  # in memory, or with rights of its own choosing
        return
    with suppress(OSError):  # it is there; or whoever opens it says what is wrong
        os.close(os.open(arguments[0], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(conn: sa.Connection) -> None:
    # A transaction that starts by reading and then writes would fail at once when another writer came between.
    # What only reads waits for no writer, and holds up none.
    if conn.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        conn.exec_driver_sql("BEGIN IMMEDIATE")
