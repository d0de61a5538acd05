"""The wire of deliveries over real sockets, on either loop: what was said in the clear is never taken for TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpcore
import pytest
import uvloop

from tests.support import certificate
from worker.webhooks.wire import Wire

NAME = "hooks.internal"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
Run = Callable[[Awaitable[None]], None]
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    async def bounded(work: Awaitable[None]) -> None:
        async with asyncio.timeout(10.0):
            await work

    return lambda work: uvloop.run(bounded(work)) if request.param == "uvloop" else asyncio.run(bounded(work))


@asynccontextmanager
async def _receiver(handle: Handle, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A connection to a receiver of this kind. It ends when the receiver has seen that it is over."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await handle(reader, writer)
            while await reader.read(1000):
                pass
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        wire = await Wire.connect(*server.sockets[0].getsockname())
        try:
            yield wire
        finally:
            await wire.aclose()
            async with asyncio.timeout(5.0):
                await over.wait()


async def _tells(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER)


def test_it_talks_in_the_clear(run: Run) -> None:
    async def main() -> None:
        async with _receiver(_tells) as wire:
            assert await wire.read(1000) == ANSWER

    run(main())


def test_what_comes_after_the_handshake_is_the_receivers(run: Run, tmp_path: Path) -> None:
    path = certificate.make(tmp_path, NAME)

    async def main() -> None:
        async with _receiver(_tells, certificate.serving(path)) as wire:
            await wire.start_tls(certificate.trusting(path), NAME)
            assert await wire.read(1000) == ANSWER

    run(main())


@pytest.mark.parametrize("first", [True, False], ids=["before the handshake", "during it"])
def test_what_is_said_in_the_clear_is_no_answer(run: Run, tmp_path: Path, *, first: bool) -> None:
    """The certificate is good: only what was slipped in before it is not."""
    path = certificate.make(tmp_path, NAME)

    async def slips_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not first:
            await reader.read(1)  # of the client's hello
        writer.write(ANSWER)
        if first:
            await writer.start_tls(certificate.serving(path))

    async def main() -> None:
        async with _receiver(slips_in) as wire:
            while first and not wire.get_extra_info("is_readable"):  # noqa: ASYNC110 - the wire tells nobody
                await asyncio.sleep(0.001)
            with pytest.raises(httpcore.ConnectError):
                await wire.start_tls(certificate.trusting(path), NAME)

    run(main())
