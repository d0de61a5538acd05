"""The official client, with nothing changed but the address and the key, over a real socket."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import openai
import pydantic
import pytest

from tests.support.scripted_provider import ScriptedProvider, chat
from tests.support.web import Web, web

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        yield started


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(sqlite_url, tmp_path, provider) as made, made.working():
        yield made


@pytest.fixture
def url(site: Web) -> Iterator[str]:
    with site.served() as served:
        yield f"{served}/v1"


@pytest.fixture
def client(site: Web, url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=site.key) as made:
        yield made


def test_a_chat(client: openai.OpenAI, provider: ScriptedProvider, site: Web) -> None:
    provider.chat("Hello there", tokens=(11, 5))
    answer = client.chat.completions.with_raw_response.create(
        model="default", messages=MESSAGES, temperature=0, max_tokens=50, user="me", reasoning_effort="low"
    )
    completion = answer.parse()
    assert completion.choices[0].message.content == "Hello there"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "scripted-model"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        11,
        5,
        16,
    )
    job_id = answer.headers["x-completar-job"]
    assert completion.model_extra == {"completar": {"job": job_id, "provider": "stub"}}
    assert answer.request_id is not None
    assert answer.request_id.startswith("req_")
    job = site.get(f"/v1/jobs/{job_id}").json
    assert (job["status"], job["lane"]) == ("completed", "interactive")
    (sent,) = provider.requests
    body = json.loads(sent.body)
    assert body == {
        "model": "scripted",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 50,
        "user": "me",
        "reasoning_effort": "low",
    }


def test_our_own_fields_are_the_jobs_and_are_not_sent(
    client: openai.OpenAI, provider: ScriptedProvider, site: Web
) -> None:
    provider.chat("x")
    answer = client.chat.completions.with_raw_response.create(
        model="stub/a",
        messages=MESSAGES,
        metadata={"ticket": "42"},
        extra_body={"models": ["stub/b"], "deadline_s": 60, "of_the_provider": {"x": 1}},
    )
    job = site.get(f"/v1/jobs/{answer.headers['x-completar-job']}").json
    assert job["models"] == ["stub/a", "stub/b"]
    assert job["metadata"] == {"ticket": "42"}
    assert job["deadline"] is not None
    body = json.loads(provider.requests[0].body)
    assert body == {"model": "a", "messages": MESSAGES, "of_the_provider": {"x": 1}}


def test_tool_calls_come_and_go_back(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "rain", "arguments": '{"city":"Lima"}'}}
    provider.chat(None, finish="tool_calls", tool_calls=[call])
    tools = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}]
    first = client.chat.completions.create(model="default", messages=MESSAGES, tools=tools)
    turn = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert turn.tool_calls is not None
    assert json.loads(turn.tool_calls[0].function.arguments) == {"city": "Lima"}
    provider.chat("Yes.")
    told = {"role": "tool", "tool_call_id": "c1", "content": "no"}
    second = client.chat.completions.create(model="default", messages=[*MESSAGES, turn, told], tools=tools)
    assert second.choices[0].message.content == "Yes."


def test_a_parsed_answer_is_judged_against_its_schema(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    class City(pydantic.BaseModel):
        name: str

    provider.chat('{"nombre": "Lima"}')
    provider.chat('{"name": "Lima"}')
    answer = client.chat.completions.parse(model="default", messages=MESSAGES, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Lima")
    assert len(provider.requests) == 2


def test_embeddings_in_base64_and_in_numbers(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    vectors = [[0.5, -0.25], [1.0, 0.125]]
    provider.embeddings(vectors)
    answer = client.embeddings.create(model="default", input=["a", "b"])  # the client itself asks for base64
    assert [item.embedding for item in answer.data] == vectors
    assert answer.usage.prompt_tokens == 5
    provider.embeddings(vectors)
    answer = client.embeddings.create(model="default", input=["a", "b"], encoding_format="float")
    assert [item.embedding for item in answer.data] == vectors
    assert "encoding_format" not in json.loads(provider.requests[1].body)


def test_base64_is_little_endian_float32(site: Web, provider: ScriptedProvider) -> None:
    provider.embeddings([[0.5, -0.25]])
    answer = site.post("/v1/embeddings", {"input": "a", "encoding_format": "base64"})
    assert base64.b64decode(answer.json["data"][0]["embedding"]) == struct.pack("<2f", 0.5, -0.25)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default", "stub/scripted"]
    assert client.models.retrieve("stub/scripted").owned_by == "Stub Provider"


def test_its_typed_errors(client: openai.OpenAI, url: str, provider: ScriptedProvider) -> None:
    with (
        openai.OpenAI(base_url=url, api_key="ck_wrong") as stranger,
        pytest.raises(openai.AuthenticationError) as no_key,
    ):
        stranger.models.list()
    assert no_key.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as no_model:
        client.chat.completions.create(model="gpt-nobody", messages=MESSAGES)
    assert (no_model.value.code, no_model.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as nowhere:
        client.moderations.create(input="hi")
    assert nowhere.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="default", messages=[])
    assert bad.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as streamed:
        client.chat.completions.create(model="default", messages=MESSAGES, stream=True)
    assert streamed.value.code == "streaming_not_supported"
    assert not provider.requests


@pytest.mark.parametrize(
    ("status", "code", "raised", "told"),
    [
        (400, "context_length_exceeded", openai.BadRequestError, "context_length_exceeded"),
        (400, "content_filter", openai.BadRequestError, "content_filter"),
        (422, None, openai.BadRequestError, None),
        (401, None, openai.InternalServerError, "upstream_error"),
        (404, "model_not_found", openai.NotFoundError, "model_not_found"),
        (500, None, openai.InternalServerError, "upstream_error"),
        (503, None, openai.InternalServerError, "upstream_overloaded"),
    ],
)
def test_what_the_job_failed_of_is_raised_once(
    client: openai.OpenAI,
    provider: ScriptedProvider,
    status: int,
    code: str | None,
    raised: type[openai.APIStatusError],
    told: str | None,
) -> None:
    from tests.support import scripted_provider as script

    provider.always(script.error(status, "no", code=code))
    with pytest.raises(raised) as error:
        client.chat.completions.create(model="default", messages=MESSAGES)
    assert error.value.code == told
    assert error.value.response.headers["x-completar-job"].startswith("job_")
    assert len(provider.requests) <= 2  # max_attempts of the route: the client made no second job


def test_not_done_in_time_is_a_504_that_is_not_repeated(
    client: openai.OpenAI, provider: ScriptedProvider, site: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.chat.LONGEST_S", 0.2)
    held = provider.hold(chat("late"))
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="default", messages=MESSAGES)
    assert (error.value.status_code, error.value.code) == (504, "job_not_done")
    job_id = error.value.response.headers["x-completar-job"]
    assert job_id in error.value.message
    held.release()
    with site.deps.database.read():
        done = site.get(f"/v1/jobs/{job_id}?wait=10").json
    assert done["result"]["text"] == "late"
    assert len(site.get("/v1/jobs").json["data"]) == 1


def test_over_the_bound_of_waiters_the_client_comes_again_and_no_job_is_made_twice(
    sqlite_url: str, tmp_path: Path, provider: ScriptedProvider
) -> None:
    with web(sqlite_url, tmp_path, provider, COMPLETAR_WAITERS="0") as site, site.served() as served:
        client = openai.OpenAI(base_url=f"{served}/v1", api_key=site.key, max_retries=1)
        with client, pytest.raises(openai.InternalServerError) as error:
            client.chat.completions.create(model="default", messages=MESSAGES)
        assert (error.value.status_code, error.value.code) == (503, "too_many_waiting")
        assert error.value.response.request.headers["x-stainless-retry-count"] == "1"
        assert error.value.response.headers["retry-after"] == "1"
        assert site.get("/v1/jobs").json["data"] == []


def test_an_idempotency_key_makes_one_job_of_two_calls(client: openai.OpenAI, provider: ScriptedProvider) -> None:
    provider.chat("once")
    answers = [
        client.chat.completions.with_raw_response.create(
            model="default", messages=MESSAGES, extra_headers={"Idempotency-Key": "k1"}
        )
        for _ in range(2)
    ]
    assert [answer.parse().choices[0].message.content for answer in answers] == ["once", "once"]
    assert answers[0].headers["x-completar-job"] == answers[1].headers["x-completar-job"]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]
    assert len(provider.requests) == 1
