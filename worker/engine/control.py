"""What the engine holds of one running job: who may interrupt it, and why."""

from __future__ import annotations

import asyncio
from typing import Literal

Why = Literal["cancelled", "draining"]


class Control:
    """One per running job. `why` is set when the job is asked to stop; waits in the engine end at once then."""

    __slots__ = ("_asked", "_queueing", "task", "why")

    def __init__(self) -> None:
        self.why: Why | None = None
        self.task: asyncio.Task[None] | None = None
        self._asked: asyncio.Event | None = None
        self._queueing: set[asyncio.Future[Literal[True]]] = set()  # several calls of a job may wait at once

    def stop(self, why: Why) -> None:
        """A cancel outweighs a drain: there is nothing to be given back then."""
        if self.why is None or why == "cancelled":
            self.why = why
            if self._asked is not None:
                self._asked.set()
            for queueing in self._queueing:
                queueing.cancel()

    def asked(self) -> bool:
        """Whether the job was asked to stop by now."""
        return self.why is not None

    def hang_up(self) -> None:
        """The open call is given up; the job's coroutine sees a CancelledError."""
        if self.task is not None:
            self.task.cancel()

    async def sleep(self, seconds: float) -> bool:
        """Wait; True when the job was asked to stop meanwhile."""
        if self.why is not None:
            return True
        if self._asked is None:
            self._asked = asyncio.Event()
        try:
            await asyncio.wait_for(self._asked.wait(), seconds)
        except TimeoutError:
            return self.why is not None
        return True

    async def take(self, place: asyncio.Semaphore, seconds: float) -> bool:
        """Take a place; False when none was free in time, or the job was asked to stop meanwhile."""
        if not place.locked():
            return await place.acquire()
        if self.why is not None:
            return False
        queueing = asyncio.ensure_future(place.acquire())
        self._queueing.add(queueing)
        try:
            await asyncio.wait([queueing], timeout=seconds)
        except asyncio.CancelledError:
            if queueing.done() and not queueing.cancelled():
                place.release()
            raise
        finally:
            self._queueing.discard(queueing)
            queueing.cancel()
        return queueing.done() and not queueing.cancelled()
