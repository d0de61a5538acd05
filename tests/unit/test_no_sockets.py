"""The guard of this folder guards."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    "act",
    [
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: asyncio.run(asyncio.open_connection("127.0.0.1", 9)),
        lambda: socket.getaddrinfo("localhost", 80),
    ],
)
def test_a_socket_fails_the_test(act: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="opened a socket"):
        act()


def test_a_loop_may_run() -> None:
    asyncio.run(asyncio.sleep(0))
