"""Every witnessed reply of Hugging Face's services and engines, read, and then once more over a real socket.

The chat routes among them are OpenAI's; what is asked of those here is only that they arrive.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.payloads import NOW, body_of, case_id, check, load
from tests.support.scripted_provider import Received, ScriptedProvider, reply
from worker.domain.answer import Answer, Call, Failure
from worker.providers.format import Format
from worker.providers.hf_inference import HFInferenceFormat
from worker.providers.hf_text_generation import HFTextGenerationFormat
from worker.providers.openai import OpenAIFormat
from worker.providers.tei import TEIFormat
from worker.providers.transport import Transport

NUMBERS = {"hf_endpoint": 16, "hf_inference": 14, "hf_router": 13, "tei": 10, "tgi": 12}
CASES = [case for provider in NUMBERS for case in load(provider)]
ASKING = [case for case in CASES if "request" in case["expected"]]
TURN = {"role": "user", "content": "Hola"}

# What is asked where the reply is no text.
TASKS: dict[str, dict[str, Any]] = {
    "success_text_classification": {"task": "text-classification", "inputs": "Muy bueno"},
    "success_zero_shot": {
        "task": "zero-shot-classification",
        "inputs": "No me llegó la factura",
        "parameters": {"candidate_labels": ["facturación", "soporte"]},
    },
    "success_summarization": {"task": "summarization", "inputs": "Un texto largo."},
    "success_rerank": {"query": "¿Capital?", "texts": ["Madrid", "París"]},
}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as scripted:
        yield scripted


@pytest.mark.parametrize("provider_name", NUMBERS)
def test_no_case_drops_out(provider_name: str) -> None:
    assert len(load(provider_name)) == NUMBERS[provider_name]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_reply_is_read(case: dict[str, Any]) -> None:
    wire, call = asked(case, "https://provider.example")
    check(case, wire.read_response(call, case["status"], case["headers"], body_of(case)))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_reply_arrives(case: dict[str, Any], provider: ScriptedProvider) -> None:
    provider.queue(reply(case["status"], body=body_of(case), headers=case["headers"]))
    wire, call = asked(case, provider.url)
    check(case, sent(wire, call))
    (received,) = provider.requests
    assert received.path == path_of(case)
    assert received.headers["authorization"] == "Bearer hf_test"


@pytest.mark.parametrize("case", ASKING, ids=case_id)
def test_what_was_sent_is_what_we_send(case: dict[str, Any], provider: ScriptedProvider) -> None:
    wire, call = asked(case, provider.url)
    request = wire.build_request(call, "hf_test")
    assert json.loads(request.read()) == case["expected"]["request"]


def test_every_request_of_a_case_is_compared() -> None:
    assert len(ASKING) == 5


def asked(case: dict[str, Any], url: str) -> tuple[Format, Call]:
    """The format that speaks to this endpoint, and a call of ours whose answer the reply could be."""
    endpoint = case["endpoint"]
    if endpoint.endswith(("/chat/completions", "/embeddings")):
        embeds = endpoint.endswith("/embeddings")
        given: dict[str, Any] = {"input": "a"} if embeds else {"messages": [TURN]}
        kind = "embedding" if embeds else "completion"
        return OpenAIFormat(lambda: NOW), Call(kind, url + "/v1", "m", given)
    if case["provider"] == "hf_inference":
        if endpoint.endswith("feature-extraction"):
            return HFInferenceFormat(lambda: NOW), Call("embedding", url, "org/model", {"input": ["a", "b"]})
        given = TASKS.get(case["case"], {"prompt": "Hola"})
        return HFInferenceFormat(lambda: NOW), Call("completion", url, "org/model", given)
    if case["provider"] == "tei":
        if endpoint.endswith("/rerank"):
            return TEIFormat(lambda: NOW), Call("completion", url, "m", TASKS[case["case"]])
        return TEIFormat(lambda: NOW), Call("embedding", url, "m", {"input": ["a", "b"]})
    base = url + "/generate" if case["provider"] == "tgi" and not endpoint.endswith("POST /") else url
    return handler(case), Call("completion", base, "m", given_of(case["expected"].get("request")))


def handler(case: dict[str, Any]) -> Format:
    if "text2text" in case["case"]:
        return HFTextGenerationFormat(lambda: NOW, "hf-text2text-generation", "text2text-generation")
    return HFTextGenerationFormat(lambda: NOW)


def given_of(request: dict[str, Any] | None) -> dict[str, Any]:
    """The portable request of which this one must come: the other way round, and by hand."""
    if request is None:
        return {"messages": [TURN]}
    inputs, given = request["inputs"], {}
    if isinstance(inputs, str):
        given = {"prompt": inputs}
    elif isinstance(inputs[0], dict):
        given = {"messages": inputs}
    else:
        given = {"inputs": inputs}
    if "max_new_tokens" in request["parameters"]:
        given["max_tokens"] = request["parameters"]["max_new_tokens"]
    return given


def sent(wire: Format, call: Call) -> Answer | Failure:
    async def main() -> Answer | Failure:
        transport = Transport()
        try:
            request = wire.build_request(call, "hf_test")
            arrived = await transport.send(request, connect_s=5.0, first_byte_s=5.0, total_s=10.0)
        finally:
            await transport.aclose()
        if isinstance(arrived, Failure):
            return arrived
        return wire.read_response(call, arrived.status, arrived.headers, arrived.body)

    return asyncio.run(main())


def path_of(case: dict[str, Any]) -> str:
    """Where a call of ours arrives whose answer the reply could be; health is only asked for by others."""
    endpoint = case["endpoint"].removeprefix("POST ").partition(" ")[0]
    if endpoint.endswith(("/chat/completions", "/embeddings")):
        return endpoint
    if case["provider"] == "hf_inference":
        return "/models/org/model" + endpoint.partition("{model}")[2]
    return {"tgi": "/generate", "tei": "/embed"}[case["provider"]] if endpoint == "GET" else endpoint


def test_received_headers_are_exact(provider: ScriptedProvider) -> None:
    """Hugging Face compares both as exact strings."""
    provider.queue(reply(200, json_body=[{"generated_text": "Hola."}]))
    sent(HFTextGenerationFormat(), Call("completion", provider.url, "m", {"prompt": "x"}))
    (received,) = provider.requests
    assert isinstance(received, Received)
    assert (received.headers["content-type"], received.headers["accept"]) == ("application/json", "application/json")
