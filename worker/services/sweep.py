"""Repair what crashes leave behind. Every worker calls this; a lease lets one at a time do the work.

Takes back the claims of dead workers, ends jobs whose deadline passed while they waited, forgets old prompts and
answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from worker import clock, events
from worker.store import (
    batches,
    deliveries,
    files,
    idempotency,
    jobs,
    leases,
    orphans,
    outbox,
    pauses,
    retired_endpoints,
    uploads,
    workers,
)
from worker.store.database import Connection, Database, Unavailable

LEASE: Final = "sweep"
ENDPOINTS: Final = "webhook endpoints"
ENDPOINTS_S: Final = 3600.0  # between two walks over the addresses that came with requests
EXPIRED_AT_ONCE: Final = 500
FORGOTTEN_AT_ONCE: Final = 500
FORGET_S: Final = 0.5  # in a round, of jobs and of deliveries: 500 a round were fewer than came in
WORKERS_KEPT_S: Final = 24 * 3600.0
TOMBSTONES_KEPT_S: Final = 365 * 86400.0  # after all else of a job is gone

Purge = Callable[[Connection, float, int], int]


def sweep(
    database: Database, holder: str, *, lease_s: float, every_s: float, retention_s: float, buries: bool = True
) -> bool:
    """One round; False when another holds the lease. Raises Unavailable when the database is away.

    A part that fails holds up no other: what takes too long would do so again each round, and the disk would fill.

    buries  False: nobody is declared dead just now; those that are lose their claims all the same
    """
    with database.write() as conn:
        if not leases.take(conn, LEASE, holder, 3 * every_s):
            return False
    parts: dict[str, Callable[[], object]] = {
        "bury": lambda: bury(database, lease_s if buries else None),
        "expire": lambda: expire(database),
        "jobs": lambda: forget(database, jobs.purge, retention_s),
        "tombstones": lambda: forget(database, jobs.forget, retention_s + TOMBSTONES_KEPT_S),
        "idempotency": lambda: forget(database, idempotency.prune, idempotency.KEPT_S),
        "workers": lambda: _step(database, lambda conn: workers.forget(conn, WORKERS_KEPT_S)),
        "pauses": lambda: _step(database, pauses.forget),
        "batches": lambda: _step(database, lambda conn: batches.prune(conn, retention_s)),
        "uploads": lambda: _step(database, uploads.prune),
        "files": lambda: _step(database, files.prune),
        "outbox": lambda: forget(database, outbox.prune, retention_s),
        "deliveries": lambda: forget(database, deliveries.purge, retention_s),
        "endpoints": lambda: forget_endpoints(database),
    }
    failed: dict[str, Exception] = {}
    for name, part in parts.items():
        try:
            part()
        except Exception as exc:  # noqa: BLE001 - said below
            failed[name] = exc
    if len(failed) == len(parts):  # nobody is there
        raise next(iter(failed.values()))
    for name, fault in failed.items():
        why = {"reason": str(fault)} if isinstance(fault, Unavailable) else events.fault(fault)
        events.emit("sweep.failed", level="error", part=name, **why)
    return True


def _step(database: Database, step: Callable[[Connection], object]) -> None:
    with database.write() as conn:
        step(conn)


def forget_endpoints(database: Database) -> None:
    """Addresses that came with requests and that nothing refers to: all of them are looked at, a block at a time."""
    with database.write() as conn:
        # A holder of its own each time, so that nobody renews it: once in that time for all workers together.
        if not leases.take(conn, ENDPOINTS, clock.new_id("swp"), ENDPOINTS_S):
            return
    after: str | None = ""
    while after is not None:
        with database.write() as conn:
            after = retired_endpoints.purge(conn, after)


def forget(database: Database, purge: Purge, retention_s: float) -> None:
    """What is older than that, a block at a time, and no longer than FORGET_S: the next round goes on."""
    until_s = clock.monotonic_s() + FORGET_S
    while True:
        with database.write() as conn:
            count = purge(conn, retention_s, FORGOTTEN_AT_ONCE)
        if count < FORGOTTEN_AT_ONCE or clock.monotonic_s() >= until_s:
            return


def expire(database: Database) -> None:
    """End queued jobs whose deadline has passed: all of them, a block at a time."""
    while True:
        with database.write() as conn:
            count = jobs.expire(conn, EXPIRED_AT_ONCE)
        if count:
            events.emit("jobs.expired", count=count)
        if count < EXPIRED_AT_ONCE:
            return


def bury(database: Database, lease_s: float | None) -> None:
    """Take back what dead workers held. A worker buried by a sweep that died before this is found by its claims."""
    with database.write() as conn:
        if lease_s is not None:
            workers.bury(conn, lease_s)
        dead = workers.dead_holders(conn)
    for worker_id in dead:
        with database.write() as conn:
            back = orphans.take_back(conn, worker_id)
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
