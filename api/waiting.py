"""Requests that wait for a job. Each holds a thread of the web server, so their number is bounded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from worker import clock
from worker.services.follow import Follower
from worker.store.database import Database

RECENT_S: Final = 600.0  # a project that asked within this time may come again


class Places:
    """One project may have them all, but the last quarter only while nobody else comes: beside others it stops there
    once it has half. Thread-safe.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._asked: dict[str, float] = {}  # when each project did last

    def take(self, project_id: str) -> bool:
        now_s = clock.monotonic_s()
        with self._lock:
            self._asked[project_id] = now_s
            free = self._most - self._held.total()
            scarce = free <= self._most // 4 and self._held[project_id] >= self._most // 2
            if free <= 0 or (scarce and self._others(project_id, now_s)):
                return False
            self._held[project_id] += 1
            return True

    def give(self, project_id: str) -> None:
        with self._lock:
            self._held[project_id] -= 1

    def _others(self, project_id: str, now_s: float) -> bool:
        self._asked = {name: at_s for name, at_s in self._asked.items() if now_s - at_s < RECENT_S}
        return len(self._asked.keys() - {project_id}) > 0


class Waiting:
    """One per process. `most` requests may wait for an end, and half as many more may follow a job's events."""

    def __init__(self, database: Database, most: int) -> None:
        streams = (most + 1) // 2
        self._follower = Follower(database, most + streams)
        self._seats = Places(most)
        self._streams = Places(streams)

    @contextmanager
    def seat(self, project_id: str, *, wanted: bool = True) -> Iterator[bool]:
        """Whether there is room to wait. Taken before a job is made, so that nobody makes one he cannot wait for."""
        seated = wanted and self._seats.take(project_id)
        try:
            yield seated
        finally:
            if seated:
                self._seats.give(project_id)

    def stream(self, project_id: str) -> Callable[[], None] | None:
        """A place for following events, and how the caller gives it back; None: there is no room."""
        return partial(self._streams.give, project_id) if self._streams.take(project_id) else None

    def until_final(self, job_id: str, seconds: float) -> bool:
        """Only with a seat. False: the time is over."""
        return self._follower.wait(job_id, 0, seconds)

    def until_changed(self, job_id: str, version: int, seconds: float) -> bool:
        """Only with a seat or a stream. False: the time is over, and the version is still this."""
        return self._follower.wait(job_id, version, seconds, until_final=False)
