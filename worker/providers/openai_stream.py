"""A chat completion that came as server-sent events, put together again; a stream can fail after its 200."""

from __future__ import annotations

from typing import Any, Final

from worker.providers.event_stream import BrokenStreamError, events
from worker.providers.json_text import read_json

DONE: Final = "[DONE]"
_TOOLS: Final = 1000  # a tool call's index is the provider's number; none asks for more at once


def completion_of(body: bytes) -> dict[str, Any]:
    """The completion as it would have come in one piece. Raises BrokenStreamError, ValueError (an event is no JSON)."""
    folded = _Folded()
    for data in events(body):
        if data == DONE:
            if folded.finish is None:
                break
            return folded.completion()
        chunk = read_json(data.encode("utf-8", "replace"))
        if not isinstance(chunk, dict) or chunk.get("error") or chunk.get("object") == "error":
            raise BrokenStreamError(folded.completion(), error=chunk)
        folded.add(chunk)
    raise BrokenStreamError(folded.completion())


class _Folded:
    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.texts: dict[str, list[str]] = {}
        self.tools: dict[int, dict[str, Any]] = {}
        self.finish: Any = None
        self.usage: Any = None

    def add(self, chunk: dict[str, Any]) -> None:
        for name in ("id", "model", "x_groq"):
            if chunk.get(name) and name not in self.head:
                self.head[name] = chunk[name]
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.usage = chunk.get("usage") or choice.get("usage") or self.usage
        if choice.get("index", 0) != 0:
            return
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._add_delta(delta)

    def _add_delta(self, delta: dict[str, Any]) -> None:
        for name in ("content", "refusal"):
            if isinstance(text := delta.get(name), str):
                self.texts.setdefault(name, []).append(text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._add_tool(call)

    def _add_tool(self, call: dict[str, Any]) -> None:
        index = call.get("index")
        if type(index) is not int or not 0 <= index < _TOOLS:
            index = len(self.tools)
        tool = self.tools.setdefault(index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        tool["id"] = tool["id"] or call.get("id")
        part = call.get("function")
        if isinstance(part, dict):
            for name in ("name", "arguments"):
                if isinstance(text := part.get(name), str):
                    tool["function"][name] += text

    def completion(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message |= {name: "".join(parts) for name, parts in self.texts.items()}
        if self.tools:
            message["tool_calls"] = [self.tools[index] for index in sorted(self.tools)]
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return {**self.head, "choices": [choice], "usage": self.usage}
