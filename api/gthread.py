"""gunicorn's threads, for clients that take their time.

gthread reads the head of a request with a thread, for as long as it takes, and lets a connection that says nothing have
one for five seconds. So many connections as there are threads, each with half a line, once held up everybody, and
needed no key for it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, Final

from gunicorn.workers.gthread import _DEFER, ThreadWorker

from worker.clock import monotonic_s

HEAD_S: Final = 5.0  # for the head of a request, from its first byte
GREETING_S: Final = 0.1  # a connection that has said nothing by then has no thread until it does


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._heads: dict[Any, float] = {}  # when those that are read must be over

    def handle(self, conn: Any) -> Any:
        """On a thread."""
        if not conn.initialized and not conn.wait_for_data(GREETING_S):
            return _DEFER
        self._heads[conn] = monotonic_s() + HEAD_S
        try:
            return super().handle(conn)
        finally:
            self._heads.pop(conn, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Its head is there; its body is read where somebody has shown a key."""
        self._heads.pop(conn, None)
        return super().handle_request(req, conn)

    def murder_pending(self) -> None:
        """Once a second, on the main thread."""
        super().murder_pending()
        now_s = monotonic_s()
        for conn, until_s in list(self._heads.items()):
            if until_s <= now_s:
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)  # whoever reads it finds its end, and closes it
