"""See to it that a batch that is behind its plan goes first, within its project, as far as it must."""

from __future__ import annotations

from typing import Final

from worker import clock, events
from worker.domain.ramp import urgent
from worker.services.batches.desk import Desk
from worker.store import tallies
from worker.store import urgent as store
from worker.store.tending import Tended

LOOK_S: Final = 2.0
AT_ONCE: Final = 2_000


class Hurry:
    """Of one batch. `look` may be called as often as one likes: it looks now and then."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._next_s = 0.0
        self._told = False

    def look(self, batch: Tended) -> None:
        now_s = clock.monotonic_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        self.push(batch)

    def push(self, batch: Tended) -> int:
        """Top up its urgent lines. Returns how many more there are."""
        with self._desk.deps.database.read() as conn:
            ended = tallies.ended(conn, batch.id)
            wanted = min(AT_ONCE, urgent(batch.total, ended, batch.remaining_s, batch.window_s))
            lacking = wanted - store.count(conn, batch.project_id, batch.id, wanted) if wanted else 0
        if lacking <= 0:
            return 0
        with self._desk.deps.database.write() as conn:
            moved = store.hurry(conn, batch.id, lacking)
        if moved and not self._told:
            self._told = True
            left = batch.total - ended
            events.emit("batch.behind", batch_id=batch.id, left=left, remaining_s=round(batch.remaining_s))
        return moved
