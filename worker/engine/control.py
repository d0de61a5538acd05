"""What the engine holds of one running job: who may interrupt it, and why."""

from __future__ import annotations

import asyncio
from typing import Literal

Why = Literal["cancelled", "draining"]


class Control:
    """One per running job. `why` is set when the job is asked to stop; waits in the engine end at once then."""

    __slots__ = ("_asked", "_stops", "task", "why")

    def __init__(self) -> None:
        self.why: Why | None = None
        self.task: asyncio.Task[None] | None = None
        self._asked: asyncio.Event | None = None
        self._stops: set[asyncio.Future[None]] = set()  # several calls of a job may wait at once

    def stop(self, why: Why) -> None:
        """A cancel outweighs a drain: there is nothing to be given back then."""
        if self.why is None or why == "cancelled":
            self.why = why
            if self._asked is not None:
                self._asked.set()
            for stop in self._stops:
                if not stop.done():
                    stop.set_result(None)

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
            async with asyncio.timeout(seconds):  # not `wait_for`: on Python 3.11 it may swallow a hang-up
                await self._asked.wait()
        except TimeoutError:
            return self.why is not None
        return True

    async def until(self, coming: asyncio.Future[None], seconds: float) -> None:
        """Wait for it, but no longer than that, nor than until the job is asked to stop."""
        if self.why is not None or coming.done():
            return
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stops.add(stop)
        try:
            await asyncio.wait([coming, stop], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stops.discard(stop)
