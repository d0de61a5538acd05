"""What a name stands for, by the system's resolver.

On daemon threads: a resolver that hangs holds up neither the loop nor the end of the process.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import Future
from threading import BoundedSemaphore, Thread
from typing import Final

MOST: Final = 64  # at once; with so many hanging, one more would hang too


class Lookups:
    """Thread-safe."""

    def __init__(self) -> None:
        self._places = BoundedSemaphore(MOST)

    def ask(self, host: str, port: int) -> Future[Sequence[str]]:
        """Its addresses as text. The future fails with OSError where there are none."""
        found: Future[Sequence[str]] = Future()
        found.set_running_or_notify_cancel()  # from here on nobody can cancel it under the thread that fills it
        if self._places.acquire(blocking=False):
            Thread(target=self._look, args=(host, port, found), name="completar-dns", daemon=True).start()
        else:
            found.set_exception(OSError("too many names are being looked up"))
        return found

    def _look(self, host: str, port: int, found: Future[Sequence[str]]) -> None:
        try:
            addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as exc:
            found.set_exception(OSError(str(exc)))
        else:
            found.set_result(addresses)
        finally:
            self._places.release()
