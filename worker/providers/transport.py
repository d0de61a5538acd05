"""The only sender, and the only module that knows the HTTP library.

Requests come as `httpx.Request`; the bytes are moved by aiohttp, called directly: 0.09 to 0.10 ms of CPU a call,
against 0.11 through httpx-aiohttp and many times that through httpx's own pool. Nothing is retried, redirected,
remembered or taken from the environment here: one `send` is at most one request on the wire, and its end is a Reply
or a Failure.
"""

from __future__ import annotations

import asyncio
import io
import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import aiohttp
import httpx
import yarl
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError
from aiohttp.tracing import Trace

from worker.clock import monotonic_s
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.providers.redaction import one_line

MAX_BYTES: Final = 16 * 1024 * 1024
KEEPALIVE_S: Final = 30.0  # an idle connection older than this is closed by us, before most servers close it under us
DNS_S: Final = 30  # a looked-up address is used again for this long
_ONE_PIECE: Final = 1024 * 1024  # bytes of a request body
_HEAD_LINE: Final = 64 * 1024  # bytes of one header line; edges send long policies
_UNDECODABLE: Final = "the reply cannot be decompressed"


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply, whatever its status.

    headers       lower-case names; repeated ones are joined by ", "
    body          decoded if the server compressed it without being asked
    first_byte_s  from the call of `send` until the head of the reply was there
    total_s       until its last byte was
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_byte_s: float
    total_s: float


