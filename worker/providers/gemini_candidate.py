"""A response of Gemini's generateContent, parsed, read into an answer, or into what it is instead of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from worker.domain.answer import Call, Outcome
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.completion import Said, WrittenCall, call_id, completion, raw_word
from worker.providers.facts import Facts, name_of, request_id, token_count
from worker.providers.gemini_fields import GOOGLE
from worker.providers.json_text import clean
from worker.providers.portable import EXTRA

FINISH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        "CONTINUATION": "length",
        "OTHER": "error",
        "SAFETY": "content_filter",
        "RECITATION": "content_filter",
        "LANGUAGE": "content_filter",
        "BLOCKLIST": "content_filter",
        "PROHIBITED_CONTENT": "content_filter",
        "SPII": "content_filter",
        "ESCALATION": "content_filter",
        "MODEL_ARMOR": "content_filter",
    }
)
_IMAGES: Final = "IMAGE_"  # of pictures it was to draw; every such reason is a filter's
# The request is right, and this model failed on it.
_FAILED: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "NO_IMAGE",
    }
)
_BARRED: Final = "PUP_LIMITED_DISABLED"  # the account broke the policy of prohibited use


def facts_of(status: int, headers: Mapping[str, str], reply: Any) -> Facts:
    if not isinstance(reply, dict):
        return Facts(status, request_id=request_id(headers))
    identity = request_id(headers, reply.get("responseId"))
    return Facts(status, _usage(reply.get("usageMetadata")), name_of(reply.get("modelVersion")), identity)


def read_candidate(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    """A candidate may lack its content, and the content its parts."""
    facts = facts_of(status, headers, reply)
    if not isinstance(reply, dict):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no generated content")
    if (blocked := _blocked(reply)) is not None:
        return facts.failure(FailureKind.CONTENT_FILTER, f"the prompt was blocked ({blocked})")
    candidates = reply.get("candidates")
    if not candidates and (candidates == [] or "usageMetadata" in reply):
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without candidates")
    candidate = candidates[0] if isinstance(candidates, list) and candidates else None
    if not isinstance(candidate, dict):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no generated content")

    raw = raw_word(candidate.get("finishReason"))
    if raw in _FAILED or raw == _BARRED:
        kind = FailureKind.PERMISSION if raw == _BARRED else FailureKind.BAD_OUTPUT
        told = candidate.get("finishMessage")
        return facts.failure(kind, f"{raw}: {told}" if isinstance(told, str) and told else f"the answer ended by {raw}")
    said = _said(candidate, raw, facts.request_id)
    return completion(call, facts, said)


def _blocked(reply: Mapping[str, Any]) -> str | None:
    feedback = reply.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return reason if isinstance(reason, str) and reason else None


def _said(candidate: Mapping[str, Any], raw: str | None, response_id: str | None) -> Said:
    """Its thoughts are skipped. It says STOP of a call of a tool too."""
    content = candidate.get("content")
    given = content.get("parts") if isinstance(content, dict) else None
    parts = [part for part in given if isinstance(part, dict)] if isinstance(given, list) else []
    spoken = [part for part in parts if isinstance(part.get("text"), str) and part.get("thought") is not True]
    text = clean("".join(part["text"] for part in spoken))
    asking = [part for part in parts if "functionCall" in part]
    # An id of our own is made of the response's, so that no later turn of the conversation has it again.
    own_ids = (f"call_{response_id}_{index}" if response_id else None for index in range(len(asking)))
    calls = [_call(part["functionCall"], own_id) for part, own_id in zip(asking, own_ids, strict=True)]
    finish = "content_filter" if (raw or "").startswith(_IMAGES) else FINISH.get(raw or "", "stop")
    if calls and finish == "stop":
        finish = "tool_calls"
    return Said(text, finish, raw, calls, extra=_signatures(spoken, asking, calls))


def _call(call: Any, own_id: str | None) -> WrittenCall:
    if not isinstance(call, dict):
        return WrittenCall(None, None, None)
    given = call.get("id")
    return WrittenCall(given if isinstance(given, str) and given else own_id, call.get("name"), call.get("args"))


def _signatures(spoken: list[Any], asking: list[Any], calls: list[WrittenCall]) -> dict[str, Any] | None:
    """What must come back with the turn: the signature of the text and of each call."""
    of_text = next((sign for part in reversed(spoken) if (sign := _signature(part)) is not None), None)
    of_calls = {
        call_id(call.id, index): sign
        for index, (part, call) in enumerate(zip(asking, calls, strict=True))
        if (sign := _signature(part)) is not None
    }
    kept = ({} if of_text is None else {"thought_signature": of_text}) | ({"tool_calls": of_calls} if of_calls else {})
    return {EXTRA: {GOOGLE: kept}} if kept else None


def _signature(part: Mapping[str, Any]) -> str | None:
    signature = part.get("thoughtSignature")
    return clean(signature) if isinstance(signature, str) and signature else None


def _usage(usage: Any) -> Usage:
    """A count that is absent beside one that is there is 0; thoughts are told apart from the text."""
    if not isinstance(usage, dict):
        return NO_USAGE
    prompt = token_count(usage.get("promptTokenCount"))
    thoughts = token_count(usage.get("thoughtsTokenCount"))
    if prompt is None:
        return NO_USAGE
    asked = token_count(usage.get("toolUsePromptTokenCount")) or 0
    written = token_count(usage.get("candidatesTokenCount")) or 0
    cached = token_count(usage.get("cachedContentTokenCount"))
    told = Usage(token_count(prompt + asked), token_count(written + (thoughts or 0)), cached, thoughts)
    return told if cached is None else replace(told, cached_tokens=min(cached, prompt + asked))
