"""Many rows as one parameter set, so that a statement for 200 jobs is one round trip and is compiled once.

Postgres: `unnest` over one array per column. SQLite: `json_each` over one JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

_PREFIX = "rows_"


class Rows:
    """A table made of parameters: `table(dialect)` goes into FROM, `params(dialect, records)` into execute."""

    def __init__(self, **columns: type[sa.types.TypeEngine[Any]]) -> None:
        self._columns = columns

    def table(self, dialect: str) -> sa.FromClause:
        if dialect == "postgresql":
            arrays = [
                sa.cast(sa.bindparam(_PREFIX + name, type_=pg.ARRAY(kind())), pg.ARRAY(kind()))
                for name, kind in self._columns.items()
            ]
            named = [sa.column(name, kind()) for name, kind in self._columns.items()]
            return sa.func.unnest(*arrays).table_valued(*named, name="v").render_derived()
        each = sa.func.json_each(sa.bindparam(_PREFIX + "json", type_=sa.Text)).table_valued("value", name="r")
        picks = [
            sa.type_coerce(sa.func.json_extract(each.c.value, f"$[{n}]"), kind()).label(name)
            for n, (name, kind) in enumerate(self._columns.items())
        ]
        return sa.select(*picks).select_from(each).cte("v")

    def params(self, dialect: str, records: Iterable[Sequence[Any]]) -> dict[str, Any]:
        """`records` are tuples in the order of the columns."""
        if dialect == "postgresql":
            columns = list(zip(*records, strict=True)) or [() for _ in self._columns]
            return {_PREFIX + name: list(column) for name, column in zip(self._columns, columns, strict=True)}
        return {_PREFIX + "json": json.dumps(list(records), ensure_ascii=True, allow_nan=False)}
