"""A provider that does as it is told: a real HTTP server on the loopback, in a thread of its own.

    with ScriptedProvider() as provider:
        provider.chat("hello")                     # answers are queued, and taken in order ...
        provider.error(429, "slow down", headers={"retry-after": "7"})
        provider.queue(drop(), hang(), raw(b"SSH-2.0\\r\\n"))
        held = provider.hold(chat("at last"))      # answers only after held.release()
        provider.always(chat("ok"))                # ... and this one when the queue is empty
        provider.always(lambda received: chat(received.json["model"]))
        call(provider.base_url)
        provider.wait_for(1)                       # until one request has arrived
        assert provider.requests[0].json["model"] == "m"

With nothing scripted it answers 500. `stop()` and `start()` are an outage: the port stays the same.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Literal, Self

WAIT_S: Final = 10.0
_MOST_HEAD: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Script:
    """One answer.

    status, headers, body  as they go over the wire; content-length is added unless `framing` says otherwise
    raw       these bytes go out instead of head and body
    delay_s   before the first byte
    hold      nothing goes out before it is released
    silent    nothing goes out ever; the connection stays open until the client leaves
    framing   length: content-length; chunked; close: the end of the connection is the end of the body
    cut_after so many bytes of the body are sent, then `then` happens although more was promised
    drip      (bytes, seconds): the body (or `raw`) in pieces, with a pause before each
    endless   the body is repeated, chunked, until the client leaves
    then      what becomes of the connection: keep | close | reset
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    delay_s: float = 0.0
    hold: Hold | None = None
    silent: bool = False
    framing: Literal["length", "chunked", "close"] = "length"
    cut_after: int | None = None
    drip: tuple[int, float] | None = None
    endless: bool = False
    then: Literal["keep", "close", "reset"] = "keep"


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived whole.

    headers     lower-case names
    at_s        time.monotonic()
    connection  the number of the connection it came on, from 0
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Hold:
    """Keeps one answer back. `release()` may be called from any thread, and before the request has come."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._released = threading.Event()
        self._wake: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            self._released.set()
            if self._wake is not None:
                self._wake()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        released = asyncio.Event()
        with self._lock:
            self._wake = lambda: loop.call_soon_threadsafe(released.set)
            if self._released.is_set():
                released.set()
        self.arrived.set()
        await released.wait()


def reply(status: int = 200, *, json_body: Any = None, body: bytes | str | None = None, **rest: Any) -> Script:
    """Any answer: `json_body`, or `body` as it is, and the fields of Script by name."""
    headers = dict(rest.pop("headers", {}))
    if body is None:
        body = b"" if json_body is None else json.dumps(json_body).encode()
        headers.setdefault("content-type", "application/json")
    return Script(status=status, headers=headers, body=body.encode() if isinstance(body, str) else body, **rest)


def chat(
    text: str | None,
    *,
    finish: str = "stop",
    model: str = "scripted-model",
    tokens: tuple[int, int] = (7, 3),
    tool_calls: Sequence[Any] | None = None,
    **rest: Any,
) -> Script:
    """A chat completion in OpenAI's shape; `tokens` are (input, output)."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool_calls is not None:
        message["tool_calls"] = list(tool_calls)
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    completion = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1_795_302_000,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }
    return reply(json_body=completion, **rest)


