"""A connection's bytes on asyncio, as httpcore wants them.

httpcore's own backends ask for the event loop's name and open a scope at every read and write: a third of what a
delivery cost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, Self, cast

import httpcore

AHEAD_BYTES: Final = 65_536  # taken in before anybody asks; a receiver that sends more is made to wait


class Wire(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """Made by `connect`. Its timeouts are whoever waits for it: nothing here counts seconds."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._arrived = bytearray()
        self._ended = False
        self._lost: Exception | None = None
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None  # there while what is written has to wait

    @classmethod
    async def connect(cls, address: str, port: int) -> Self:
        """Raises httpcore.ConnectError, ConnectTimeout. `address` is one: no name is looked up."""
        with _connecting():
            _, wire = await asyncio.get_running_loop().create_connection(cls, address, port)
        return wire

    # -- as asyncio's protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if len(self._arrived) > AHEAD_BYTES:
            self._transport.pause_reading()
        _wake(self._reading)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._reading)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._lost = exc
        _wake(self._reading)
        _wake(self._writing)

    def pause_writing(self) -> None:
        self._writing = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._writing)
        self._writing = None

    # -- as httpcore's stream ----------------------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109
        while not self._arrived and not self._ended:
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        if not self._arrived and self._lost is not None:
            raise httpcore.ReadError(str(self._lost)) from self._lost
        found = bytes(self._arrived[:max_bytes])
        del self._arrived[:max_bytes]
        if len(self._arrived) <= AHEAD_BYTES and not self._ended:
            self._transport.resume_reading()
        return found

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        if not self._transport.is_closing():
            self._transport.write(buffer)
        if self._writing is not None:
            await self._writing
        if self._transport.is_closing():
            raise httpcore.WriteError("the connection is closed")

    async def aclose(self) -> None:
        self._transport.abort()
        await asyncio.sleep(0)  # the socket is closed in the loop's next turn, and the loop may be about to end

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """Raises httpcore.ConnectError, ConnectTimeout, with the connection closed."""
        loop = asyncio.get_running_loop()
        # Taken on, these bytes would pass for the answer, and anybody on the way can send them. None come after this
        # look: `loop.start_tls` changes the protocol before it first waits, and from then on they break the handshake.
        if self._arrived:
            self._transport.abort()
            raise httpcore.ConnectError("the receiver spoke before the handshake")
        try:
            with _connecting():
                made = await loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        except BaseException:
            self._transport.abort()
            raise
        if made is None:
            raise httpcore.ConnectError("the connection was closed")
        self._transport = made
        return self

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case "is_readable":  # of a connection that rests: it has ended, or says what nobody asked for
                return self._ended or bool(self._arrived)
            case "ssl_object":
                return self._transport.get_extra_info("ssl_object")
        return None


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


@contextmanager
def _connecting() -> Generator[None]:
    try:
        yield
    except TimeoutError as exc:  # the system's own, of minutes
        raise httpcore.ConnectTimeout(str(exc)) from exc
    except (OSError, ssl.SSLError) as exc:
        raise httpcore.ConnectError(str(exc)) from exc
