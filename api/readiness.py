"""Can this process do its work just now? Asked by platforms every few seconds, and by anybody: so it costs little."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, Literal

from worker import clock
from worker.deps import Deps, HintsKind
from worker.store import migrate
from worker.store.database import Unavailable

REMEMBERED_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """A broker that is away only makes jobs start up to a second later: the process is ready all the same.

    hints   how workers hear of new jobs
    broker  none: they need none
    """

    database: Literal["up", "read-only", "away"]
    migrations: Literal["current", "pending", "unknown"]
    hints: HintsKind
    broker: Literal["up", "away", "none"]

    @property
    def ready(self) -> bool:
        return self.database == "up" and self.migrations == "current"


class Readiness:
    """Thread-safe; looks at most once a second."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._lock = threading.Lock()
        self._known: tuple[State, float] | None = None

    def state(self) -> State:
        with self._lock:
            now_s = clock.monotonic_s()
            if self._known is None or self._known[1] <= now_s:
                self._known = (self._look(), clock.monotonic_s() + REMEMBERED_S)
            return self._known[0]

    def _look(self) -> State:
        hints = self._deps.hints.kind
        broker: Literal["up", "away", "none"] = "none"
        if hints == "redis":
            broker = "up" if self._deps.hints.alive() else "away"
        try:
            pending = migrate.pending(self._deps.database)
            read_only = self._deps.database.read_only()
        except Unavailable:
            return State("away", "unknown", hints, broker)
        return State("read-only" if read_only else "up", "pending" if pending else "current", hints, broker)
