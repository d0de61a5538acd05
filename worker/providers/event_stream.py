"""Server-sent events of a whole body. We never ask for a stream, but a server in between may send one all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class BrokenStreamError(Exception):
    """The stream told of an error, or ended too early.

    error    the event with the error in it; None: it just ended
    partial  what had arrived, in the shape of a reply that came in one piece
    """

    def __init__(self, partial: dict[str, Any], error: Any = None) -> None:
        super().__init__("the stream ended before its answer was complete")
        self.partial = partial
        self.error = error


def is_event_stream(content_type: str, body: bytes) -> bool:
    """By how it begins: no JSON does like a stream, and some gateways name every reply one. Else by its name."""
    head = body[:64].lstrip()
    if head.startswith((b"data:", b"event:", b":")):
        return True
    return content_type.lower().startswith("text/event-stream") and not head.startswith((b"{", b"["))


def events(body: bytes) -> Iterator[str]:
    """The data of each event; CR, LF and CRLF all end a line, an empty line ends an event."""
    lines: list[str] = []
    text = body.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)
