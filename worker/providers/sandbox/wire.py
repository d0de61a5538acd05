"""HTTP/1.1 as far as a client of an API needs it: keep-alive, pipelining, bodies of a known length."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast

from worker.providers.sandbox.asking import Request
from worker.providers.sandbox.bodies import Reply

_MAX_HEAD: Final = 64 << 10
_MAX_BODY: Final = 64 << 20
_FILLER: Final = b"x" * (256 << 10)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_LINGER: Final = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # close with a reset, nothing kept for later


class Connection(asyncio.Protocol):
    """One client. A request is answered before the next is read."""

    def __init__(self, answer: Callable[[Request], Reply], open_ones: set[Connection]) -> None:
        self._answer = answer
        self._open_ones = open_ones
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str], int] | None = None
        self._busy = False
        self._keep = True
        self._paused = False
        self._filler = 0
        self._rest = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open_ones.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._open_ones.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._busy and len(self._buffer) > _MAX_BODY:
            self._transport.abort()
        self._read()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._filler:
            self._pour()

    def abort(self) -> None:
        self._transport.abort()

    def _read(self) -> None:
        """Take requests from the buffer for as long as each is answered at once."""
        while not self._busy and not self._transport.is_closing():
            if self._head is None and not self._read_head():
                return
            assert self._head is not None
            method, path, headers, length = self._head
            if len(self._buffer) < length:
                return
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
            self._head = None
            self._busy = True
            self._give(self._answer(Request(method, path, headers, body)))

    def _read_head(self) -> bool:
        """Whether a whole head was there and is understood; one that is not ends the connection."""
        end = self._buffer.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= _MAX_HEAD:
                self._refuse(431)
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "0")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not (length.isascii() and length.isdigit()):
            self._refuse(400)
            return False
        if "transfer-encoding" in headers:
            self._refuse(411)
            return False
        if len(length) > 12 or int(length) > _MAX_BODY:
            self._refuse(413)
            return False
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._keep = words[2] != "HTTP/1.0" and headers.get("connection", "").lower() != "close"
        self._keep &= words[0] != "HEAD"  # its answer has a body here, which no client expects
        self._head = words[0], words[1], headers, int(length)
        return True

    def _refuse(self, status: int) -> None:
        self._keep = False
        self._send(Reply(status, b"[sandbox] " + _PHRASES[status].encode(), content_type="text/plain"))

    def _give(self, reply: Reply) -> None:
        if reply.ending == "silence":
            return
        if reply.delay_s > 0:
            self._timer = asyncio.get_running_loop().call_later(reply.delay_s, self._send_late, reply)
        else:
            self._send(reply)

    def _send_late(self, reply: Reply) -> None:
        self._timer = None
        self._send(reply)
        self._read()

    def _send(self, reply: Reply) -> None:
        if reply.ending == "reset":
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self._transport.abort()
            return
        head = [
            f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, 'Unknown')}",
            f"content-type: {reply.content_type}",
            f"content-length: {len(reply.body) + reply.filler + len(reply.rest)}",
            "server: completar-sandbox",
            *(f"{name}: {value}" for name, value in reply.headers),
            *(() if self._keep else ("connection: close",)),
        ]
        body = reply.body[: len(reply.body) // 2] if reply.ending == "cut" else reply.body
        self._transport.write("\r\n".join([*head, "\r\n"]).encode("latin-1") + body)
        if reply.ending == "cut":
            self._transport.close()
        elif reply.filler:
            self._filler, self._rest = reply.filler, reply.rest
            self._pour()
        else:
            self._done()

    def _pour(self) -> None:
        """Write filler until the client falls behind; `resume_writing` goes on."""
        while self._filler and not self._paused:
            piece = _FILLER[: self._filler]
            self._filler -= len(piece)
            self._transport.write(piece)
        if not self._filler:
            self._transport.write(self._rest)
            self._done()
            self._read()

    def _done(self) -> None:
        self._busy = False
        if not self._keep:
            self._transport.close()