class Transport:
    """Connections to all providers, shared by all calls of one event loop. Make it inside that loop."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._session = aiohttp.ClientSession(
            connector=_Connector(httpx.create_ssl_context() if tls is None else tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            max_line_size=_HEAD_LINE,
            max_field_size=_HEAD_LINE,
        )
        # aiohttp sends GET and PUT again on a kept-alive connection that turns out dead. There is no public switch.
        self._session._retry_connection = False  # noqa: SLF001

    async def send(
        self,
        request: httpx.Request,
        *,
        connect_s: float,
        first_byte_s: float,
        total_s: float,
        max_bytes: int = MAX_BYTES,
    ) -> Reply | Failure:
        """One request, one reply.

        connect_s     until there is a connection: name, TCP and TLS
        first_byte_s  from the beginning until the head of the reply is complete
        total_s       from the beginning until its last byte, however it drips
        max_bytes     the longest body, decoded, that is read
        """
        begun = monotonic_s()
        response: aiohttp.ClientResponse | None = None
        complete = False
        try:
            async with asyncio.timeout(min(first_byte_s, total_s)) as clock:
                response = await self._session.request(
                    request.method,
                    _target(str(request.url)),
                    headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
                    data=_body(request.read()),
                    allow_redirects=False,
                    timeout=_connect_clock(connect_s),
                )
                heard_s = monotonic_s() - begun
                if response.content.is_eof() and response.content.total_bytes <= max_bytes:
                    body = response.content.read_nowait()  # it came along with the head
                else:
                    clock.reschedule(asyncio.get_running_loop().time() + total_s - heard_s)
                    body = await _read(response, max_bytes)
            complete = True
            return Reply(response.status, _fields(response), body, heard_s, monotonic_s() - begun)
        except aiohttp.ConnectionTimeoutError:
            told = f"no connection to {request.url.host} within {connect_s:g} s (connect)"
            return Failure(FailureKind.TIMEOUT, told, unsent=True)
        except TimeoutError:
            status = response.status if response is not None else None
            if status is None and first_byte_s < total_s:
                return Failure(FailureKind.TIMEOUT, f"no reply began within {first_byte_s:g} s (first byte)")
            return Failure(FailureKind.TIMEOUT, f"no complete reply within {total_s:g} s (total)", http_status=status)
        except (aiohttp.ClientError, OSError, _TooLargeError) as fault:
            return _unanswered(request, fault) if response is None else _broken_off(response.status, fault)
        except ValueError as fault:  # a line break in a key, credentials in the URL: nothing was sent
            return Failure(FailureKind.INTERNAL, one_line(f"the request cannot be sent: {fault}"), unsent=True)
        finally:
            if response is not None and not complete:
                response.close()

    async def aclose(self) -> None:
        """Closes every connection; calls in flight end as failures."""
        await self._session.close()


class _Connector(aiohttp.TCPConnector):
    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=DNS_S, ssl=tls)
        protocol: type[ResponseHandler] = _Protocol
        self._factory = partial(protocol, loop=self._loop)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """Passes over kept-alive connections on which something arrived unasked: it would be taken for the reply."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class _Protocol(ResponseHandler):
    """Tells the reader of a body when its chunks turn out malformed; aiohttp 3.14 leaves it waiting for more."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        fault = self.exception()
        body = self._payload
        if isinstance(fault, HttpProcessingError) and body is not None and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError(str(fault)), fault)


class _TooLargeError(Exception):
    pass


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body. Raises _TooLargeError as soon as it is longer than `max_bytes`."""
    if (response.content_length or 0) > max_bytes:
        raise _TooLargeError(f"the reply is longer than {max_bytes} bytes")
    parts = []
    size = 0
    while part := await response.content.readany():
        size += len(part)
        if size > max_bytes:
            raise _TooLargeError(f"the reply is longer than {max_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _unanswered(request: httpx.Request, fault: Exception) -> Failure:
    """No reply began: nobody there, or somebody who does not speak HTTP."""
    host = request.url.host
    if isinstance(fault, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return Failure(FailureKind.INTERNAL, "the address of the provider is no HTTP URL", unsent=True)
    if _is_undecodable(fault):
        return Failure(FailureKind.BAD_OUTPUT, _UNDECODABLE)
    if isinstance(fault, aiohttp.ClientConnectorDNSError):
        told = f"the name {host} cannot be resolved"
    elif isinstance(fault, aiohttp.ClientConnectorCertificateError):
        told = f"the certificate of {host} is not trusted: {fault.certificate_error}"
    elif isinstance(fault, aiohttp.ClientConnectorSSLError):
        told = f"no TLS with {host}: {fault.strerror or fault.os_error}"
    elif isinstance(fault, aiohttp.ClientConnectorError):
        told = f"no connection to {host}: {fault.strerror or fault.os_error}"
    elif isinstance(fault, aiohttp.ClientResponseError):
        told = f"{host} does not answer in HTTP: {fault.message}"
    elif isinstance(fault, aiohttp.ServerDisconnectedError):
        told = f"{host} closed the connection without a reply"
    else:
        told = f"the connection to {host} broke before a reply: {fault}"
    # Only what aiohttp's connector raises is sure to come before the first byte.
    return Failure(FailureKind.CONNECTION, one_line(told), unsent=isinstance(fault, aiohttp.ClientConnectorError))


def _broken_off(status: int, fault: Exception) -> Failure:
    """A reply began and cannot be had whole."""
    if isinstance(fault, _TooLargeError):
        return Failure(FailureKind.BAD_OUTPUT, str(fault), http_status=status)
    if _is_undecodable(fault):
        return Failure(FailureKind.BAD_OUTPUT, _UNDECODABLE, http_status=status)
    return Failure(FailureKind.TRUNCATED, "the connection was cut in the middle of the reply", http_status=status)


def _is_undecodable(fault: BaseException | None) -> bool:
    """Compressed although `identity` was asked for, and wrongly or in a way we cannot undo: it would be again."""
    while fault is not None:
        if isinstance(fault, ContentEncodingError):
            return True
        fault = fault.__cause__
    return False


def _body(content: bytes) -> bytes | io.BytesIO | None:
    """A large body is written in pieces: in one it would hold up the loop."""
    if len(content) > _ONE_PIECE:
        return io.BytesIO(content)
    return content or None


def _fields(response: aiohttp.ClientResponse) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in response.headers.items():
        lower = name.lower()
        fields[lower] = f"{fields[lower]}, {value}" if lower in fields else value
    return fields


@lru_cache(maxsize=1024)
def _target(url: str) -> yarl.URL:
    return yarl.URL(url, encoded=True)


@lru_cache(maxsize=64)
def _connect_clock(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(connect=connect_s, ceil_threshold=math.inf)
