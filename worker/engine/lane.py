"""One lane of a worker process: its places, what it has in hand, and what runs."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from worker.domain.failure import Lane
from worker.engine.control import Control
from worker.engine.governor import TICK_S, Governor
from worker.engine.held import Held
from worker.store import claims

BLOCK: Final = 200  # claimed at once
AHEAD_S: Final = 0.3  # so long do claimed batch jobs wait for a place at most: another worker may have one free


@dataclass(slots=True)
class LaneState:
    lane: Lane
    governor: Governor
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    due: bool = True  # there may be rows worth claiming
    hinted: deque[str] = field(default_factory=deque)
    buffer: deque[Held] = field(default_factory=deque)
    running: dict[str, Control] = field(default_factory=dict)
    claiming: bool = False
    turn: claims.Turn = field(default_factory=claims.Turn)
    gathering: bool = False
    taken: int = 0
    started: int = 0  # since the last tick
    flow: float = 0.0  # the same in each tick, smoothed

    @property
    def ahead(self) -> int:
        """Batch jobs to have in hand, so that a place never waits for the database."""
        return min(BLOCK, math.ceil(self.flow * AHEAD_S / TICK_S)) if self.lane is Lane.BATCH else 0

    @property
    def free(self) -> int:
        return self.governor.places - len(self.running)


def project_of(held: Held) -> str:
    return held.job.project_id
