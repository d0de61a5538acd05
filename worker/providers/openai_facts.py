"""The facts of a reply of the OpenAI family: model, ids and usage, wherever its members put them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.domain.money import NO_USAGE, Usage
from worker.providers.facts import Facts, name_of, request_id, token_count


def facts_of(status: int, headers: Mapping[str, str], reply: Any) -> Facts:
    """The facts of a parsed reply, also of one that is no answer."""
    if not isinstance(reply, dict):
        return Facts(status, request_id=request_id(headers))
    groq = reply.get("x_groq")
    groq_id = groq.get("id") if isinstance(groq, dict) else None
    return Facts(
        status, usage_of(reply.get("usage")), name_of(reply.get("model")), request_id(headers, groq_id, reply.get("id"))
    )


def usage_of(usage: Any) -> Usage:
    """Kimi and some behind the Hugging Face router put the cached tokens, SGLang the reasoning, at the top.

    xAI, and gateways to Gemini, leave the reasoning out of the output; their total tells.
    """
    if not isinstance(usage, dict):
        return NO_USAGE
    tokens = token_count(usage.get("prompt_tokens"))
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    written = token_count(usage.get("completion_tokens"))
    thought = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    if thought and tokens is not None and written is not None:
        both = written + thought
        written = token_count(both) if usage.get("total_tokens") == tokens + both else written
    return Usage(
        input_tokens=tokens,
        output_tokens=written,
        cached_tokens=cached if cached is None or tokens is None else min(cached, tokens),
        reasoning_tokens=thought,
    )


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    count = token_count(details.get(name)) if isinstance(details, dict) else None
    return token_count(usage.get(name)) if count is None else count
