"""The witnessed replies of providers (`tests/contract/payloads/`) and what each of them must be read as."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from worker.domain.answer import Answer, Call, Failure, Outcome
from worker.domain.failure import RETRYABLE, FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.format import Format
from worker.providers.transport import Transport
from worker.providers.waits import counters

FOLDER: Final = Path(__file__).parents[1] / "contract" / "payloads"
NOW: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

# A client may try a spent account again by hand, once it has paid; the cases speak of trying again by itself.
_AGAIN: Final = RETRYABLE - {FailureKind.QUOTA}
# Where a wait stood in the body, as the cases call its places.
_IN_BODY: Final = ("message", "estimated_time", "RetryInfo")


def load(provider: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((FOLDER / f"{provider}.json").read_text("utf-8"))
    return cases


def case_id(case: Mapping[str, Any]) -> str:
    return f"{case['provider']}-{case['case']}"


def body_of(case: Mapping[str, Any]) -> bytes:
    body = case["body"]
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def check(case: Mapping[str, Any], outcome: Answer | Failure) -> None:
    """Everything a case expects of what was read, but not what it expects of the request."""
    expected = case["expected"]
    if expected["class"] == "ok":
        _check_answer(outcome, expected)
    else:
        _check_failure(outcome, expected, case["status"])
    for name in ("model", "request_id"):
        if name in expected:
            assert getattr(outcome, name) == expected[name]
    # A stream may have told of tokens before it broke off; the cases do not always say so.
    if "usage" in expected or not case["headers"].get("content-type", "").startswith("text/event-stream"):
        assert outcome.usage == _usage(expected.get("usage"))
    if "reset_s" in expected:
        resets = {counter.name: counter.reset_s for counter in counters(case["headers"], NOW)}
        assert {name: resets[name] for name in expected["reset_s"]} == pytest.approx(expected["reset_s"])


def _check_answer(outcome: Answer | Failure, expected: Mapping[str, Any]) -> None:
    assert isinstance(outcome, Answer), outcome
    for name in ("text", "json", "embeddings", "tool_calls"):
        if name in expected:
            assert getattr(outcome, name) == expected[name]
    for name in ("output", "texts"):  # no text of its own: parsed, and as JSON text
        if name in expected:
            assert outcome.json == expected[name]
            assert json.loads(outcome.text or "") == expected[name]
    if "finish" in expected:
        assert outcome.finish_reason == expected["finish"]
    if "embeddings" not in expected:
        assert outcome.message is not None
        assert outcome.message["content"] == outcome.text
        sent_back = [call["function"] for call in outcome.message.get("tool_calls", [])]
        assert [json.loads(f["arguments"]) for f in sent_back] == [c["arguments"] for c in outcome.tool_calls]


def _check_failure(outcome: Answer | Failure, expected: Mapping[str, Any], status: int) -> None:
    assert isinstance(outcome, Failure), outcome
    assert outcome.kind == expected["class"]
    assert (outcome.kind in _AGAIN) == expected["retryable"]
    assert outcome.http_status == status
    assert outcome.message
    assert outcome.wait_s == (pytest.approx(expected["retry_after_s"]) if expected["retry_after_s"] else None)
    assert outcome.wait_from == _place(expected.get("retry_after_from"))
    assert expected.get("refusal", "") in outcome.message


def _place(told: str | None) -> str | None:
    """Where the wait stood; a case may name a second place with the same value."""
    if told is None:
        return None
    return "body" if any(word in told for word in _IN_BODY) else told.split()[0]


def _usage(expected: Mapping[str, Any] | None) -> Usage:
    if expected is None:
        return NO_USAGE
    assert expected["input_tokens"] + expected["output_tokens"] == expected["total_tokens"]
    return Usage(
        expected["input_tokens"],
        expected["output_tokens"],
        expected["cached_input_tokens"],
        expected["reasoning_tokens"],
    )


def over_a_socket(form: Format, call: Call) -> Outcome:
    """The call made for real, to wherever its base URL points, with the key `k`."""
    return asyncio.run(_ask(form, call))


async def _ask(form: Format, call: Call) -> Outcome:
    transport = Transport()
    try:
        reply = await transport.send(form.build_request(call, "k"), connect_s=5, first_byte_s=5, total_s=10)
        assert not isinstance(reply, Failure), reply
        return form.read_response(call, reply.status, reply.headers, reply.body)
    finally:
        await transport.aclose()
