"""Tends open batches in a thread of a worker, beside the event loop: a turn of each in its order, never two at once.

A batch belongs to one worker at a time, by a lease in its row. When a worker dies, another takes its batches when the
lease is over, and goes on where the rows say it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worker import clock, events
from worker.deps import Deps
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.tend import tend
from worker.store import tending
from worker.store.database import Unavailable

LOOK_S: Final = 0.3  # between two looks for batches that nobody tends
AT_ONCE: Final = 8  # that have much to do: what is more is left to other workers
AWAY_S: Final = 1.0
BROKEN_S: Final = 30.0  # until a batch that broke is tried again
STOP_S: Final = 1.0  # for the turn that is going on; what it would store after that is refused
BREATH: Final = 0.1  # of the time a turn took, left to the event loop before the next one


@dataclass(slots=True)
class _Care:
    turns: Turns
    due_s: float


class Keeper:
    """`start()`, then `stop()` once."""

    def __init__(self, deps: Deps, wake: Callable[[], None]) -> None:
        """`wake`: tells the engine of this process that there are new rows."""
        self._deps = deps
        self._desk = Desk(deps, clock.new_id("wrk"), wake)
        self._lease_s = deps.settings.lease_s
        self._cared: dict[str, _Care] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completar-batches", daemon=True)
        self._next_look_s = 0.0
        self._next_renewal_s = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After the turn that is going on; another worker may go on at once."""
        self._stopping.set()
        self._thread.join(STOP_S)
        try:
            with self._deps.database.write() as conn:
                tending.release(conn, self._desk.owner)
        except Unavailable:  # the lease will be over soon enough
            pass

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                pause_s = self._round()
            except Unavailable:
                pause_s = AWAY_S
            except Exception as exc:  # noqa: BLE001 - batches that nobody tends any more are missed too late
                events.emit("batches.fault", level="error", **events.fault(exc))
                pause_s = AWAY_S

    def _round(self) -> float:
        """One turn of every batch that is due. Returns the seconds until the next one is, a breath at least."""
        began_s = clock.monotonic_s()
        self._look(began_s)
        for batch_id, care in list(self._cared.items()):
            if self._stopping.is_set():
                break
            now_s = clock.monotonic_s()
            if now_s >= self._next_renewal_s:
                self._renew(now_s)
            if batch_id in self._cared and care.due_s <= now_s:
                self._turn(batch_id, care)
        now_s = clock.monotonic_s()
        due_s = min((care.due_s for care in self._cared.values()), default=now_s + LOOK_S)
        return max(BREATH * (now_s - began_s), min(due_s, self._next_look_s) - now_s)

    def _look(self, now_s: float) -> None:
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + LOOK_S * (0.9 + 0.2 * clock.draw())
        room = AT_ONCE - sum(care.due_s <= now_s for care in self._cared.values())
        if room <= 0:
            return
        with self._deps.database.read() as conn:
            if not tending.any_free(conn):
                return
        with self._deps.database.write() as conn:
            taken = tending.take(conn, self._desk.owner, self._lease_s, room)
        for batch_id in taken:
            if batch_id not in self._cared:
                self._cared[batch_id] = _Care(tend(self._desk, batch_id), now_s)

    def _renew(self, now_s: float) -> None:
        self._next_renewal_s = now_s + self._lease_s / 3
        with self._deps.database.write() as conn:
            ours = tending.renew(conn, self._desk.owner, self._lease_s)
        self._cared = {batch_id: care for batch_id, care in self._cared.items() if batch_id in ours}

    def _turn(self, batch_id: str, care: _Care) -> None:
        try:
            rest_s = next(care.turns)
        except Lost:
            del self._cared[batch_id]
        except Unavailable:
            self._again(batch_id, AWAY_S)
            raise
        except Exception as exc:  # noqa: BLE001 - one batch's fault must not stop the others
            events.emit("batch.broken", level="error", batch_id=batch_id, **events.fault(exc))
            self._again(batch_id, BROKEN_S)
        else:
            care.due_s = clock.monotonic_s() + rest_s

    def _again(self, batch_id: str, in_s: float) -> None:
        """From the row: what a step had in hand is gone with it."""
        self._cared[batch_id] = _Care(tend(self._desk, batch_id), clock.monotonic_s() + in_s)
