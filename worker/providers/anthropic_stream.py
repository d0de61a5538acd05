"""A message that came as server-sent events, put together again."""

from __future__ import annotations

from typing import Any

from worker.providers.event_stream import BrokenStreamError, events
from worker.providers.json_text import read_json


def message_of(body: bytes) -> dict[str, Any]:
    """The message as it would have come in one piece.

    Raises BrokenStreamError where `message_stop` is missing or no stop reason came, ValueError (an event is no JSON).
    """
    folded = _Folded()
    for data in events(body):
        event = read_json(data.encode("utf-8", "replace"))
        kind = event.get("type") if isinstance(event, dict) else None
        if not isinstance(event, dict) or kind == "error" or event.get("error"):
            raise BrokenStreamError(folded.message(), error=event)
        if kind == "message_stop":
            if folded.head.get("stop_reason") is None:
                break
            return folded.message()
        folded.add(kind, event)
    raise BrokenStreamError(folded.message())


class _Folded:
    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self.blocks: dict[Any, dict[str, Any]] = {}
        self.pieces: dict[Any, list[str]] = {}

    def add(self, kind: Any, event: dict[str, Any]) -> None:
        """`ping` and kinds of events that are new are passed over."""
        if kind == "message_start":
            message = event.get("message")
            self.head |= message if isinstance(message, dict) else {}
            self._count(self.head.get("usage"))
        elif kind == "message_delta":
            delta = event.get("delta")
            self.head |= delta if isinstance(delta, dict) else {}
            self._count(event.get("usage"))
        elif kind == "content_block_start":
            block = event.get("content_block")
            self.blocks[_place(event)] = dict(block) if isinstance(block, dict) else {}
        elif kind == "content_block_delta":
            delta = event.get("delta")
            for piece in (delta.get("text"), delta.get("partial_json")) if isinstance(delta, dict) else ():
                if isinstance(piece, str):
                    self.pieces.setdefault(_place(event), []).append(piece)

    def message(self) -> dict[str, Any]:
        return {**self.head, "content": [self._block(place) for place in self.blocks], "usage": self.usage}

    def _count(self, usage: Any) -> None:
        """The counts of a later event are not added: they take the place of the earlier ones."""
        if isinstance(usage, dict):
            self.usage |= {name: count for name, count in usage.items() if count is not None}

    def _block(self, place: Any) -> dict[str, Any]:
        block = self.blocks[place]
        written = "".join(self.pieces.get(place, ()))
        if block.get("type") == "tool_use":
            return {**block, "input": written} if written else block
        before = block.get("text")
        return {**block, "text": (before if isinstance(before, str) else "") + written}


def _place(event: dict[str, Any]) -> Any:
    index = event.get("index")
    return index if type(index) is int else None
