"""Named leases: one holder at a time by the database's clock. They save work; correctness never depends on them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker.store.moment import db_now, later
from worker.store.tables import lease


def take(conn: sa.Connection, name: str, holder: str, seconds: float) -> bool:
    """Take or renew a lease; False while another holds it."""
    won = conn.execute(
        lease.update()
        .where(lease.c.name == name, sa.or_(lease.c.holder == holder, lease.c.until < db_now()))
        .values(holder=holder, until=later(seconds))
    ).rowcount
    if won:
        return True
    if conn.execute(sa.select(lease.c.name).where(lease.c.name == name)).first() is not None:
        return False
    try:
        with conn.begin_nested():
            conn.execute(lease.insert().values(name=name, holder=holder, until=later(seconds)))
    except IntegrityError:  # somebody else was first
        return False
    return True
