"""What a batch with a bound may still take in: what its ended lines cost, and what its open ones may.

It reads which lines have ended as anybody does who follows a batch, so it needs nothing of its own in SQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from worker.services.batches.desk import Desk
from worker.store import lines as stored
from worker.store import tallies, views
from worker.store.tending import Tended

_AT_ONCE: Final = 1_000


@dataclass(slots=True)
class Ledger:
    """`held_nano`: for lines that are jobs and have not ended. One whose cost is not known costs what was held."""

    desk: Desk
    batch: Tended
    bound_nano: int
    spent_nano: int = 0
    held_nano: int = 0
    seen: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, desk: Desk, batch: Tended) -> Ledger | None:
        """None: the batch has no bound."""
        if batch.max_cost_nano is None:
            return None
        with desk.deps.database.read() as conn:
            held = stored.held_nano(conn, batch.id)
        made = cls(desk, batch, batch.max_cost_nano, held_nano=held)
        made.catch_up()
        return made

    def room_for(self, nano: int) -> bool:
        return self.spent_nano + self.held_nano + nano <= self.bound_nano

    def hold(self, nano: int) -> None:
        self.held_nano += nano

    @property
    def idle(self) -> bool:
        """Nothing is held: waiting for an end would bring no room."""
        return self.held_nano <= 0

    def catch_up(self) -> None:
        """With the lines that have ended since."""
        while True:
            with self.desk.deps.database.read() as conn:
                ended = tallies.ended_after(conn, self.batch.id, self.seen, _AT_ONCE)
                job_ids = [job_id for _, job_id in ended]
                held = stored.of_jobs(conn, job_ids)
                costs = views.costs(conn, job_ids)
            for slot, job_id in ended:
                self.seen[slot] = self.seen.get(slot, 0) + 1
                hold = held[job_id].hold_nano or 0
                nano, complete = costs[job_id]
                self.held_nano -= hold
                self.spent_nano += (nano or 0) if complete else max(nano or 0, hold)
            if len(ended) < _AT_ONCE:
                return
