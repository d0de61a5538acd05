"""The event loop of a worker process, and the tasks that keep it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from worker import events


async def awaited(made: Awaitable[Any]) -> Any:
    return await made


def loud(task: asyncio.Task[Any]) -> None:
    exc = None if task.cancelled() else task.exception()
    if exc is not None:
        events.emit("engine.broken", level="error", **events.fault(exc))


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is a wheel: less time per call, and asyncio's own TLS holds 256 KiB per connection."""
    try:
        import uvloop  # noqa: PLC0415 - not on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
