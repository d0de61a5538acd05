"""A response that came as server-sent events: the last event holds it whole."""

from __future__ import annotations

from typing import Any, Final

from worker.providers.event_stream import BrokenStreamError, events
from worker.providers.json_text import read_json

_LAST: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_DONE: Final = "[DONE]"  # not of this API, but some servers end every stream with it


def response_of(body: bytes) -> dict[str, Any]:
    """Raises BrokenStreamError where no last event came, ValueError (an event is no JSON)."""
    begun: dict[str, Any] = {}
    for data in events(body):
        if data == _DONE:
            break
        event = read_json(data.encode("utf-8", "replace"))
        kind = event.get("type") if isinstance(event, dict) else None
        if not isinstance(event, dict) or kind == "error" or event.get("error"):
            raise BrokenStreamError(begun, error=event)
        response = event.get("response")
        if isinstance(response, dict):
            begun = response
            if isinstance(kind, str) and kind in _LAST:
                return response
    raise BrokenStreamError(begun)
