"""Requests that wait for a job. Each holds a thread of the web server, so their number is bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from worker.services.follow import Follower
from worker.store.database import Database


class Waiting:
    """One per process. `most` requests may wait for an end, and half as many more may follow a job's events."""

    def __init__(self, database: Database, most: int) -> None:
        streams = (most + 1) // 2
        self._follower = Follower(database, most + streams)
        self._seats = threading.Semaphore(most)
        self._streams = threading.Semaphore(streams)

    @contextmanager
    def seat(self, *, wanted: bool = True) -> Iterator[bool]:
        """Whether there is room to wait. Taken before a job is made, so that nobody makes one he cannot wait for."""
        seated = wanted and self._seats.acquire(blocking=False)
        try:
            yield seated
        finally:
            if seated:
                self._seats.release()

    def stream(self) -> threading.Semaphore | None:
        """A place for following events, to be released by the caller; None: there is no room."""
        return self._streams if self._streams.acquire(blocking=False) else None

    def until_final(self, job_id: str, seconds: float) -> bool:
        """Only with a seat. False: the time is over."""
        return self._follower.wait(job_id, 0, seconds)

    def until_changed(self, job_id: str, version: int, seconds: float) -> bool:
        """Only with a seat or a stream. False: the time is over, and the version is still this."""
        return self._follower.wait(job_id, version, seconds, until_final=False)
