"""Every witnessed reply of Anthropic, Gemini and OpenAI's Responses, read: from its bytes, and over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.payloads import NOW, body_of, case_id, check, load, over_a_socket
from tests.support.scripted_provider import Script, ScriptedProvider
from worker.domain.answer import Call
from worker.providers.anthropic import AnthropicFormat
from worker.providers.format import Format
from worker.providers.gemini import GeminiFormat
from worker.providers.openai_responses import OpenAIResponsesFormat

FORMATS: dict[str, Format] = {
    "anthropic": AnthropicFormat(now=lambda: NOW),
    "gemini": GeminiFormat(now=lambda: NOW),
    "openai_responses": OpenAIResponsesFormat(now=lambda: NOW),
}
PATHS = {
    "anthropic": "/v1/messages",
    "gemini": "/v1/models/m:generateContent",
    "openai_responses": "/v1/responses",
}
NUMBERS = {"anthropic": 25, "gemini": 20, "openai_responses": 10}
CASES = [(provider, case) for provider in FORMATS for case in load(provider)]
# llama.cpp speaks Messages too.
CASES += [("anthropic", case) for case in load("llamacpp") if case["endpoint"].endswith("/v1/messages")]

of_each_case = pytest.mark.parametrize(("provider", "case"), CASES, ids=[case_id(case) for _, case in CASES])


@pytest.mark.parametrize("provider", NUMBERS)
def test_no_case_drops_out(provider):
    assert len(load(provider)) == NUMBERS[provider]


@of_each_case
def test_case(provider, case):
    outcome = FORMATS[provider].read_response(call("https://h/v1"), case["status"], case["headers"], body_of(case))
    check(case, outcome)


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


@of_each_case
def test_case_over_a_socket(provider, case, scripted):
    scripted.queue(Script(case["status"], case["headers"], body_of(case)))
    outcome = over_a_socket(FORMATS[provider], call(scripted.base_url))
    check(case, outcome)
    assert scripted.requests[-1].path == PATHS[provider]
    assert scripted.requests[-1].headers["content-type"] == "application/json"


def call(base_url: str) -> Call:
    return Call("completion", base_url, "m", {"messages": [{"role": "user", "content": "Hola"}]})
