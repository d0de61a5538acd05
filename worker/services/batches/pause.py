"""Let a batch rest: its lines stay jobs, and are due only when somebody says so."""

from __future__ import annotations

from typing import Final

from worker.deps import Deps
from worker.domain.batch import BatchStatus, BatchView
from worker.domain.failure import Lane
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.submit import hint
from worker.store import batch_views, batches, open_lines
from worker.store.tending import Tended

AT_ONCE: Final = 2_000
LOOK_S: Final = 1.0  # for lines that have come back into the queue, and for the end of the pause


def pause(deps: Deps, project_id: str, batch_id: str) -> BatchView | None:
    """The batch after the request, or None where it is unknown. The first lines rest at once, the others soon."""
    with deps.database.write() as conn:
        if batches.pause(conn, project_id, batch_id):
            open_lines.park(conn, batch_id, AT_ONCE)
        return batch_views.get(conn, project_id, batch_id)


def resume(deps: Deps, project_id: str, batch_id: str) -> BatchView | None:
    """As `pause`."""
    with deps.database.write() as conn:
        resumed = batches.resume(conn, project_id, batch_id)
        if resumed:
            open_lines.unpark(conn, batch_id, AT_ONCE)
        found = batch_views.get(conn, project_id, batch_id)
    if resumed:
        hint(deps, [], {Lane.BATCH})
    return found


def rest(desk: Desk, batch: Tended) -> Turns:
    """While it is paused, or has lines that still are out of reach. Raises Lost."""
    while batch.remaining_s > 0 and (batch.paused or batch.parked):
        move = open_lines.park if batch.paused else open_lines.unpark
        with desk.deps.database.write() as conn:
            moved = move(conn, batch.id, AT_ONCE)
            if moved < AT_ONCE and not batch.paused:
                batches.unparked(conn, batch.id, desk.owner)
        if not batch.paused:
            desk.wake()
        yield 0.0 if moved == AT_ONCE else min(LOOK_S, max(0.0, batch.remaining_s)) if batch.paused else 0.0
        batch = desk.look(batch.id)
        if batch.status is not BatchStatus.IN_PROGRESS:
            raise Lost
