"""What the columns of all tables share: the types of ids and large numbers, and how constraints are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Ids sort by byte, whatever the database's language: cursors depend on it.
Id = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def id_column(name: str, **kw: Any) -> sa.Column[str]:
    return sa.Column(name, Id, **kw)


def written_out(column: sa.ColumnElement[str], word: str, rare: Sequence[str]) -> list[sa.ColumnElement[bool]]:
    """That a column has this word; where it is a rare one, in the words of the index of these, too.

    In the text of the statement: only so can every plan use that index, and SQLite knows it by nothing else.
    """
    one = column == sa.literal_column(f"'{word}'", sa.Text)
    return [one, column.in_(sa.literal_column(f"'{each}'") for each in rare)] if word in rare else [one]
