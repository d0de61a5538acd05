"""Addresses that came with requests: given up once nothing refers to them, and purged a while later.

A request that names one finds its row without a lock, and its subscription is there only when it commits. So a row that
is found unused is not deleted: it is retired first, which takes away the fingerprint by which it is found, and goes
when every transaction that may have found it before is over. One that did was in time: what it stored keeps the row.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from worker.store.moment import db_now, later
from worker.store.webhook_tables import delivery, subscription, webhook_endpoint

RETIRED_S: Final = 600.0  # longer than any transaction lasts
YOUNG_S: Final = 600.0  # made a moment ago: its first subscription may not be committed
_E = webhook_endpoint.c


def purge(conn: sa.Connection, after: str, most: int = 500) -> str | None:
    """Look at `most` rows whose id comes after `after`. Returns the last of them, None where it was the end."""
    block = (
        sa.select(_E.id)
        .where(_E.id > after, _E.fingerprint.is_not(None), _E.created_at < later(-YOUNG_S))
        .order_by(_E.id)
        .limit(most)
    )
    ids = list(conn.execute(block).scalars())
    told = sa.exists().where(delivery.c.endpoint_id == _E.id)
    asked = sa.exists().where(subscription.c.endpoint_id == _E.id)
    unused = sa.and_(_E.id.in_(ids), sa.not_(asked), sa.not_(told))
    if ids:
        conn.execute(webhook_endpoint.delete().where(unused, _E.retired_at < later(-RETIRED_S)))
        conn.execute(
            webhook_endpoint.update()
            .where(unused, _E.retired_at.is_(None))
            .values(retired_at=db_now(), fingerprint=_E.id)
        )
    return ids[-1] if len(ids) == most else None
