"""A chat completion of the OpenAI family, parsed, read into an answer, or into what it is instead of one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from worker.domain.answer import Answer, Call, Outcome
from worker.domain.failure import FailureKind
from worker.providers.json_text import answer_json, clean, kept, read_strict_json
from worker.providers.openai_facts import facts_of

# Raw finish reasons of the family. Unknown ones count as `stop` where there is text.
FINISH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stop": "stop",
        "eos_token": "stop",
        "stop_sequence": "stop",
        "end_turn": "stop",
        "length": "length",
        "max_tokens": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "content_filter": "content_filter",
        "refusal": "refusal",
        "abort": "error",
        "error": "error",
    }
)
_RAW_CUT: Final = 100


def read_chat(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    """`length` is an answer, even an empty one: reasoning may have eaten the ceiling, and it is billed."""
    facts = facts_of(status, headers, reply)
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if choices == []:
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without choices")
    choice = choices[0] if isinstance(choices, list) else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no chat completion")

    text = _text(message.get("content"))
    tools = _tools(message)
    raw = choice.get("finish_reason")
    raw = clean(raw[:_RAW_CUT]) if isinstance(raw, str) else None
    finish = FINISH.get(raw or "", "tool_calls" if tools and not text else "stop")

    if finish == "error":
        return facts.failure(FailureKind.SERVER_ERROR, f"the provider broke off the answer ({raw})")
    if finish == "content_filter":
        return facts.failure(FailureKind.CONTENT_FILTER, "the provider's content filter stopped the answer")
    if finish == "refusal" or (isinstance(message.get("refusal"), str) and message["refusal"]):
        return facts.failure(FailureKind.REFUSAL, f"the model refused: {message.get('refusal') or text or ''}")
    try:
        calls = [_read_tool(tool, index, cut=finish == "length") for index, tool in enumerate(tools)]
    except ValueError as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"a broken tool call: {fault}")
    if not calls and finish != "length" and (text is None or not text.strip()):
        return facts.failure(FailureKind.EMPTY_OUTPUT, f"an answer without text (finish reason {raw})")

    value = None
    if call.output_schema is not None and text is not None and not calls and finish != "length":
        # Whether it fits is judged by the caller, for every format alike.
        with contextlib.suppress(ValueError):
            value = answer_json(text)
    return Answer(
        usage=facts.usage,
        text=text,
        finish_reason=finish,
        raw_finish=raw,
        tool_calls=[{"id": c.id, "name": c.name, "arguments": c.arguments} for c in calls],
        message=_turn(text, calls),
        json=value,
        model=facts.model,
        request_id=facts.request_id,
    )


def _text(content: Any) -> str | None:
    """The text of a message; a list of parts is joined. Absent and `null` are None, which is not ""."""
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return clean("".join(part for part in parts if isinstance(part, str)))
    return None


def _tools(message: Mapping[str, Any]) -> list[Any]:
    tools = message.get("tool_calls")
    if isinstance(tools, list) and tools:
        return tools
    old = message.get("function_call")
    return [{"function": old}] if isinstance(old, dict) else []


class _Tool(NamedTuple):
    """`arguments` as parsed, `written` as the model wrote them."""

    id: str
    name: str
    arguments: Any
    written: str


def _read_tool(tool: Any, index: int, *, cut: bool) -> _Tool:
    """Raises ValueError, but not where the ceiling `cut` the arguments off: they stay text then."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ValueError("it names no function")
    identity = tool.get("id")
    identity = clean(identity) if isinstance(identity, str) and identity else f"call_{index}"
    written = function.get("arguments")
    if isinstance(written, dict):  # TGI sends the object itself
        arguments = kept(written)
        return _Tool(identity, clean(name), arguments, json.dumps(arguments, ensure_ascii=False))
    if not isinstance(written, str | None):
        raise ValueError("its arguments are no text")  # noqa: TRY004 - the model's fault, not the program's
    written = written or "{}"  # a tool without parameters may get nothing
    try:
        arguments = read_strict_json(written)
    except ValueError as fault:
        if not cut:
            raise ValueError(f"its arguments are no JSON: {fault}") from None
        arguments = clean(written)
    return _Tool(identity, clean(name), arguments, clean(written))


def _turn(text: str | None, calls: list[_Tool]) -> dict[str, Any]:
    """The assistant's turn as a later request may carry it: only fields every provider of the family takes."""
    turn: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.written}}
            for call in calls
        ]
    return turn
