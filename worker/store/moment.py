"""Instants in SQL. The database's clock is the only one that is compared; a worker's never is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import expression
from sqlalchemy.types import TypeDecorator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """Aware UTC. `timestamptz` on Postgres; whole microseconds since 1970 on SQLite, which has no such type."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.BigInteger())
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Any) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return (value - _EPOCH) // _US

    def process_result_value(self, value: Any, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "sqlite":
            return _EPOCH + int(value) * _US
        return value.astimezone(UTC) if isinstance(value, datetime) else None


class db_now(expression.FunctionElement[datetime]):  # noqa: N801 - reads as SQL
    """The database's clock at this statement."""

    type = Moment()
    inherit_cache = True


@compiles(db_now, "postgresql")
def _now_pg(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "clock_timestamp()"


@compiles(db_now, "sqlite")
def _now_sqlite(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


class later(expression.FunctionElement[datetime]):  # noqa: N801 - reads as SQL
    """The database's clock plus a number of seconds (negative: ago); NULL seconds give NULL."""

    type = Moment()
    inherit_cache = True

    def __init__(self, seconds: Any) -> None:
        super().__init__(expression.literal(seconds, sa.Float()) if isinstance(seconds, int | float) else seconds)


@compiles(later, "postgresql")
def _later_pg(element: Any, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(later, "sqlite")
def _later_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"CAST((julianday('now') - 2440587.5) * 86400000000 + ({seconds}) * 1000000 AS INTEGER)"


class begun(later):  # noqa: N801 - reads as SQL
    """When this transaction began, plus a number of seconds (negative: ago).

    One value for the whole statement, so an index is searched by it; the clock itself is read anew for each row, and
    Postgres then goes through every entry of the index.
    """

    inherit_cache = True


@compiles(begun, "postgresql")
def _begun_pg(element: Any, compiler: Any, **kw: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


class seconds_until(expression.FunctionElement[float]):  # noqa: N801 - reads as SQL
    """Seconds from the database's clock to a moment."""

    type = sa.Float()
    inherit_cache = True


@compiles(seconds_until, "postgresql")
def _until_pg(element: Any, compiler: Any, **kw: Any) -> str:
    return f"CAST(EXTRACT(EPOCH FROM ({compiler.process(element.clauses, **kw)} - clock_timestamp())) AS FLOAT)"


@compiles(seconds_until, "sqlite")
def _until_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"({compiler.process(element.clauses, **kw)} - (julianday('now') - 2440587.5) * 86400000000) / 1000000.0"


class utc_day(expression.FunctionElement[str]):  # noqa: N801 - reads as SQL
    """The day of a moment, `2026-11-22`."""

    type = sa.Text()
    inherit_cache = True


@compiles(utc_day, "postgresql")
def _day_pg(element: Any, compiler: Any, **kw: Any) -> str:
    return f"to_char({compiler.process(element.clauses, **kw)} AT TIME ZONE 'UTC', 'YYYY-MM-DD')"


@compiles(utc_day, "sqlite")
def _day_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"date({compiler.process(element.clauses, **kw)} / 1000000, 'unixepoch')"


def instant(conn: sa.Connection) -> datetime:
    """The database's clock, aware UTC."""
    return conn.execute(sa.select(db_now())).scalar_one()
