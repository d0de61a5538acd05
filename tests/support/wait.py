"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final, TypeVar

T = TypeVar("T")
_PORTS: Final = range(20_000, 32_000)


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 20.0, every_s: float = 0.01) -> T:
    """The first true value of `condition`. Raises AssertionError naming `what` was waited for when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(every_s)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    Below the range from which systems draw ports for outgoing connections, and drawn by a generator that nobody seeds:
    it may stay unused for a while, e.g. until a stopped server starts again, and must not be taken meanwhile.
    """
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with closing(socket.socket()) as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def listening(port: int) -> bool:
    with closing(socket.socket()) as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0
