"""An event loop whose time is made up: where everybody waits, the clock goes to whoever is due first."""

from __future__ import annotations

import asyncio
from typing import Any


class VirtualLoop(asyncio.BaseEventLoop):
    """No sockets, no threads, no waiting; `time()` begins at 0. The same calls lead to the same course."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """As the selector of a real loop, which waits so long for a socket."""
        if timeout is None:
            raise RuntimeError("everybody waits, and nobody for a time")
        self._now_s += timeout
        return []

    def _process_events(self, _events: list[Any]) -> None:
        return

    def _write_to_self(self) -> None:
        return
