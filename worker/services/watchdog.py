"""Notices a worker that lives and does not work: its heartbeat beats on, so nobody else would.

It counts its own looks, not seconds: a process that was frozen for an hour has missed none, and is not taken for dead
when it thaws.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import ceil
from typing import Final

from worker import events
from worker.domain.failure import Lane
from worker.engine.engine import Engine
from worker.store import claims
from worker.store.database import Database

LOOK_S: Final = 5.0
DEAD_LOOKS: Final = 6  # without a turn of the loop
IDLE_LOOKS: Final = 3  # with due rows and nobody who takes them
SAID_EVERY: Final = 12
EXIT_CODE: Final = 70  # as sysexits.h has it: a fault of the program itself


class Watchdog:
    """Both looks are called every LOOK_S, each from a thread of its own: the second may hang with the database."""

    def __init__(
        self, engine: Engine, database: Database, *, poll_s: float, end: Callable[[int], object] = os._exit
    ) -> None:
        self._engine = engine
        self._database = database
        self._patience = max(IDLE_LOOKS, ceil(2 * poll_s / LOOK_S) + 1)
        self._end = end
        self._turns = -1
        self._still = 0
        self._taken: dict[Lane, int] = {}
        self._idle: dict[Lane, int] = {}

    def look_at_loop(self) -> None:
        """Ends the process when its loop is dead, so that the platform starts another: a loop cannot be mended."""
        pulse = self._engine.pulse()
        self._still = self._still + 1 if pulse.turns == self._turns else 0
        self._turns = pulse.turns
        if pulse.whole and self._still < DEAD_LOOKS:
            return
        why = "it stands still" if pulse.whole else "a part of it has ended"
        events.emit("engine.dead", level="error", why=why)
        self._end(EXIT_CODE)

    def look_at_lanes(self) -> None:
        """Says so when a lane has rows that a claim would find, places for them, and takes none."""
        for lane, taken in self._engine.pulse().idle.items():
            if self._taken.get(lane) != taken or not self._claimable(lane):
                self._taken[lane], self._idle[lane] = taken, 0
                continue
            self._idle[lane] += 1
            over = self._idle[lane] - self._patience
            if over >= 0 and over % SAID_EVERY == 0:
                events.emit("lane.stuck", level="error", lane=lane.value, looks=self._idle[lane], every_s=LOOK_S)

    def _claimable(self, lane: Lane) -> bool:
        with self._database.write() as conn:  # it locks a row for a moment, and changes none
            return claims.claimable(conn, lane)
