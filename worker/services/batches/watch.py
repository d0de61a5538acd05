"""See to it that the lines of a batch end: by themselves, with its window, or because somebody stopped it."""

from __future__ import annotations

from typing import Final

from worker.domain.batch import BatchStatus
from worker.domain.state import JobStatus
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.hurry import Hurry
from worker.services.batches.shared import all_shared
from worker.store import batches, open_lines, tallies
from worker.store.tending import Tended

AT_ONCE: Final = 2_000
FASTEST_S: Final = 0.05  # a small batch ends soon after its last line does ...
SLOWER: Final = 1.15  # ... and one that goes on for minutes is looked at every few seconds
SLOWEST_S: Final = 2.0
STOPPING_S: Final = 0.2  # between two looks whether the last open call is over
PATIENCE_S: Final = 600.0  # after a cancel, open calls may answer this long


def watch(desk: Desk, batch: Tended) -> Turns:
    """Until no line is open; then in_progress -> finalizing. Raises Lost when somebody stops or pauses it meanwhile."""
    pause, hurry = FASTEST_S, Hurry(desk)
    while batch.remaining_s > 0:
        if _ended(desk, batch):
            break
        hurry.look(batch)
        yield min(pause, max(FASTEST_S, batch.remaining_s))
        pause = min(SLOWEST_S, pause * SLOWER)
        batch = desk.look(batch.id)
        if batch.status is not BatchStatus.IN_PROGRESS or batch.paused or batch.parked:
            raise Lost
    yield from stop(desk, batch)
    with desk.deps.database.write() as conn:
        if not batches.finalize(conn, batch.id, desk.owner):
            raise Lost


def stop(desk: Desk, batch: Tended) -> Turns:
    """End what waits; what runs may go on: to its deadline, or for PATIENCE_S after a cancel.

    What comes back into the queue meanwhile is ended too. A line of a batch that is stopping is not claimed. After it
    no line waits for the end of another one.
    """
    to = JobStatus.CANCELLED if batch.status is BatchStatus.CANCELLING else JobStatus.EXPIRED
    asked = False
    while True:
        with desk.deps.database.write() as conn:
            ended = open_lines.end(conn, batch.id, to, AT_ONCE)
        if ended == AT_ONCE:
            yield 0.0
            continue
        with desk.deps.database.read() as conn:
            over = not open_lines.any_left(conn, batch.id)
        if over:
            yield from all_shared(desk, batch)
            return
        yield STOPPING_S
        batch = desk.look(batch.id)
        if batch.status is BatchStatus.CANCELLING and to is not JobStatus.CANCELLED:
            raise Lost
        late = batch.cancelling_s is not None and batch.cancelling_s > PATIENCE_S
        if late and not asked:
            asked = True
            with desk.deps.database.write() as conn:
                open_lines.stop(conn, batch.id)


def _ended(desk: Desk, batch: Tended) -> bool:
    """Whether every line has ended. The count is exact as long as all who end lines keep it; a worker of an older
    release does not, so where no line is open and the count says otherwise, they are counted anew.
    """
    with desk.deps.database.read() as conn:
        counted = tallies.of(conn, [batch.id]).get(batch.id)
        if counted is not None and counted.ended >= batch.taken:
            return True
        if batch.awaited or open_lines.any_left(conn, batch.id):
            return False
    with desk.deps.database.write() as conn:
        return open_lines.any_left(conn, batch.id) is False and tallies.recount(conn, batch.id).ended >= batch.taken
