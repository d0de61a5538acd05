"""OpenAI's Responses with the official client, alone and as lines of a batch, whoever answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response

from tests.support import scripted_provider as script
from tests.support.batches import both, jsonl, made, until
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.web import Web, web

URL = "/v1/responses"
TOOL = {"type": "function", "name": "rain", "parameters": {"type": "object"}, "strict": False}
CALL = {"id": "c1", "type": "function", "function": {"name": "rain", "arguments": '{"city":"Lima"}'}}


def _answer(request: Received) -> Script:
    """By the model, and by what was said: a refusal, a call of a tool, a cut answer, or the question."""
    asked = request.json
    said = asked["messages"][-1]["content"]
    if asked["model"] == "down":
        return script.error(404, "gone", code="model_not_found")
    if "fail" in said:
        return script.error(400, "no such thing", code="content_filter")
    if "tools" in asked and asked["messages"][-1]["role"] != "tool":
        return script.chat(None, finish="tool_calls", tool_calls=[CALL])
    if asked.get("max_tokens") == 1:
        return script.chat("re", finish="length")
    if "response_format" in asked:
        return script.chat('{"name": "Lima"}')
    return script.chat(f"re: {said}")


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(_answer)
        yield started


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(sqlite_url, tmp_path, provider, COMPLETAR_LOG_LEVEL="error") as made_site, made_site.working():
        yield made_site


@pytest.fixture
def client(site: Web) -> Iterator[openai.OpenAI]:
    with site.served() as served, openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as one:
        yield one


def line(name: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": URL, "body": {"model": "default", "input": name, **body}}


@pytest.mark.acceptance(2)
@pytest.mark.acceptance(10)
def test_lines_are_answered_as_responses_whoever_answers(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    lines = [
        line("plain", instructions="Be brief.", metadata={"k": "v"}),
        line("items", input=[{"role": "user", "content": [{"type": "input_text", "text": "in parts"}]}]),
        line("tool", tools=[TOOL]),
        line("cut", max_output_tokens=1),
        line("schema", text={"format": {"type": "json_schema", "name": "city", "strict": True, "schema": {}}}),
        line("elsewhere", model="stub/down", models=["stub/up"]),
        line("please fail"),
    ]
    done = until(client, made(client, jsonl(lines), endpoint=URL).id)
    assert (done.status, done.endpoint, done.request_counts.failed) == ("completed", URL, 1)
    output, errors = both(client, done)
    assert [one["custom_id"] for one in output] == ["plain", "items", "tool", "cut", "schema", "elsewhere"]
    assert [one["response"]["status_code"] for one in output] == [200] * 6
    bodies = {one["custom_id"]: one["response"]["body"] for one in output}
    # Validated, which the client itself does not do: also languages with strict types read them.
    answers = {name: Response.model_validate(body) for name, body in bodies.items()}
    assert {name: one.output_text for name, one in answers.items() if one.output_text} == {
        "plain": "re: plain",
        "items": "re: in parts",
        "cut": "re",
        "schema": '{"name": "Lima"}',
        "elsewhere": "re: elsewhere",
    }
    plain = answers["plain"]
    assert (plain.object, plain.status, plain.model, plain.error) == ("response", "completed", "scripted-model", None)
    assert plain.metadata == {"k": "v"}
    assert plain.id.startswith("resp_")
    assert plain.usage is not None
    assert (plain.usage.input_tokens, plain.usage.output_tokens, plain.usage.total_tokens) == (7, 3, 10)
    (call,) = answers["tool"].output
    assert call.type == "function_call"
    assert (call.call_id, call.name, json.loads(call.arguments)) == ("c1", "rain", {"city": "Lima"})
    cut = answers["cut"]
    assert (cut.status, bodies["cut"]["completed_at"]) == ("incomplete", None)
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert {request.json["model"] for request in provider.requests} == {"scripted", "down", "up"}
    (failed,) = errors
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("please fail", 400)
    assert failed["response"]["body"]["error"]["code"] == "content_filter"


def test_what_no_other_provider_could_do_fails_the_file(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    picture = [{"type": "input_image", "image_url": "http://10.0.0.1/secret"}]
    lines = [
        line("1", previous_response_id="resp_1"),
        line("2", tools=[{"type": "web_search"}]),
        line("3", background=True),
        line("4", stream=True),
        line("5", input=[{"role": "user", "content": picture}]),
        {**line("6"), "url": "/v1/chat/completions"},
        {**line("7"), "body": {"model": "default"}},
    ]
    failed = until(client, made(client, jsonl(lines), endpoint=URL).id, "failed")
    assert [(error.code, error.param, error.line) for error in failed.errors.data] == [
        ("invalid_request", "body.previous_response_id", 1),
        ("invalid_request", "body.tools[0].type", 2),
        ("invalid_request", "body.background", 3),
        ("invalid_request", "body.stream", 4),
        ("invalid_request", "body.input", 5),
        ("url_mismatch", "url", 6),
        ("missing_required_parameter", "body.input", 7),
    ]
    assert provider.requests == []


@pytest.mark.parametrize("endpoint", ["/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos"])
def test_an_endpoint_that_is_not_served_says_why(client: openai.OpenAI, endpoint: str) -> None:
    with pytest.raises(openai.BadRequestError, match=f"cannot be {endpoint}: .*/v1/responses") as error:
        client.batches.create(input_file_id="file-x", endpoint=endpoint, completion_window="24h")  # type: ignore[arg-type]
    assert error.value.param == "endpoint"


# -- alone ---------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance(10)
def test_one_response_and_the_next_turn(client: openai.OpenAI, site: Web, provider: ScriptedProvider) -> None:
    asked: list[Any] = [{"role": "user", "content": "Rain in Lima?"}]
    raw = client.responses.with_raw_response.create(model="default", input=asked, tools=[TOOL])  # type: ignore[list-item]
    first = raw.parse()
    assert [item.type for item in first.output] == ["function_call"]
    job = site.get(f"/v1/jobs/{raw.headers['x-completar-job']}").json
    assert (job["status"], job["lane"]) == ("completed", "interactive")
    told = {"type": "function_call_output", "call_id": "c1", "output": "no"}
    asked = [*asked, *(item.model_dump(exclude_none=True) for item in first.output), told]
    second = client.responses.create(model="default", input=asked, tools=[TOOL])  # type: ignore[list-item]
    assert second.output_text == "re: no"
    assert provider.requests[1].json["messages"] == [
        {"role": "user", "content": "Rain in Lima?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "no"},
    ]


def test_an_answer_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    class City(pydantic.BaseModel):
        name: str

    answer = client.responses.parse(model="default", input="Which?", text_format=City)
    assert answer.output_parsed == City(name="Lima")


def test_typed_errors(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    with pytest.raises(openai.BadRequestError) as filtered:
        client.responses.create(model="default", input="please fail")
    assert filtered.value.code == "content_filter"
    with pytest.raises(openai.NotFoundError) as nobody:
        client.responses.create(model="gpt-nobody", input="x")
    assert nobody.value.param == "model"
    for more, param in (({"stream": True}, "stream"), ({"background": True}, "background")):
        with pytest.raises(openai.BadRequestError) as bad:
            client.responses.create(model="default", input="x", **more)  # type: ignore[call-overload]
        assert bad.value.param == param
    picture = [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/", "detail": "low"}]}]
    with pytest.raises(openai.BadRequestError) as inside:
        client.responses.create(model="default", input=picture)  # type: ignore[arg-type]
    assert inside.value.param == "input"
    assert len(provider.requests) == 1
