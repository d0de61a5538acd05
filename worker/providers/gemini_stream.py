"""Generated content that came as server-sent events, put together again."""

from __future__ import annotations

from typing import Any

from worker.providers.event_stream import BrokenStreamError, events
from worker.providers.json_text import read_json


def response_of(body: bytes) -> dict[str, Any]:
    """The response as it would have come in one piece; such a stream has no mark at its end but the finish reason.

    Raises BrokenStreamError, ValueError (an event is no JSON).
    """
    whole: dict[str, Any] = {}
    parts: list[Any] = []
    candidate: dict[str, Any] = {}
    for data in events(body):
        chunk = read_json(data.encode("utf-8", "replace"))
        if isinstance(chunk, list) and chunk:
            chunk = chunk[0]
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise BrokenStreamError(whole, error=chunk)
        whole |= {name: value for name, value in chunk.items() if value is not None and name != "candidates"}
        candidates = chunk.get("candidates")
        first = candidates[0] if isinstance(candidates, list) and candidates else None
        if isinstance(first, dict) and first.get("index", 0) == 0:
            candidate |= {name: value for name, value in first.items() if value is not None}
            content = first.get("content")
            more = content.get("parts") if isinstance(content, dict) else None
            parts += more if isinstance(more, list) else []
    if candidate:
        whole["candidates"] = [{**candidate, "content": {"role": "model", "parts": parts}}]
    if candidate.get("finishReason") is None and not whole.get("promptFeedback"):
        raise BrokenStreamError(whole)
    return whole
