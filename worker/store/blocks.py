"""Blocks of jobs that one statement chooses and moves, passing by what others hold."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def locked_block(conn: sa.Connection, chosen: sa.Select[Any]) -> sa.Select[Any]:
    """The rows that `chosen` selects and nobody holds, locked; for `job.c.id.in_(...)` of an update."""
    if conn.dialect.name != "sqlite":  # there, whoever writes is alone
        chosen = chosen.with_for_update(skip_locked=True)
    once = chosen.cte("chosen")  # a subquery with a lock may be run again for each row, and then has no limit
    return sa.select(once.c.id)
