"""The proxy does to a connection what it says, and nothing where nothing is asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.chaos.proxy import WELL, Fault, Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says everything again; its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_say_again, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _say_again(connection: socket.socket) -> None:
    with closing(connection), suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            connection.sendall(data)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def _said(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """What came back, and after how many seconds."""
    began = time.monotonic()
    connection.sendall(data)
    back = b""
    while len(back) < len(data):
        piece = connection.recv(65_536)
        if not piece:
            break
        back += piece
    return back, time.monotonic() - began


def test_a_line_that_is_well_passes_everything(proxy: Proxy) -> None:
    with closing(_connect(proxy)) as connection:
        data = bytes(range(256)) * 4_000
        assert _said(connection, data)[0] == data


@pytest.mark.parametrize(
    ("fault", "data", "least_s"),
    [
        (Fault(latency_s=0.1), b"x", 0.2),  # there and back
        (Fault(bytes_per_s=10_000), b"x" * 1_500, 0.2),
    ],
    ids=["latency", "thin line"],
)
def test_a_slow_line_takes_its_time(proxy: Proxy, fault: Fault, data: bytes, least_s: float) -> None:
    with closing(_connect(proxy)) as connection:
        assert _said(connection, data)[1] < least_s
        proxy.become(fault)
        back, took_s = _said(connection, data)
        assert (back, took_s >= least_s) == (data, True)


def test_a_slicer_changes_no_byte(proxy: Proxy) -> None:
    proxy.become(Fault(slice=7))
    with closing(_connect(proxy)) as connection:
        data = bytes(range(256)) * 4
        assert _said(connection, data)[0] == data


def test_a_black_hole_keeps_connections_open_and_passes_nothing_until_it_is_over(proxy: Proxy) -> None:
    with closing(_connect(proxy)) as connection:
        assert _said(connection, b"before")[0] == b"before"
        proxy.become(Fault(black_hole=True))
        connection.settimeout(0.2)
        connection.sendall(b"after")
        with pytest.raises(TimeoutError):
            connection.recv(10)
        proxy.become(WELL)
        connection.settimeout(5)
        assert connection.recv(10) == b"after"


def test_a_reset_reaches_open_connections_and_no_new_one(proxy: Proxy) -> None:
    with closing(_connect(proxy)) as old:
        assert _said(old, b"x")[0] == b"x"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with closing(_connect(proxy)) as new:
        assert _said(new, b"x")[0] == b"x"


def test_who_is_refused_is_reset(proxy: Proxy) -> None:
    proxy.become(Fault(refuse=True))
    with pytest.raises(ConnectionResetError), closing(_connect(proxy)) as connection:
        connection.recv(1)


def test_a_slow_close_lets_go_late(proxy: Proxy) -> None:
    proxy.become(Fault(linger_s=0.2))
    with closing(_connect(proxy)) as connection:
        assert _said(connection, b"x")[0] == b"x"
        began = time.monotonic()
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
        assert time.monotonic() - began >= 0.2


def test_an_answer_can_be_lost_after_it_was_made(proxy: Proxy) -> None:
    proxy.on_reply = lambda: True
    with closing(_connect(proxy)) as connection:
        connection.sendall(b"did you?")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
