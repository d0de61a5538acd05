"""A response of OpenAI's Responses, parsed, read into an answer, or into what it is instead of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from worker.domain.answer import Call, Outcome
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.completion import Said, WrittenCall, completion, raw_word
from worker.providers.facts import Facts, name_of, request_id, token_count
from worker.providers.json_text import clean
from worker.providers.portable import cut_at, stops

# By the reason of an incomplete response, else by its status. One that is still under way is none: nobody waits for it.
FINISH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "completed": "stop",
        "max_output_tokens": "length",
        "content_filter": "content_filter",
        "failed": "error",
        "cancelled": "error",
        "in_progress": "error",
        "queued": "error",
    }
)


def facts_of(status: int, headers: Mapping[str, str], reply: Any) -> Facts:
    if not isinstance(reply, dict):
        return Facts(status, request_id=request_id(headers))
    identity = request_id(headers, reply.get("id"))
    return Facts(status, _usage(reply.get("usage")), name_of(reply.get("model")), identity)


def read_output(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    """The text is every `output_text` of every message; thoughts come as items of their own and are passed over."""
    facts = facts_of(status, headers, reply)
    items = reply.get("output") if isinstance(reply, dict) else None
    if not isinstance(reply, dict) or not isinstance(items, list):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no response")
    items = [item for item in items if isinstance(item, dict)]
    text = clean("".join(_texts(items, "output_text", "text")))
    text = cut_at(text, stops(call.input))
    refusal = "".join(_texts(items, "refusal", "refusal")) or None
    calls = [_call(item) for item in items if item.get("type") == "function_call"]
    raw = _raw(reply)
    finish = FINISH.get(raw or "", "stop")
    if calls and finish == "stop":
        finish = "tool_calls"
    return completion(call, facts, Said(text, finish, raw, calls, refusal))


def _texts(items: list[Any], kind: str, name: str) -> Iterator[str]:
    for item in items:
        content = item.get("content") if item.get("type") == "message" else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == kind and isinstance(part.get(name), str):
                yield part[name]


def _call(item: Mapping[str, Any]) -> WrittenCall:
    """Answered by its `call_id`; its `id` is the item's."""
    return WrittenCall(item.get("call_id"), item.get("name"), item.get("arguments"))


def _raw(reply: Mapping[str, Any]) -> str | None:
    details = reply.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return raw_word(reason if isinstance(reason, str) and reason else reply.get("status"))


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return NO_USAGE
    return Usage(
        input_tokens=token_count(usage.get("input_tokens")),
        output_tokens=token_count(usage.get("output_tokens")),
        cached_tokens=_detail(usage, "input_tokens_details", "cached_tokens"),
        reasoning_tokens=_detail(usage, "output_tokens_details", "reasoning_tokens"),
    )


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return token_count(details.get(name)) if isinstance(details, dict) else None