def embeddings(
    vectors: Sequence[Sequence[float]], *, model: str = "scripted-model", tokens: int = 5, **rest: Any
) -> Script:
    data = [{"object": "embedding", "index": index, "embedding": list(v)} for index, v in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply(json_body={"object": "list", "data": data, "model": model, "usage": usage}, **rest)


def error(status: int, message: str, *, kind: str | None = None, code: str | None = None, **rest: Any) -> Script:
    """An error in OpenAI's shape; `kind` is its `type`."""
    return reply(status, json_body={"error": {"message": message, "type": kind, "param": None, "code": code}}, **rest)


def hang() -> Script:
    """Takes the request and never says a word."""
    return Script(silent=True)


def drop() -> Script:
    """Takes the request and closes the connection without a byte."""
    return Script(raw=b"", then="close")


def reset() -> Script:
    """Takes the request and resets the connection."""
    return Script(raw=b"", then="reset")


def raw(data: bytes, *, then: Literal["keep", "close", "reset"] = "close", **rest: Any) -> Script:
    """These bytes and nothing else, HTTP or not."""
    return Script(raw=data, then=then, **rest)


class ScriptedProvider:
    """See the module. `requests` may be read at any time; `connections` counts those ever opened."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.open = 0
        self._queue: deque[Script] = deque()
        self._always: Callable[[Received], Script] = lambda _: error(500, "nothing is scripted for this request")
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-provider", daemon=True)
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """What a configuration names: an address ending in `/v1`."""
        return self.url + "/v1"

    def queue(self, *scripts: Script) -> None:
        """The next answers, in this order."""
        with self._changed:
            self._queue.extend(scripts)

    def always(self, script: Script | Callable[[Received], Script]) -> None:
        """The answer to every request the queue has none for; a function is called in the server's thread."""
        with self._changed:
            self._always = script if callable(script) else lambda _: script

    def answer(self, status: int = 200, **rest: Any) -> None:
        self.queue(reply(status, **rest))

    def chat(self, text: str | None, **rest: Any) -> None:
        self.queue(chat(text, **rest))

    def embeddings(self, vectors: Sequence[Sequence[float]], **rest: Any) -> None:
        self.queue(embeddings(vectors, **rest))

    def error(self, status: int, message: str, **rest: Any) -> None:
        self.queue(error(status, message, **rest))

    def hold(self, script: Script) -> Hold:
        """Queues the answer, to be sent only after `release()` of what is returned."""
        held = Hold()
        self.queue(replace(script, hold=held))
        return held

    def wait_for(self, n: int, within_s: float = WAIT_S) -> list[Received]:
        """The first `n` requests, as soon as they have arrived. Raises TimeoutError."""
        self._wait(lambda: len(self.requests) >= n, within_s, f"{n} requests")
        return self.requests[:n]

    def wait_open(self, n: int, within_s: float = WAIT_S) -> None:
        """Until exactly `n` connections are open. Raises TimeoutError."""
        self._wait(lambda: self.open == n, within_s, f"{n} open connections")

    def start(self) -> None:
        """Listens, on the port it had before."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(WAIT_S)

    def stop(self) -> None:
        """Refuses connections and resets those that are open."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(WAIT_S)

    def _wait(self, reached: Callable[[], bool], within_s: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(reached, within_s):
                seen = f"{len(self.requests)} requests on {self.connections} connections, {self.open} open"
                raise TimeoutError(f"waited {within_s:g} s for {what}, saw {seen}")

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        for _ in range(3):  # asyncio forgets a connection that is accepted but not yet made when its server closes
            await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
            self._server = None
        while self._serving:
            for writer in self._serving.values():
                _reset(writer)
            await asyncio.wait(self._serving)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """At once, not in the task: a connection that is reset before its task began must be known too."""
        with self._changed:
            number = self.connections
            self.connections += 1
            self.open += 1
            self._changed.notify_all()
        task = self._loop.create_task(self._serve(reader, writer, number))
        self._serving[task] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        try:
            while (received := await _read_request(reader, number)) is not None:
                script = self._next(received)
                await _Performance(script, reader, writer).play()
                if script.then == "reset":
                    _reset(writer)
                if script.then != "keep" or script.cut_after is not None or script.framing == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass  # the client left, or spoke no HTTP
        finally:
            writer.close()
            with self._changed:
                self.open -= 1
                self._changed.notify_all()
            with suppress(OSError):
                await writer.wait_closed()  # a client that does not read leaves bytes behind: `stop` resets it
            task = asyncio.current_task()
            assert task is not None
            del self._serving[task]

    def _next(self, received: Received) -> Script:
        with self._changed:
            script = self._queue.popleft() if self._queue else None
            always = self._always
            self.requests.append(received)
            self._changed.notify_all()
        return always(received) if script is None else script


class _Performance:
    def __init__(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.script = script
        self.reader = reader
        self.writer = writer

    async def play(self) -> None:
        script = self.script
        if script.hold is not None:
            await self._unless_gone(script.hold._wait())
        if script.silent:
            await self._unless_gone(asyncio.Event().wait())
        if script.delay_s:
            await self._unless_gone(asyncio.sleep(script.delay_s))
        if script.raw is not None:
            await self._send_pieces(script.raw)
            return
        await self._send(self._head())
        while script.endless:
            await self._send(b"%x\r\n%s\r\n" % (len(script.body), script.body))
        await self._send_pieces(script.body[: script.cut_after])
        if script.framing == "chunked" and script.cut_after is None:
            await self._send(b"0\r\n\r\n")

    async def _send_pieces(self, data: bytes) -> None:
        size, pause_s = (len(data) or 1, 0.0) if self.script.drip is None else self.script.drip
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            if pause_s:
                await self._unless_gone(asyncio.sleep(pause_s))
            chunked = self.script.framing == "chunked"
            await self._send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

    def _head(self) -> bytes:
        script = self.script
        lines = [f"HTTP/1.1 {script.status} {_phrase(script.status)}"]
        lines += [f"{name}: {value}" for name, value in script.headers.items()]
        if script.endless or script.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif script.framing == "length":
            lines.append(f"content-length: {len(script.body)}")
        if script.framing == "close" or script.then != "keep":
            lines.append("connection: close")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")

    async def _send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def _unless_gone(self, waiting: Any) -> None:
        """Waits, but no longer than the client stays. Raises ConnectionError when it has left."""
        pause = asyncio.ensure_future(waiting)
        leaving = asyncio.ensure_future(self.reader.read(1))
        try:
            await asyncio.wait({pause, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise ConnectionResetError("the client left")
        finally:
            pause.cancel()
            leaving.cancel()
            await asyncio.gather(pause, leaving, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received | None:
    line = await reader.readline()
    if not line:
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    size = 0
    while (line := await reader.readline()).strip():
        size += len(line)
        if size > _MOST_HEAD:
            raise ConnectionError("a head without end")
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body, time.monotonic(), connection)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unnamed"


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection with RST: what is still unread on the other side is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
