"""Whether the database server answers at all, found out on a connection of its own.

A statement that takes long and a server that is frozen look alike on the connection that waits, and libpq waits for
ever. So once a statement has taken a moment, the server is asked for the first byte of its handshake elsewhere: a slow
statement goes on, one that waits for a frozen server is given up.
"""

from __future__ import annotations

import socket
import threading
from typing import Any, Final

import psycopg
from psycopg.errors import _WaitTimeout

from worker.clock import monotonic_s

PATIENCE_S: Final = 0.5  # a statement takes this long before anybody wonders, and again before they wonder anew
PROBE_S: Final = 0.7
FRESH_S: Final = 0.5  # what was found out holds this long
LONGEST_S: Final = 40.0  # for one statement: the server itself ends them after 30 s, if it still hears of them
_HELLO: Final = bytes.fromhex("0000000804d2162f")  # SSLRequest: answered with one byte, before any login
_NO_ANSWER: Final = "the database does not answer"


class Pulse:
    """Of one server. Thread-safe; asks it at most once per FRESH_S, whoever wants to know."""

    def __init__(self, host: str | None, port: int | None) -> None:
        self._host = host
        self._port = port or 5432
        self._asking = threading.Lock()
        self._beats = True
        self._asked_s = float("-inf")

    def beats(self) -> bool:
        """Ask, unless somebody just did. Waits PROBE_S at most for the server, and as long for another who asks."""
        with self._asking:
            if monotonic_s() - self._asked_s >= FRESH_S:
                self._beats = self._answers()
                self._asked_s = monotonic_s()
            return self._beats

    def stopped(self) -> bool:
        """Whether it is worth trying at all. Costs nothing while all is well; else one caller asks, the others know."""
        if self._beats:
            return False
        if self._asking.locked():
            return True
        return not self.beats()

    def _answers(self) -> bool:
        if self._host is not None and self._host.startswith("/"):
            return self._answers_at(socket.AF_UNIX, f"{self._host}/.s.PGSQL.{self._port}")
        try:
            with socket.create_connection((self._host or "localhost", self._port), PROBE_S) as probe:
                return _greeted(probe)
        except TimeoutError:
            return False
        except OSError:  # refused: that is an answer, and whoever connects hears it too
            return True

    def _answers_at(self, family: int, address: str) -> bool:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(PROBE_S)
                probe.connect(address)
                return _greeted(probe)
        except TimeoutError:
            return False
        except OSError:
            return True


def _greeted(probe: socket.socket) -> bool:
    probe.sendall(_HELLO)
    probe.recv(1)  # a byte, or the end: either way somebody is there
    return True


def connection(pulse: Pulse) -> type[psycopg.Connection[Any]]:
    """The driver's connection, but it gives up on a server that does not answer."""

    class Watched(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ARG002
            until_s = monotonic_s() + LONGEST_S
            while True:
                try:
                    return super().wait(gen, timeout=PATIENCE_S)
                except _WaitTimeout:
                    if monotonic_s() < until_s and pulse.beats():
                        continue
                    self.pgconn.finish()  # what it was about may be done or not: it is never used again
                    raise psycopg.OperationalError(_NO_ANSWER) from None

    return Watched
