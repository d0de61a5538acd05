"""A message of Anthropic, parsed, read into an answer, or into what it is instead of one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from worker.domain.answer import Call, Outcome
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.anthropic_fields import sent_stops
from worker.providers.completion import Said, WrittenCall, completion, raw_word
from worker.providers.facts import Facts, name_of, request_id, token_count
from worker.providers.json_text import clean
from worker.providers.portable import cut_at, stops

# `pause_turn` asks to go on with a turn of the provider's own tools, which are never asked for.
FINISH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "refusal",
        "pause_turn": "error",
    }
)


def facts_of(status: int, headers: Mapping[str, str], reply: Any) -> Facts:
    if not isinstance(reply, dict):
        return Facts(status, request_id=request_id(headers))
    identity = request_id(headers, reply.get("request_id"), reply.get("id"))
    return Facts(status, _usage(reply.get("usage")), name_of(reply.get("model")), identity)


def read_message(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    """Text need not be the first block; the thoughts before it are not kept, no later request needs them."""
    facts = facts_of(status, headers, reply)
    blocks = reply.get("content") if isinstance(reply, dict) else None
    if not isinstance(reply, dict) or not isinstance(blocks, list):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no message")
    blocks = [block for block in blocks if isinstance(block, dict)]
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    text = clean("".join(text for text in texts if isinstance(text, str)))
    sent = sent_stops(call.input)
    text = cut_at(text, [end for end in stops(call.input) if end not in sent])
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    raw = raw_word(reply.get("stop_reason"))
    finish = FINISH.get(raw or "", "tool_calls" if calls and not text else "stop")
    return completion(call, facts, Said(text, finish, raw, calls, _refusal(reply)))


def _call(block: Mapping[str, Any]) -> WrittenCall:
    return WrittenCall(block.get("id"), block.get("name"), block.get("input"))


def _refusal(reply: Mapping[str, Any]) -> str | None:
    """Why, with the category, whose values are open."""
    details = reply.get("stop_details")
    if reply.get("stop_reason") != "refusal" or not isinstance(details, dict):
        return None
    words = (details.get("explanation"), details.get("category"))
    return " / ".join(word for word in words if isinstance(word, str) and word) or None


def _usage(usage: Any) -> Usage:
    """`input_tokens` leaves out what was read from a cache or written to one."""
    if not isinstance(usage, dict):
        return NO_USAGE
    fresh = token_count(usage.get("input_tokens"))
    written = token_count(usage.get("cache_creation_input_tokens"))
    read = token_count(usage.get("cache_read_input_tokens"))
    details = usage.get("output_tokens_details")
    return Usage(
        input_tokens=None if fresh is None else token_count(fresh + (written or 0) + (read or 0)),
        output_tokens=token_count(usage.get("output_tokens")),
        cached_tokens=None if fresh is None else read,
        reasoning_tokens=token_count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )
