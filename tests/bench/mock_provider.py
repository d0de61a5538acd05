"""A provider that costs next to nothing: OpenAI's chat shape, one fixed answer, held for a drawn time.

It shares the two cores with what is measured, so it reads of a request only where it ends. One request at a time per
connection, as HTTP clients do. `python -m tests.bench.mock_provider` prints its port and serves until SIGTERM:

    POST /v1/chat/completions   the answer; its x-request-id says how long it was held, in microseconds
    GET  /stats                 what was served since the last reset (see `Provider.stats`)
    POST /reset                 forget what was served
    POST /latency               {"shape": "uniform" | "lognormal" | "none", ...} from the next request on
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import heapq
import json
import random
import signal
import time
from array import array
from collections.abc import Callable
from typing import Any, Final, cast

import uvloop

CHAT: Final = b"POST /v1/chat/completions "
HELD: Final = "held-"
LEAST_BYTES: Final = 600
LONGEST_S: Final = 10.0  # of log-normal times: one in five hundred would be longer, and a run waits for its last
TICK_S: Final = 0.002  # between two looks for what is due, while much is
_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"Content-Length: "  # as httpx and aiohttp write it; other spellings take the slow way
_TEXT: Final = "The sky is blue because air scatters short waves of light more than long ones. "

Draw = Callable[[], float]


def answer(size: int, says: str | None = None) -> bytes:
    """The bytes of an answer of `size` bytes of JSON, or with this text, and room for the time it was held."""
    reply: dict[str, Any] = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "mock-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 24, "completion_tokens": 64, "total_tokens": 88},
    }
    if says is None:
        room = size - len(json.dumps(reply))
        assert room > 0, f"an answer has at least {LEAST_BYTES} bytes"
        says = (_TEXT * (room // len(_TEXT) + 1))[:room]
    reply["choices"][0]["message"]["content"] = says
    body = json.dumps(reply)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nx-request-id: {HELD}"
    return f"{head}%09d\r\n\r\n{body}".encode("ascii")


def latency(shape: str, *, low_s: float = 0.1, high_s: float = 0.3, median_s: float = 1.0, sigma: float = 0.8) -> Draw:
    """How long answers are held, in seconds. Raises ValueError for a shape it does not know."""
    if shape == "none":
        return float
    if shape == "uniform":
        return lambda: low_s + (high_s - low_s) * random.random()
    if shape == "lognormal":
        return lambda: min(LONGEST_S, median_s * random.lognormvariate(0.0, sigma))
    raise ValueError(f"no latency of shape {shape!r}")


class Provider:
    def __init__(self, reply: bytes, draw: Draw) -> None:
        self.reply = reply
        self.draw = draw
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.hung_up = 0  # callers that left before their answer
        self.most_in_flight = self.in_flight
        self.first_at: float | None = None
        # After each answer: when it was, and the time spent in flight by all requests until then.
        self._answered_at = array("d")
        self._spent_s = array("d")
        self._now_spent_s = 0.0
        self._counted_at = time.monotonic()

    def began(self) -> float:
        """A request is complete; the time."""
        now = self._count(+1)
        self.requests += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.first_at is None:
            self.first_at = now
        return now

    def ended(self, *, answered: bool) -> float:
        """It is answered, or its caller has gone; the time."""
        now = self._count(-1)
        if answered:
            self._answered_at.append(now)
            self._spent_s.append(self._now_spent_s)
        else:
            self.hung_up += 1
        return now

    def _count(self, change: int) -> float:
        now = time.monotonic()
        self._now_spent_s += self.in_flight * (now - self._counted_at)
        self._counted_at = now
        self.in_flight += change
        return now

    def stats(self) -> dict[str, float | None]:
        """Times are this machine's monotonic clock, which other processes share.

        The last two are of the middle, between 15 % and 85 % of the answers: answers per second, mean in flight.
        """
        at, spent, answered = self._answered_at, self._spent_s, len(self._answered_at)
        low, high = int(0.15 * answered), int(0.85 * answered)
        seconds = at[high] - at[low] if high > low else 0.0
        return {
            "requests": self.requests,
            "answered": answered,
            "hung_up": self.hung_up,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "first_at": self.first_at,
            "last_at": at[-1] if answered else None,
            "per_s": (high - low) / seconds if seconds else None,
            "mean_in_flight": (spent[high] - spent[low]) / seconds if seconds else None,
        }


class Held:
    """Answers that wait for their time. One timer serves them all: one each would cost more than all the rest."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._number = 0  # no two entries of the heap are equal
        self._heap: list[tuple[float, int, float, asyncio.Transport]] = []
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = 0.0

    def add(self, transport: asyncio.Transport) -> None:
        """A request is complete: it is answered after the time drawn for it."""
        began_at = self._provider.began()
        hold_s = self._provider.draw()
        if hold_s <= 0.0:
            self._answer(transport, began_at)
            return
        self._number += 1
        due_at = began_at + hold_s
        heapq.heappush(self._heap, (due_at, self._number, began_at, transport))
        if self._wake is None or due_at < self._wake_at:
            self._wake_in(hold_s)

    def _wake_in(self, seconds: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = time.monotonic() + seconds
        self._wake = self._loop.call_later(seconds, self._due)

    def _due(self) -> None:
        self._wake = None
        heap = self._heap
        now = time.monotonic()
        while heap and heap[0][0] <= now:
            _, _, began_at, transport = heapq.heappop(heap)
            self._answer(transport, began_at)
        if heap:
            self._wake_in(max(TICK_S, heap[0][0] - now))

    def _answer(self, transport: asyncio.Transport, began_at: float) -> None:
        here = not transport.is_closing()
        held_s = self._provider.ended(answered=here) - began_at
        if here:
            transport.write(self._provider.reply % (held_s * 1e6))


class Caller(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_held", "_provider", "_rest", "_transport")

    def __init__(self, provider: Provider, held: Held) -> None:
        self._provider = provider
        self._held = held
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        end = data.find(_END)
        if end < 0 or len(data) < end + 4 + _length(data, end):
            self._rest = data
            return
        self._rest = b""
        if data.startswith(CHAT):
            self._held.add(self._transport)
        else:
            self._transport.write(_told(self._provider, data[:end], data[end + 4 :]))


def _length(data: bytes, end: int) -> int:
    """Content-Length of the request whose head ends there; 0 without one."""
    at = data.find(_LENGTH, 0, end)
    if at < 0:
        at = data[:end].lower().find(_LENGTH.lower())
        if at < 0:
            return 0
    at += len(_LENGTH)
    return int(data[at : data.find(b"\r", at)])


def _told(provider: Provider, head: bytes, body: bytes) -> bytes:
    """The answer to whoever steers the bench."""
    status, reply = "200 OK", "{}"
    match head.split(b" ", 2)[:2]:
        case [b"GET", b"/stats"]:
            reply = json.dumps(provider.stats())
        case [b"POST", b"/reset"]:
            provider.reset()
        case [b"POST", b"/latency"]:
            try:
                provider.draw = latency(**json.loads(body))
            except (ValueError, TypeError) as fault:
                status, reply = "400 Bad Request", json.dumps({"error": str(fault)})
        case _:
            status = "404 Not Found"
    head_out = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n"
    return (head_out + reply).encode("ascii")


async def _serve(provider: Provider, port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    held = Held(provider, loop)
    server = await loop.create_server(lambda: Caller(provider, held), "127.0.0.1", port, backlog=4096)
    print(f"serving on port {server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mock_provider", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: a free one (default)")
    parser.add_argument("--bytes", type=int, default=LEAST_BYTES, help="JSON of an answer (default %(default)s)")
    parser.add_argument("--says", metavar="TEXT", help="what an answer says, instead of something of that size")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--lognormal", dest="shape", action="store_const", const="lognormal", help="median 1 s, sigma 0.8"
    )
    shape.add_argument("--none", dest="shape", action="store_const", const="none", help="answer at once")
    parser.set_defaults(shape="uniform")
    options = parser.parse_args()
    gc.disable()  # nothing here makes rings but closed connections
    uvloop.run(_serve(Provider(answer(options.bytes, options.says), latency(options.shape)), options.port))


if __name__ == "__main__":
    main()
