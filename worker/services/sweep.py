"""Repair what crashes leave behind. Every worker calls this; a lease lets one at a time do the work.

Takes back the claims of dead workers, ends jobs whose deadline passed while they waited, forgets old prompts and
answers.
"""

from __future__ import annotations

from typing import Final

from worker import events
from worker.store import deliveries, idempotency, jobs, leases, workers
from worker.store.database import Database

LEASE: Final = "sweep"
WORKERS_KEPT_S: Final = 24 * 3600.0


def sweep(database: Database, holder: str, *, lease_s: float, every_s: float, retention_s: float) -> bool:
    """One round; False when another holds the lease. Raises Unavailable when the database is away."""
    with database.write() as conn:
        if not leases.take(conn, LEASE, holder, 3 * every_s):
            return False
    bury(database, lease_s)
    with database.write() as conn:
        expired = jobs.expire(conn)
    if expired:
        events.emit("jobs.expired", count=expired)
    with database.write() as conn:
        jobs.purge(conn, retention_s)
        idempotency.prune(conn)
        workers.forget(conn, WORKERS_KEPT_S)
        deliveries.purge(conn, retention_s)
    return True


def bury(database: Database, lease_s: float) -> None:
    """Take back what dead workers held. A worker buried by a sweep that died before this is found by its claims."""
    with database.write() as conn:
        workers.bury(conn, lease_s)
        dead = workers.dead_holders(conn)
    for worker_id in dead:
        with database.write() as conn:
            back = jobs.take_back(conn, worker_id)
        events.emit(
            "worker.buried",
            level="warning",
            worker_id=worker_id,
            queued=back.queued,
            cancelled=back.cancelled,
            failed=back.failed,
        )
    with database.write() as conn:
        again = deliveries.take_back(conn)
    if again:
        events.emit("deliveries.taken_back", level="warning", count=again)
