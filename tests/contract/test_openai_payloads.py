"""Every witnessed reply of the OpenAI family, read: `payloads/<provider>.json`, one case a test.

The files hold cases of other routes of the same servers as well (`/generate`, `/v1/messages`, `/health`, ...); those
belong to other wire formats. The numbers below say how many of each file are ours, so that none drops out unseen.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from worker.domain.answer import Answer, Call, Failure
from worker.domain.failure import RETRYABLE, FailureKind
from worker.domain.money import NO_USAGE
from worker.providers.openai import OpenAIFormat
from worker.providers.waits import counters

FOLDER = Path(__file__).parent / "payloads"
ROUTES = ("/chat/completions", "/embeddings")
NUMBERS = {
    "groq": (15, 0),
    "openai": (23, 0),
    "openai_embeddings": (4, 0),
    "moonshot": (16, 0),
    "hf_router": (13, 0),
    "hf_endpoint": (1, 15),
    "vllm": (9, 1),
    "sglang": (7, 1),
    "llamacpp": (9, 2),
    "tgi": (4, 8),
}
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

# A client may try a spent account again by hand, once it has paid; the cases speak of trying again by itself.
AGAIN = RETRYABLE - {FailureKind.QUOTA}


def load(provider: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{provider}.json").read_text("utf-8"))


def is_ours(case: dict[str, Any]) -> bool:
    return case["endpoint"].endswith(ROUTES)


CASES = [case for provider in NUMBERS for case in load(provider) if is_ours(case)]


@pytest.mark.parametrize("provider", NUMBERS)
def test_no_case_drops_out(provider):
    cases = load(provider)
    ours = sum(map(is_ours, cases))
    assert (ours, len(cases) - ours) == NUMBERS[provider]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['provider']}-{case['case']}")
def test_case(case):
    expected = case["expected"]
    outcome = read(case)
    if expected["class"] == "ok":
        check_answer(outcome, expected)
    else:
        check_failure(outcome, expected, case["status"])
    if "model" in expected:
        assert outcome.model == expected["model"]
    if "request_id" in expected:
        assert outcome.request_id == expected["request_id"]
    if "usage" in expected:
        check_usage(outcome.usage, expected["usage"])
    else:
        assert outcome.usage == NO_USAGE
    if "reset_s" in expected:
        resets = {counter.name: counter.reset_s for counter in counters(case["headers"], NOW)}
        assert resets == pytest.approx(expected["reset_s"])


def read(case: dict[str, Any]) -> Answer | Failure:
    kind = "embedding" if case["endpoint"].endswith("/embeddings") else "completion"
    given = {"input": ["a", "b"]} if kind == "embedding" else {"messages": [{"role": "user", "content": "Hola"}]}
    schema = {"type": "object"} if "json" in case["expected"] else None
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    call = Call(kind, "https://provider.example/v1", "m", given, schema)
    return OpenAIFormat(now=lambda: NOW).read_response(call, case["status"], case["headers"], body.encode())


def check_answer(outcome: Answer | Failure, expected: dict[str, Any]) -> None:
    assert isinstance(outcome, Answer), outcome
    for name in ("text", "json", "embeddings"):
        if name in expected:
            assert getattr(outcome, name) == expected[name]
    if "finish" in expected:
        assert outcome.finish_reason == expected["finish"]
        assert outcome.message["content"] == expected["text"]
    if "tool_calls" in expected:
        assert outcome.tool_calls == expected["tool_calls"]
        sent_back = [call["function"] for call in outcome.message.get("tool_calls", [])]
        assert [json.loads(f["arguments"]) for f in sent_back] == [c["arguments"] for c in expected["tool_calls"]]


def check_failure(outcome: Answer | Failure, expected: dict[str, Any], status: int) -> None:
    assert isinstance(outcome, Failure), outcome
    assert outcome.kind == expected["class"]
    assert (outcome.kind in AGAIN) == expected["retryable"]
    assert outcome.http_status == status
    assert outcome.message
    assert outcome.wait_s == (pytest.approx(expected["retry_after_s"]) if expected["retry_after_s"] else None)
    assert outcome.wait_from == source(expected.get("retry_after_from"))
    if "refusal" in expected:
        assert expected["refusal"] in outcome.message


def source(told: str | None) -> str | None:
    """Where the wait stood; a case may name a second place with the same value."""
    if told is None:
        return None
    return "body" if "message" in told else told.split()[0]


def check_usage(usage: Any, expected: dict[str, Any]) -> None:
    assert usage.input_tokens == expected["input_tokens"]
    assert usage.output_tokens == expected["output_tokens"]
    assert usage.cached_tokens == expected["cached_input_tokens"]
    assert usage.reasoning_tokens == expected["reasoning_tokens"]
    assert usage.input_tokens + usage.output_tokens == expected["total_tokens"]
