"""A chat completion of the OpenAI family, parsed, read into an answer, or into what it is instead of one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from worker.domain.answer import Call, Outcome
from worker.domain.failure import FailureKind
from worker.providers.completion import Said, WrittenCall, completion, raw_word
from worker.providers.json_text import clean
from worker.providers.openai_facts import facts_of
from worker.providers.portable import EXTRA

KIMI: Final = "kimi-"  # what the names of Moonshot's models that think begin with
MOONSHOT: Final = "moonshot"  # its part of EXTRA: {"reasoning_content": the thoughts that led to the calls of the turn}

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


def read_chat(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    facts = facts_of(status, headers, reply)
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if choices == []:
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without choices")
    choice = choices[0] if isinstance(choices, list) else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no chat completion")

    text = _text(message.get("content"))
    tools = _calls(message)
    raw = raw_word(choice.get("finish_reason"))
    finish = FINISH.get(raw or "", "tool_calls" if tools and not text else "stop")

    refusal = message.get("refusal")
    extra = _thoughts(message) if tools and call.model.startswith(KIMI) else None
    said = Said(text, finish, raw, tools, refusal if isinstance(refusal, str) else None, extra)
    return completion(call, facts, said)


def _thoughts(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """Not under their own name: a later request may go to somebody who refuses it."""
    thoughts = message.get("reasoning_content")
    return (
        {EXTRA: {MOONSHOT: {"reasoning_content": clean(thoughts)}}} if isinstance(thoughts, str) and thoughts else None
    )


def _text(content: Any) -> str | None:
    """The text of a message; a list of parts is joined. Absent and `null` are None, which is not ""."""
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return clean("".join(part for part in parts if isinstance(part, str)))
    return None


def _calls(message: Mapping[str, Any]) -> list[WrittenCall]:
    """The calls of tools; TGI sends their arguments as the object itself."""
    tools = message.get("tool_calls")
    if not isinstance(tools, list) or not tools:
        old = message.get("function_call")
        tools = [{"function": old}] if isinstance(old, dict) else []
    return [_call(tool) for tool in tools]


def _call(tool: Any) -> WrittenCall:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return WrittenCall(None, None, None)
    return WrittenCall(tool.get("id"), function.get("name"), function.get("arguments"))
