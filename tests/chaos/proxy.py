"""A TCP proxy that goes wrong on demand, between anything and anything. In a thread of its own.

    with Proxy(port_of_postgres) as proxy:
        connect_to(proxy.port)
        proxy.become(Fault(latency_s=0.2))        # every piece comes that much later
        proxy.become(Fault(black_hole=True))      # connections stay open, nothing passes, nobody is told
        proxy.become(Fault(bytes_per_s=10_000))   # a thin line
        proxy.become(Fault(slice=7))              # pieces of seven bytes
        proxy.become(Fault(refuse=True))          # new connections are reset at once
        proxy.become(Fault(linger_s=5))           # who hangs up is let go late (slow close)
        proxy.reset()                             # every open connection is reset, new ones are fine
        proxy.become(WELL)

`on_reply` is called, on the proxy's thread, before the first bytes of an answer go back on any connection; when it says
True they never do and the connection is reset: the crash point "committed, and the answer was lost".
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

PIECE: Final = 65_536
LOOK_S: Final = 0.02
_RESET: Final = struct.pack("ii", 1, 0)  # closing sends RST


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the line; all of it holds for connections that are open already too."""

    latency_s: float = 0.0
    bytes_per_s: float | None = None
    slice: int | None = None
    black_hole: bool = False
    refuse: bool = False
    linger_s: float = 0.0


WELL: Final = Fault()


class Proxy:
    """Listens on `port` of 127.0.0.1 from `with` to its end."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.on_reply: Callable[[], bool] | None = None
        self.port = 0
        self.connections = 0  # so far
        self._fault = WELL
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def become(self, fault: Fault) -> None:
        self._fault = fault

    def reset(self) -> None:
        """Reset every connection that is open now."""
        self._run(self._reset_all())

    def __enter__(self) -> Self:
        self._thread.start()
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        await self._reset_all()
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _reset_all(self) -> None:
        for writer in list(self._open):
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._fault.refuse:
            _abort(writer)
            return
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self.upstream)
            self._open.add(there)
            await asyncio.gather(self._pump(reader, there, reply=False), self._pump(back, writer, reply=True))
        except (OSError, asyncio.CancelledError):  # the latter only from `_close`; streams complain of a cancelled task
            _abort(writer)
            if there is not None:
                _abort(there)
        finally:
            for end in (writer, there):
                if end is not None:
                    self._open.discard(end)
                    end.close()

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, reply: bool) -> None:
        while True:
            data = await source.read(PIECE)
            while self._fault.black_hole:  # noqa: ASYNC110 - set from another thread
                await asyncio.sleep(LOOK_S)
            if not data:
                if self._fault.linger_s:
                    await asyncio.sleep(self._fault.linger_s)
                with suppress(OSError, RuntimeError):
                    to.write_eof()
                return
            if reply and self.on_reply is not None and self.on_reply():
                raise ConnectionResetError
            await self._pass(data, to)

    async def _pass(self, data: bytes, to: asyncio.StreamWriter) -> None:
        fault = self._fault
        if fault.latency_s:
            await asyncio.sleep(fault.latency_s)
        size = fault.slice or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if fault.bytes_per_s is not None:
                await asyncio.sleep(len(piece) / fault.bytes_per_s)
            to.write(piece)
            await to.drain()
            if fault.slice is not None:
                await asyncio.sleep(0)


def _abort(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
