"""Every witnessed reply of the OpenAI family, read: `payloads/<provider>.json`, one case a test.

The files hold cases of other routes of the same servers as well (`/generate`, `/v1/messages`, `/health`, ...); those
belong to other wire formats. The numbers below say how many of each file are ours, so that none drops out unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.payloads import NOW, body_of, case_id, check, load, over_a_socket
from tests.support.scripted_provider import Script, ScriptedProvider
from worker.domain.answer import Answer, Call, Failure
from worker.providers.openai import OpenAIFormat

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


def is_ours(case: dict[str, Any]) -> bool:
    return case["endpoint"].endswith(ROUTES)


CASES = [case for provider in NUMBERS for case in load(provider) if is_ours(case)]


@pytest.mark.parametrize("provider", NUMBERS)
def test_no_case_drops_out(provider):
    cases = load(provider)
    ours = sum(map(is_ours, cases))
    assert (ours, len(cases) - ours) == NUMBERS[provider]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_case(case):
    check(case, read(case))


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_case_over_a_socket(case, scripted):
    scripted.queue(Script(case["status"], case["headers"], body_of(case)))
    check(case, over_a_socket(OpenAIFormat(now=lambda: NOW), asked(case, scripted.base_url)))
    assert scripted.requests[-1].path.endswith(ROUTES)


def read(case: dict[str, Any]) -> Answer | Failure:
    call = asked(case, "https://provider.example/v1")
    return OpenAIFormat(now=lambda: NOW).read_response(call, case["status"], case["headers"], body_of(case))


def asked(case: dict[str, Any], base_url: str) -> Call:
    kind = "embedding" if case["endpoint"].endswith("/embeddings") else "completion"
    given = {"input": ["a", "b"]} if kind == "embedding" else {"messages": [{"role": "user", "content": "Hola"}]}
    schema = {"type": "object"} if "json" in case["expected"] else None
    return Call(kind, base_url, "m", given, schema)
