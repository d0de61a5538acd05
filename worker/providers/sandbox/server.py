"""The sandbox as a server: on a running loop, or in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from functools import partial
from typing import Final

from worker.providers.sandbox.asking import Request
from worker.providers.sandbox.behaviours import Seen
from worker.providers.sandbox.bodies import Reply
from worker.providers.sandbox.models import reply
from worker.providers.sandbox.wire import Connection

_HOST: Final = "127.0.0.1"


class Sandbox:
    """Listens on loopback only.

    latency_s  the range of delays of ordinary answers, in seconds; which one is the request's hash's choice
    """

    def __init__(self, latency_s: tuple[float, float] = (0.0, 0.0)) -> None:
        self._latency_s = latency_s
        self._seen = Seen()
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._port: int | None = None

    @property
    def base_url(self) -> str:
        """Ends in /v1, as the OpenAI client wants it."""
        assert self._port is not None, "the sandbox was not started"
        return f"http://{_HOST}:{self._port}/v1"

    async def start(self, port: int = 0) -> int:
        """Listen on `port`, 0 for any free one, and return it. Raises OSError when it is taken."""
        make = partial(Connection, self._answer, self._open)
        self._server = await asyncio.get_running_loop().create_server(make, _HOST, port, backlog=1024)
        bound: int = self._server.sockets[0].getsockname()[1]
        self._port = bound
        return bound

    async def aclose(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._server is None:
            return
        server, self._server = self._server, None
        for _ in range(3):  # asyncio forgets a connection that is accepted but not yet made when its server closes
            await asyncio.sleep(0)
        server.close()
        while self._open:
            for connection in list(self._open):
                connection.abort()
            await asyncio.sleep(0)
        await server.wait_closed()

    def _answer(self, request: Request) -> Reply:
        return reply(request, self._seen, self._latency_s)


class SandboxThread:
    """The sandbox for a process without a loop to spare: a daemon thread with a loop of its own."""

    def __init__(self, latency_s: tuple[float, float] = (0.0, 0.0)) -> None:
        self._sandbox = Sandbox(latency_s)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def base_url(self) -> str:
        return self._sandbox.base_url

    def start(self, port: int = 0) -> int:
        """As `Sandbox.start`, once it listens."""
        started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(port, started), name="sandbox", daemon=True)
        self._thread.start()
        return started.result()

    def stop(self) -> None:
        """Hang up on everybody and wait for the thread to end."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def _run(self, port: int, started: Future[int]) -> None:
        asyncio.run(self._serve(port, started))

    async def _serve(self, port: int, started: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            bound = await self._sandbox.start(port)
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(bound)
        await self._stop.wait()
        await self._sandbox.aclose()
