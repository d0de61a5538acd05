"""One try of one delivery over the network. The only place that dials an address a user gave.

The name is resolved once, all its addresses are vetted, and one of these is dialled; Host, SNI and the check of the
certificate stay with the name. No redirect is followed, no proxy or .netrc of the environment is read (httpcore knows
neither), no connection is shared between endpoints, nothing is decompressed, and no answer is read beyond its cap.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import httpcore

from worker.clock import monotonic_s
from worker.webhooks.address import Address, Refused, Rules, Url, parse, vet
from worker.webhooks.line import Line
from worker.webhooks.lookup import Lookups
from worker.webhooks.schedule import Fault
from worker.webhooks.wire import Wire

ANSWER_BYTES: Final = 8192
DNS_S: Final = 5.0
DIALS: Final = 3  # addresses of one name that are tried
LINES: Final = 256  # endpoints whose connections are kept
BODY_S: Final = 1.0  # the status has told everything; the answer's text is only for people

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Try:
    """What became of one try. `fault` is None exactly where the receiver took the event (a status of 2xx).

    reason        one sentence for people; None where all went well
    address       what was dialled
    *_s           seconds of each phase, None where it was not reached; `first_byte_s` is from the request's last byte
    """

    status: int | None
    fault: Fault | None
    reason: str | None
    fields: Mapping[str, str] = field(default_factory=dict)
    answer: bytes = b""
    address: str | None = None
    dns_s: float | None = None
    connect_s: float | None = None
    tls_s: float | None = None
    first_byte_s: float | None = None
    total_s: float = 0.0


@dataclass(slots=True)
class _Log:
    """What is noted while a try runs, by the task that runs it."""

    address: str | None = None
    spans: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)

    async def trace(self, event: str, _info: Mapping[str, Any]) -> None:
        name, _, what = event.rpartition(".")
        if what == "started":
            self.began[name] = monotonic_s()
        elif what == "complete":
            self.spans[name] = monotonic_s() - self.began.get(name, monotonic_s())

    def failed_in(self, name: str) -> bool:
        return name in self.began and name not in self.spans


_log: ContextVar[_Log] = ContextVar("webhook_try")


class Sender:
    """Made, used and closed on one event loop."""

    def __init__(self, rules: Rules, *, tls: ssl.SSLContext | None = None, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._tls = ssl.create_default_context() if tls is None else tls
        self._lookups = Lookups()
        self._resolve: Resolve = self._by_system if resolve is None else resolve
        self._lines: OrderedDict[str, Line] = OrderedDict()  # the one that was used last at the end

    async def post(
        self, endpoint_id: str, url_text: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float
    ) -> Try:
        """POST once. `timeout_s` is for everything, from the name to the head of the answer, however it drips.

        Raises nothing but CancelledError: whatever goes wrong is a Try.
        """
        begun = monotonic_s()
        log = _Log()
        _log.set(log)
        status: int | None = None
        fields: dict[str, str] = {}
        answer = b""
        fault: Fault | None = None
        reason: str | None = None
        try:
            url = parse(url_text, self._rules)  # it was checked when it was stored; the rules may have changed since
            async with asyncio.timeout(timeout_s) as clock:
                await self._tidy()
                async with self._line(endpoint_id, url).stream(_request(url, headers, body, log)) as response:
                    status = response.status
                    fields = _fields(response.headers)
                    log.address = _peer(response)
                    clock.reschedule(asyncio.get_running_loop().time() + BODY_S)
                    async for piece in response.aiter_stream():
                        answer = (answer + piece)[:ANSWER_BYTES]
                        if len(answer) >= ANSWER_BYTES:
                            break
        except Exception as exc:  # noqa: BLE001 - a receiver can fail in more ways than we can list
            fault, reason = _fault(exc, log)
        if status is not None:  # it has told everything, whatever became of the rest
            taken = 200 <= status < 300
            fault, reason = (None, None) if taken else (Fault.HTTP, f"the receiver answered {status}")
        spans = log.spans
        return Try(
            status,
            fault,
            reason,
            fields,
            answer,
            log.address,
            dns_s=spans.get("dns"),
            connect_s=spans.get("connection.connect_tcp"),
            tls_s=spans.get("connection.start_tls"),
            first_byte_s=spans.get("http11.receive_response_headers"),
            total_s=monotonic_s() - begun,
        )

    async def aclose(self) -> None:
        while self._lines:
            await self._lines.popitem()[1].aclose()

    async def _tidy(self) -> None:
        """Close what nobody has used for long, one line at each try, and what is too much."""
        for name, line in list(self._lines.items())[:1]:
            if line.stale:
                await self._lines.pop(name).aclose()
        while len(self._lines) >= LINES:
            idle = next((name for name, line in self._lines.items() if line.idle), None)
            if idle is None:
                break
            await self._lines.pop(idle).aclose()

    def _line(self, endpoint_id: str, url: Url) -> Line:
        """Connections of this endpoint to this URL, and of nobody else. To be used at once: it is idle until then."""
        name = f"{endpoint_id} {url.scheme}://{url.authority}"
        line = self._lines.pop(name, None)
        if line is None:
            origin = httpcore.Origin(url.scheme.encode(), url.host.encode(), url.port)
            line = Line(origin, self._tls, _Pinned(url, self._rules, self._resolve))
        self._lines[name] = line
        return line

    async def _by_system(self, host: str, port: int) -> Sequence[str]:
        return await asyncio.wrap_future(self._lookups.ask(host, port))


class _Pinned(httpcore.AsyncNetworkBackend):
    """Dials only what was vetted a moment ago."""

    def __init__(self, url: Url, rules: Rules, resolve: Resolve) -> None:
        self._url, self._rules, self._resolve = url, rules, resolve

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the URL's, which is at hand taken apart
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - httpcore's signature; one bound holds for all of a try
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        log = _log.get()
        begun = monotonic_s()
        addresses = await self._addresses()
        log.spans["dns"] = monotonic_s() - begun
        log.began["connection.connect_tcp"] = monotonic_s()
        last: Exception | None = None
        for address in addresses[:DIALS]:
            log.address = str(address)
            try:
                return await Wire.connect(str(address), port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                last = exc
        assert last is not None
        raise last

    async def _addresses(self) -> list[Address]:
        if self._url.literal is not None:
            return vet(self._url, [str(self._url.literal)], self._rules)
        try:
            async with asyncio.timeout(DNS_S):
                found = await self._resolve(self._url.look_up, self._url.port)
        except TimeoutError:
            raise _Unresolved("its name could not be resolved in time") from None
        except OSError:
            raise _Unresolved("its name cannot be resolved") from None
        if not found:
            raise _Unresolved("its name has no address")
        return vet(self._url, found, self._rules)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Unresolved(Exception):
    """The message is for people and names nobody."""


def _request(url: Url, headers: Mapping[str, str], body: bytes, log: _Log) -> httpcore.Request:
    return httpcore.Request(
        b"POST",
        httpcore.URL(scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=url.path.encode()),
        headers=[
            (b"host", url.authority.encode()),
            (b"content-length", str(len(body)).encode()),
            *_encoded(headers),
        ],
        content=body,
        extensions={"trace": log.trace},
    )


def _peer(response: httpcore.Response) -> str | None:
    """The address on the other end, also of a connection that was kept."""
    found = response.extensions["network_stream"].get_extra_info("server_addr")
    return str(found[0]) if found else None


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Names in lower case, the first of each; enough to see what a receiver wants."""
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


def _fault(exc: Exception, log: _Log) -> tuple[Fault, str]:
    """The same words for a closed, an open and a filtered port of a place that must not be looked at."""
    match exc:
        case Refused():
            return Fault.SSRF_BLOCKED, f"the URL {exc}"
        case _Unresolved():
            return Fault.DNS, f"the URL cannot be reached: {exc}"
        case TimeoutError() | httpcore.TimeoutException():
            return Fault.TIMEOUT, "the receiver did not answer in time"
        case httpcore.ConnectError() if log.failed_in("connection.start_tls"):
            return Fault.TLS, "no TLS connection with the receiver: its certificate or its protocol does not fit"
        case ssl.SSLError():
            return Fault.TLS, "the TLS connection with the receiver broke"
        case httpcore.ConnectError():
            return Fault.CONNECT, "no connection to the receiver"
        case httpcore.NetworkError() | httpcore.RemoteProtocolError():
            return Fault.PROTOCOL, "the receiver broke off, or does not speak HTTP"
        case _:
            return Fault.INTERNAL, f"the request could not be made ({type(exc).__name__})"
