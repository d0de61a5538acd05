"""Kept connections of one endpoint to one URL.

httpcore's own pool goes through all connections at every request, and through all of it in a lock: at a hundred tries
in flight that cost as much as the tries.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import httpcore

from worker.clock import monotonic_s

KEEPALIVE_S: Final = 5.0


class Line:
    """As many connections as there are tries at once; those that rest are taken up again, the last one first."""

    def __init__(self, origin: httpcore.Origin, tls: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend) -> None:
        self._origin = origin
        self._tls = tls
        self._backend = backend
        self._rest: list[httpcore.AsyncHTTPConnection] = []
        self._busy = 0
        self._used_s = monotonic_s()

    @property
    def idle(self) -> bool:
        return self._busy == 0

    @property
    def stale(self) -> bool:
        """Nobody has used it for so long that none of its connections can be taken up again."""
        return self.idle and monotonic_s() - self._used_s > KEEPALIVE_S

    @asynccontextmanager
    async def stream(self, request: httpcore.Request) -> AsyncGenerator[httpcore.Response]:
        """The answer's head; its body is read within. Raises what httpcore raises."""
        self._busy += 1
        connection: httpcore.AsyncHTTPConnection | None = None
        try:
            connection = await self._take()
            response = await connection.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._busy -= 1
            self._used_s = monotonic_s()
            if connection is not None:
                await self._put(connection)

    async def aclose(self) -> None:
        while self._rest:
            await self._rest.pop().aclose()

    async def _take(self) -> httpcore.AsyncHTTPConnection:
        while self._rest:
            connection = self._rest.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            self._origin, ssl_context=self._tls, keepalive_expiry=KEEPALIVE_S, network_backend=self._backend
        )

    async def _put(self, connection: httpcore.AsyncHTTPConnection) -> None:
        """Keep it where another request may follow, and close those that have rested for too long."""
        if connection.is_available():
            self._rest.append(connection)
        else:
            await connection.aclose()
        while self._rest and self._rest[0].has_expired():
            await self._rest.pop(0).aclose()
