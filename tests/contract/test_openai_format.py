"""The OpenAI wire format beyond the witnessed cases: whole requests, the rules the cases stand for, and any bytes."""

from __future__ import annotations

import base64
import json
import struct
import tomllib
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.domain.answer import MESSAGE_CUT, Answer, Call, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.domain.question import AnswerSpec, schema_for
from worker.providers.format import USER_AGENT, Format
from worker.providers.openai import OpenAIFormat
from worker.providers.waits import MAX_WAIT_S, Counter, counters, duration_s, spoken_wait_s

K = FailureKind
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FORMAT: Format = OpenAIFormat(now=lambda: NOW)
TURN = {"role": "user", "content": "Hola"}
BASE = "https://provider.example/v1"
ENDPOINT = "https://abc.us-east-1.aws.endpoints.huggingface.cloud/v1"


def completion(base_url: str = BASE, model: str = "m", schema: Any = None, **fields: Any) -> Call:
    return Call("completion", base_url, model, fields or {"messages": [TURN]}, schema)


def embedding(given: Any = "a") -> Call:
    return Call("embedding", BASE, "m", {"input": given})


def sent(call: Call) -> Any:
    return json.loads(FORMAT.build_request(call, None).read())


def read(status: int, body: Any, headers: Any = (), call: Call | None = None) -> Answer | Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read_response(call or completion(), status, dict(headers), data)


def reply(message: Any = None, finish: Any = "stop", **rest: Any) -> Any:
    message = {"role": "assistant", "content": "Hola."} if message is None else message
    return {"id": "c1", "model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], **rest}


def tool(arguments: Any, name: Any = "find", **rest: Any) -> Any:
    return {"id": "t1", "type": "function", "function": {"name": name, "arguments": arguments}, **rest}


# Requests, whole


def test_a_chat_request():
    call = completion(
        "https://api.groq.com/openai/v1",
        "openai/gpt-oss-20b",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Qué tal? 🙂"}],
        temperature=0,
        max_tokens=50,
    )
    request = FORMAT.build_request(call, "gsk_x")
    body = (
        rb'{"model":"openai/gpt-oss-20b","messages":[{"role":"system","content":"Be brief."},'
        rb'{"role":"user","content":"\u00bfQu\u00e9 tal? \ud83d\ude42"}],"temperature":0,"max_tokens":50}'
    )
    assert request.method == "POST"
    assert str(request.url) == "https://api.groq.com/openai/v1/chat/completions"
    assert request.read() == body
    assert request.headers.raw == [
        (b"Host", b"api.groq.com"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", USER_AGENT.encode()),
        (b"Authorization", b"Bearer gsk_x"),
        (b"Content-Length", str(len(body)).encode()),
    ]


def test_an_embedding_request_without_a_key():
    call = Call(
        "embedding", "http://127.0.0.1:8080/v1/", "text-embedding-3-small", {"input": ["a", "b"], "dimensions": 8}
    )
    request = FORMAT.build_request(call, None)
    body = b'{"model":"text-embedding-3-small","input":["a","b"],"dimensions":8}'
    assert str(request.url) == "http://127.0.0.1:8080/v1/embeddings"
    assert request.read() == body
    assert request.headers.raw == [
        (b"Host", b"127.0.0.1:8080"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", USER_AGENT.encode()),
        (b"Content-Length", str(len(body)).encode()),
    ]


def test_the_user_agent_names_our_version():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"{project['name']}/{project['version']}" == USER_AGENT


def test_one_request_does_not_leak_into_the_next():
    first = FORMAT.build_request(completion(), "k1")
    first.headers["Authorization"] = "changed"
    assert FORMAT.build_request(completion(), "k1").headers["Authorization"] == "Bearer k1"
    assert "Authorization" not in FORMAT.build_request(completion(), None).headers


def test_a_base_url_that_is_none():
    with pytest.raises(httpx.InvalidURL):
        FORMAT.build_request(completion("http://[::1"), None)


# What of the caller's fields is sent


def test_only_what_the_caller_set():
    assert sent(completion(messages=[TURN])) == {"model": "m", "messages": [TURN]}


def test_zero_false_and_null_are_set():
    fields = {"messages": [TURN], "temperature": 0, "parallel_tool_calls": False, "stop": None, "seed": 0}
    assert sent(completion(**fields)) == {"model": "m", **fields}


def test_a_prompt_is_one_turn_of_the_user():
    assert sent(completion(prompt="Hola", top_p=0.5)) == {"model": "m", "messages": [TURN], "top_p": 0.5}


def test_messages_stand_before_a_prompt():
    assert sent(completion(prompt="no", messages=[TURN])) == {"model": "m", "messages": [TURN]}


def test_the_target_names_the_model_and_nothing_is_streamed():
    call = completion(messages=[TURN], model_=1, stream=True, stream_options={"include_usage": True})
    call = Call(call.kind, call.base_url, call.model, {**call.input, "model": "theirs"})
    assert sent(call) == {"model": "m", "messages": [TURN], "model_": 1}


CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "km": {"type": ["number", "null"], "minimum": 0}},
    "required": ["name", "km"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "schema",
    [
        CITY,
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
        CITY | {"properties": {"name": {"$ref": "#/$defs/n"}, "km": CITY}, "$defs": {"n": {"enum": [1]}}},
        CITY | {"properties": {"name": {"anyOf": [CITY, {"type": "null"}]}, "km": {"type": "integer"}}},
        CITY | {"properties": {"name": {"type": "array", "items": CITY}, "km": {"const": 1}}},
        schema_for(AnswerSpec("choice", ("Lima", "Cusco"))),
        schema_for(AnswerSpec("number", min=0, max=9)),
        schema_for(AnswerSpec("json", schema=CITY)),
    ],
)
def test_a_schema_that_strict_mode_takes(schema):
    assert sent(completion(schema=schema, messages=[TURN]))["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": {}, "required": [], "additionalProperties": False},
        {"type": "object", "properties": {"ok": {"type": "boolean"}}},
        CITY | {"required": ["name"]},
        {name: value for name, value in CITY.items() if name != "additionalProperties"},
        CITY | {"additionalProperties": {"type": "string"}},
        CITY | {"properties": {"name": {}, "km": {"type": "number"}}},
        CITY | {"properties": {"name": True, "km": {"type": "number"}}},
        CITY | {"properties": {"name": {"type": "string", "default": "x"}, "km": {"type": "number"}}},
        CITY | {"properties": {"name": {"type": "array"}, "km": {"type": "number"}}},
        CITY | {"properties": {"name": {"type": "array", "items": {"type": "object"}}, "km": {"type": "number"}}},
        CITY | {"properties": {"name": {"anyOf": [{"type": ["object", "null"]}]}, "km": {"type": "number"}}},
        CITY | {"$defs": {"a": {"type": "object"}}},
        CITY | {"oneOf": [{"type": "object"}]},
        CITY | {"anyOf": [CITY]},
        {"type": "array", "items": {"type": "string"}},
    ],
)
def test_a_schema_that_strict_mode_refuses_is_asked_for_without_it(schema):
    """With `strict` it is a 400, which ends the job although every provider could answer."""
    wanted = sent(completion(schema=schema, messages=[TURN]))["response_format"]["json_schema"]
    assert wanted == {"name": "answer", "schema": schema, "strict": False}
    own = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    told = sent(completion(schema=schema, messages=[TURN], response_format=own))["response_format"]["json_schema"]
    assert told == {"name": "answer", "schema": schema, "strict": True}  # in OpenAI's own words: as the caller wants it


def test_a_schema_becomes_a_response_format():
    schema = CITY
    call = completion(schema=schema, messages=[TURN], response_format={"type": "text"})
    assert sent(call)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


@pytest.mark.parametrize(
    ("base_url", "model", "name"),
    [
        ("https://api.openai.com/v1", "gpt-6-luna", "max_completion_tokens"),
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-20b", "max_tokens"),
        ("https://router.huggingface.co/v1", "openai/gpt-oss-20b:cheapest", "max_tokens"),
        ("http://127.0.0.1:8080/v1", "org/model", "max_tokens"),
    ],
)
def test_the_ceiling_has_the_name_the_provider_knows(base_url, model, name):
    assert sent(completion(base_url, model, messages=[TURN], max_tokens=9)) == {
        "model": model,
        "messages": [TURN],
        name: 9,
    }


def test_two_ceilings_are_one_at_openai():
    call = completion("https://api.openai.com/v1", messages=[], max_tokens=9, max_completion_tokens=5)
    assert sent(call) == {"model": "m", "messages": [], "max_completion_tokens": 5}


def test_kimi_gets_no_sampling_parameters():
    fields = {"temperature": 0.2, "top_p": 0.9, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}
    call = completion("https://api.moonshot.ai/v1", "kimi-k2.6", messages=[TURN], max_tokens=9, **fields)
    assert sent(call) == {"model": "kimi-k2.6", "messages": [TURN], "max_tokens": 9}
    older = completion("https://api.moonshot.ai/v1", "moonshot-v1-8k", messages=[TURN], **fields)
    assert sent(older) == {"model": "moonshot-v1-8k", "messages": [TURN], **fields}


def test_groq_gets_no_field_it_does_not_know():
    turns = [{"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "r"}, TURN]
    call = completion("https://api.groq.com/openai/v1", messages=turns, logprobs=True, store=False, seed=1)
    assert sent(call) == {"model": "m", "messages": [{"role": "assistant", "content": "a"}, TURN], "seed": 1}
    assert turns[0]["reasoning"] == "r"  # the job's own input is left as it was
    assert sent(completion(messages=turns))["messages"] == turns


def test_groq_is_told_a_turn_as_openais_client_keeps_it():
    """`messages.append(completion.choices[0].message)` sends all of its fields back, and Groq refuses what it does not
    know, empty or not.
    """
    call = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    kept = {"role": "assistant", "content": None, "tool_calls": [call]}
    gone = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "name": None, "provider": "x"}
    result = {"role": "tool", "tool_call_id": "t1", "content": "1"}
    messages = [TURN, {**kept, **gone}, result]
    assert sent(completion("https://api.groq.com/openai/v1", messages=messages))["messages"] == [TURN, kept, result]


def test_groq_is_told_an_odd_turn_as_it_is():
    turns = ["odd", TURN]
    assert sent(completion("https://api.groq.com/openai/v1", messages=turns))["messages"] == turns
    assert sent(completion("https://api.groq.com/openai/v1", messages="odd"))["messages"] == "odd"


KIMI = {"base_url": "https://api.moonshot.ai/v1", "model": "kimi-k2.6"}


def test_kimis_thoughts_come_back_with_the_calls_they_led_to():
    """Without them Kimi answers the next turn with a 400: "reasoning_content is missing in assistant tool call"."""
    thought = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "It asks for a city.",
        "tool_calls": [tool("{}")],
    }
    answer = read(200, reply(thought, "tool_calls"), call=completion(**KIMI))
    assert isinstance(answer, Answer)
    assert answer.message is not None
    assert "reasoning_content" not in answer.message  # others refuse a field of that name
    messages = [TURN, dict(answer.message), {"role": "tool", "tool_call_id": "t1", "content": "1"}]
    back = sent(completion(**KIMI, messages=messages))["messages"][1]
    assert back == {
        "role": "assistant",
        "content": "",
        "tool_calls": back["tool_calls"],
        "reasoning_content": thought["reasoning_content"],
    }
    elsewhere = sent(completion(messages=messages))["messages"][1]
    assert set(elsewhere) == {"role", "content", "tool_calls"}


def test_only_kimis_thoughts_about_calls_are_kept():
    said = {"role": "assistant", "content": "Lima", "reasoning_content": "Easy."}
    for call, message in ((completion(**KIMI), said), (completion(), {**said, "tool_calls": [tool("{}")]})):
        answer = read(200, reply(message), call=call)
        assert isinstance(answer, Answer)
        assert answer.message is not None
        assert "extra_content" not in answer.message


@pytest.mark.parametrize("extra", [None, "odd", {"moonshot": 7}, {"moonshot": {"reasoning_content": ""}}])
def test_kimi_is_told_a_call_of_another_model_with_a_word_for_its_thoughts(extra):
    turn = {"role": "assistant", "content": None, "tool_calls": [tool("{}")]}
    told = turn if extra is None else {**turn, "extra_content": extra}
    messages = [TURN, told, {"role": "assistant", "content": "Lima"}]
    assert sent(completion(**KIMI, messages=messages))["messages"] == [
        TURN,
        {**turn, "reasoning_content": "."},
        {"role": "assistant", "content": "Lima"},
    ]


def test_kimi_is_told_the_callers_own_thoughts_as_they_are():
    turn = {"role": "assistant", "content": None, "tool_calls": [tool("{}")], "reasoning_content": "mine"}
    assert sent(completion(**KIMI, messages=[turn]))["messages"] == [turn]


@given(st.text())
@example("\ud800")
def test_any_text_can_be_sent(text):
    assert sent(completion(prompt=text))["messages"][0]["content"] == text


# Answers


def test_an_answer():
    body = reply(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
    assert read(200, body, {"x-request-id": "r1", "retry-after": "9"}) == Answer(
        usage=Usage(5, 2),
        text="Hola.",
        finish_reason="stop",
        raw_finish="stop",
        message={"role": "assistant", "content": "Hola."},
        tool_calls=[],
        model="m-1",
        request_id="r1",
    )


@pytest.mark.parametrize(
    ("raw", "finish"),
    [
        ("stop", "stop"),
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("something_new", "stop"),
        ("", "stop"),
        (None, "stop"),
        (7, "stop"),
    ],
)
def test_finish_reasons(raw, finish):
    outcome = read(200, reply(finish=raw))
    assert isinstance(outcome, Answer)
    assert outcome.finish_reason == finish
    assert outcome.raw_finish == (raw if isinstance(raw, str) else None)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a\u0000b\u0002", "a\u0000b\u0002"),
        ("lone \ud800 half", "lone \ufffd half"),
        ("\ud83d\ude42", "🙂"),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}], "ab"),
    ],
)
def test_text(content, text):
    assert read(200, reply({"content": content})).text == text


def test_bytes_that_are_no_utf8_cost_no_answer():
    body = json.dumps(reply({"content": "caf?"})).encode().replace(b"?", b"\xe9")
    assert read(200, body).text == "caf\ufffd"


@pytest.mark.parametrize("content", [None, "", "  \n", [], 7, {"a": 1}])
@pytest.mark.parametrize("finish", ["stop", None, "tool_calls", "new"])
def test_no_text_is_no_answer(content, finish):
    outcome = read(200, reply({"content": content, "reasoning": "Hm."}, finish, usage={"prompt_tokens": 5}))
    assert isinstance(outcome, Failure)
    assert outcome.kind is K.EMPTY_OUTPUT
    assert outcome.usage == Usage(5)
    assert (outcome.model, outcome.request_id, outcome.http_status) == ("m-1", "c1", 200)


@pytest.mark.parametrize("content", [None, "", "La cap"])
def test_what_the_ceiling_cut_is_an_answer(content):
    outcome = read(200, reply({"content": content}, "length"), call=completion(schema={}))
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish_reason, outcome.json) == (content, "length", None)


@pytest.mark.parametrize(
    ("message", "finish", "kind", "words"),
    [
        ({"content": None, "refusal": "I will not."}, "stop", K.REFUSAL, "I will not."),
        ({"content": "I will not."}, "refusal", K.REFUSAL, "I will not."),
        ({"content": "Half"}, "content_filter", K.CONTENT_FILTER, "filter"),
        ({"content": "Half"}, "abort", K.SERVER_ERROR, "abort"),
        ({"content": "Half"}, "error", K.SERVER_ERROR, "error"),
        ({"content": ""}, "stop", K.EMPTY_OUTPUT, "without text"),
    ],
)
def test_a_reply_that_is_no_answer(message, finish, kind, words):
    outcome = read(200, reply(message, finish, usage={"prompt_tokens": 5, "completion_tokens": 2}))
    assert isinstance(outcome, Failure)
    assert outcome.kind is kind
    assert words in outcome.message
    assert outcome.usage == Usage(5, 2)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", K.SERVER_ERROR),
        (b"<html><title>Welcome</title></html>", K.SERVER_ERROR),
        (b'{"choices": [', K.SERVER_ERROR),
        (b"\x00\xff\xfe", K.SERVER_ERROR),
        (b"[" * 100_000, K.SERVER_ERROR),
        (b'{"a":' * 100_000, K.SERVER_ERROR),
        (b"1" * 5000, K.SERVER_ERROR),
        (b"null", K.BAD_OUTPUT),
        (b"7", K.BAD_OUTPUT),
        (b"[]", K.BAD_OUTPUT),
        (b"{}", K.BAD_OUTPUT),
        (b'{"choices": null}', K.BAD_OUTPUT),
        (b'{"choices": {}}', K.BAD_OUTPUT),
        (b'{"choices": [7]}', K.BAD_OUTPUT),
        (b'{"choices": [{"message": null}]}', K.BAD_OUTPUT),
        (b'{"choices": []}', K.EMPTY_OUTPUT),
        (b'{"error": {"message": "boom", "code": 500}}', K.SERVER_ERROR),
        (b'{"error": {"message": "boom", "code": 429}}', K.RATE_LIMIT),
        (b'{"error": {"message": "Provider returned error", "code": "rate_limit_exceeded"}}', K.RATE_LIMIT),
        (b'{"error": "The model is overloaded"}', K.OVERLOADED),
        (b'{"object": "error", "message": "This model\'s maximum context length is 9 tokens"}', K.CONTEXT_LENGTH),
    ],
)
def test_a_good_status_with_something_else(body, kind):
    outcome = read(200, body, {"x-request-id": "r1"})
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.http_status, outcome.request_id) == (kind, 200, "r1")


# Usage


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": 9, "cached_tokens": 4}, Usage(9, None, 4)),
        ({"prompt_tokens": 9, "cached_tokens": 4, "prompt_tokens_details": None}, Usage(9, None, 4)),
        ({"prompt_tokens": 9, "cached_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}}, Usage(9, None, 0)),
        ({"prompt_tokens": 9, "cached_tokens": 400}, Usage(9, None, 9)),
        ({"completion_tokens": 9, "reasoning_tokens": 4}, Usage(None, 9, None, 4)),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}, Usage(None, 9, None, 4)),
        (
            {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "total_tokens": 399,
                "completion_tokens_details": {"reasoning_tokens": 386},
            },
            Usage(12, 387, None, 386),  # xAI, and gateways to Gemini, count the thoughts apart
        ),
        (
            {
                "prompt_tokens": 12,
                "completion_tokens": 400,
                "total_tokens": 412,
                "completion_tokens_details": {"reasoning_tokens": 386},
            },
            Usage(12, 400, None, 386),
        ),
        (
            {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 99, "reasoning_tokens": 2},
            Usage(12, 4, None, 2),
        ),
        (
            {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": "18", "reasoning_tokens": 2},
            Usage(12, 4, None, 2),
        ),
        ({"prompt_tokens": -1, "completion_tokens": "3"}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 10**30}, Usage()),
        ([], Usage()),
    ],
)
def test_usage(told, usage):
    assert read(200, reply(usage=told)).usage == usage


@pytest.mark.parametrize(
    ("headers", "body", "request_id"),
    [
        ({"x-request-id": "r1"}, reply(x_groq={"id": "g1"}), "r1"),
        ({"request-id": "r2"}, reply(), "r2"),
        ({}, reply(x_groq={"id": "g1"}), "g1"),
        ({}, reply(), "c1"),
        ({"x-request-id": ""}, {**reply(), "id": ""}, None),
        ({"x-request-id": "a\udcffb" * 100}, reply(), ("a\ufffdb" * 100)[:199] + "…"),
    ],
)
def test_request_id(headers, body, request_id):
    assert read(200, body, headers).request_id == request_id


# Tool calls


@pytest.mark.parametrize(
    ("arguments", "value"),
    [('{"a": 1}', {"a": 1}), ("", {}), (None, {}), ({"a": 1}, {"a": 1}), ("[1]", [1]), ('"b"', "b")],
)
@pytest.mark.parametrize("finish", ["tool_calls", "stop", None])
def test_tool_calls(arguments, value, finish):
    outcome = read(200, reply({"content": None, "tool_calls": [tool(arguments), tool("{}", id="")]}, finish))
    assert isinstance(outcome, Answer)
    assert outcome.tool_calls == [
        {"id": "t1", "name": "find", "arguments": value},
        {"id": "call_1", "name": "find", "arguments": {}},
    ]
    assert outcome.finish_reason == (finish or "tool_calls")
    assert outcome.text is None
    assert set(outcome.message) == {"role", "content", "tool_calls"}
    turn = outcome.message["tool_calls"][0]
    assert json.loads(turn["function"].pop("arguments")) == value
    assert turn == {"id": "t1", "type": "function", "function": {"name": "find"}}


def test_half_a_character_in_a_tool_call():
    outcome = read(200, reply({"content": None, "tool_calls": [tool('{"a": "\\ud800"}')]}))
    assert outcome.tool_calls[0]["arguments"] == {"a": "\ufffd"}


def test_the_old_form_of_a_tool_call():
    outcome = read(200, reply({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call"))
    assert outcome.tool_calls == [{"id": "call_0", "name": "f", "arguments": {}}]


@pytest.mark.parametrize(
    "broken",
    [
        tool("{'a': 1}"),
        tool('{"a": '),
        tool('{"a": NaN}'),
        tool('{"a": 1e999}'),
        tool("[" * 100_000),
        tool("[" * 101 + "]" * 101),
        tool({"a": float("inf")}),
        tool("{}", name=""),
        tool("{}", name=None),
        {"function": None},
        "find",
        None,
    ],
)
def test_a_broken_tool_call(broken):
    body = json.dumps(reply({"content": "text", "tool_calls": [tool("{}"), broken]}, "tool_calls"))
    outcome = read(200, body.replace("Infinity", "1e999").encode())
    assert isinstance(outcome, Failure)
    assert outcome.kind is K.BAD_OUTPUT


def test_a_tool_call_the_ceiling_cut():
    outcome = read(200, reply({"content": None, "tool_calls": [tool('{"a": ')]}, "length"))
    assert isinstance(outcome, Answer)
    assert outcome.tool_calls == [{"id": "t1", "name": "find", "arguments": '{"a": '}]
    assert outcome.message["tool_calls"][0]["function"]["arguments"] == '{"a": '


# An answer under a schema


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"ok": true}', {"ok": True}),
        (' [1, 2.5, "\\u00e9"] ', [1, 2.5, "é"]),
        ("null", None),
        ('```json\n{"ok": true}\n```', {"ok": True}),
        ('<think>\n{"no"}\n</think>\n{"ok": true}', {"ok": True}),
        ('Let me see: {"no"}.\n</think>\n\n{"ok": true}', {"ok": True}),  # the template wrote the opening tag
        ('{"ok": "a </think> inside"}', {"ok": "a </think> inside"}),
        ('{"a": "\\udc00"}', {"a": "\ufffd"}),
    ],
)
def test_json_under_a_schema(text, value):
    outcome = read(200, reply({"content": text}), call=completion(schema={}))
    assert isinstance(outcome, Answer)
    assert (outcome.json, outcome.text) == (value, text)


@pytest.mark.parametrize("text", ["Here you are.", '{"ok": tru', '{"a": NaN}', "[" * 200 + "]" * 200, '{"a": 1} or so'])
def test_no_json_under_a_schema(text):
    outcome = read(200, reply({"content": text}), call=completion(schema={}))
    assert isinstance(outcome, Answer)
    assert (outcome.json, outcome.text) == (None, text)


def test_a_tool_call_under_a_schema_is_no_json():
    outcome = read(200, reply({"content": "", "tool_calls": [tool("{}")]}, "tool_calls"), call=completion(schema={}))
    assert isinstance(outcome, Answer)
    assert outcome.json is None


# Streams, which are never asked for


def stream(*events: Any, end: str = "\n\n") -> bytes:
    return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}{end}" for e in events).encode()


def chunk(delta: Any, finish: Any = None, **rest: Any) -> Any:
    return {"id": "c1", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **rest}


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_a_stream_is_put_together(end):
    body = stream(
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "Ho"}),
        {"choices": [{"index": 1, "delta": {"content": "another"}}]},
        chunk({"content": "la"}, usage={"prompt_tokens": 1}),
        chunk({}, "stop"),
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        "[DONE]",
        end=end,
    )
    outcome = read(200, b": comment\n\n" + body, {"content-type": "text/event-stream"})
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish_reason, outcome.model) == ("Hola", "stop", "m-1")
    assert (outcome.usage, outcome.request_id) == (Usage(5, 2), "c1")


def test_an_answer_under_the_name_of_a_stream():
    """It is whole, and paid for: some gateways name every reply so."""
    for body in (reply(), b" \r\n" + json.dumps(reply()).encode()):
        outcome = read(200, body, {"content-type": "text/event-stream; charset=utf-8"})
        assert isinstance(outcome, Answer)
        assert outcome.text == "Hola."


def test_a_stream_that_begins_with_a_comment_and_without_its_name():
    body = b": keep-alive\n\n" + stream(chunk({"content": "Hola."}, "stop"), "[DONE]")
    outcome = read(200, body, {"content-type": "application/json"})
    assert isinstance(outcome, Answer)
    assert outcome.text == "Hola."


def test_a_stream_without_the_name_of_one():
    assert read(200, stream(chunk({"content": "Hola"}, "stop"), "[DONE]")).text == "Hola"


def test_a_tool_call_in_pieces():
    pieces = [
        {"index": 0, "id": "t1", "function": {"name": "find", "arguments": ""}},
        {"index": 1, "id": "t2", "function": {"name": "look", "arguments": '{"b"'}},
        {"index": 0, "function": {"arguments": '{"a": '}},
        {"index": 0, "function": {"arguments": "1}"}},
        {"index": 1, "function": {"arguments": ": 2}"}},
    ]
    body = stream(*[chunk({"tool_calls": [piece]}) for piece in pieces], chunk({}, "tool_calls"), "[DONE]")
    assert read(200, body).tool_calls == [
        {"id": "t1", "name": "find", "arguments": {"a": 1}},
        {"id": "t2", "name": "look", "arguments": {"b": 2}},
    ]


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([chunk({"content": "Ho"})], K.SERVER_ERROR),
        ([chunk({"content": "Ho"}), "[DONE]"], K.SERVER_ERROR),
        ([chunk({"content": "Ho"}, "stop")], K.SERVER_ERROR),
        ([chunk({"content": "Ho"}), {"error": {"message": "Overloaded", "type": "overloaded_error"}}], K.OVERLOADED),
        ([chunk({"content": "Ho"}), {"error": {"message": "boom", "code": 429}}], K.RATE_LIMIT),
        (["{broken"], K.SERVER_ERROR),
        (["7"], K.SERVER_ERROR),
        (["[DONE]"], K.SERVER_ERROR),
        ([chunk({"content": ""}, "stop"), "[DONE]"], K.EMPTY_OUTPUT),
    ],
)
def test_a_stream_that_fails_after_its_status(events, kind):
    outcome = read(200, stream(*events), {"content-type": "text/event-stream; charset=utf-8", "retry-after": "3"})
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.http_status, outcome.wait_s) == (kind, 200, None)


# Embeddings


def vectors(*items: Any) -> Any:
    return {"data": list(items), "model": "e-1", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def test_embeddings_in_the_order_of_the_inputs():
    body = vectors({"index": 1, "embedding": [2, 0.5]}, {"index": 0, "embedding": [1.0, -0.5]})
    outcome = read(200, body, call=embedding(["a", "b"]))
    assert outcome == Answer(usage=Usage(3, 0), embeddings=[[1.0, -0.5], [2.0, 0.5]], model="e-1")


def test_embeddings_as_base64():
    packed = base64.b64encode(struct.pack("<3f", 0.5, -0.25, 3.0)).decode()
    assert read(200, vectors({"index": 0, "embedding": packed}), call=embedding()).embeddings == [[0.5, -0.25, 3.0]]


@pytest.mark.parametrize("given", ["a", [1, 2, 3], ["a"], [[1, 2, 3]]])
def test_one_input_in_any_form(given):
    assert read(200, vectors({"embedding": [1.0]}), call=embedding(given)).embeddings == [[1.0]]


def test_a_vector_is_missing():
    outcome = read(200, vectors({"index": 0, "embedding": [1.0]}), call=embedding(["a", "b"]))
    assert (outcome.kind, outcome.message) == (K.BAD_OUTPUT, "1 embeddings for 2 inputs")


@pytest.mark.parametrize(
    "items",
    [
        [{"index": 0}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": ["1"]}],
        [{"index": 0, "embedding": [True]}],
        [{"index": 0, "embedding": [None]}],
        [{"index": 0, "embedding": [1e999]}],
        [{"index": 0, "embedding": [10**400]}],
        [{"index": 0, "embedding": [[1.0]]}],
        [{"index": 0, "embedding": "****"}],
        [{"index": 0, "embedding": "AAA="}],
        [{"index": 0, "embedding": "AADAfw=="}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}],
        ["x"],
    ],
)
def test_broken_embeddings(items):
    outcome = read(200, json.dumps(vectors(*items)).replace("Infinity", "1e999").encode(), call=embedding())
    assert isinstance(outcome, Failure)
    assert outcome.kind is K.BAD_OUTPUT


def test_no_embeddings():
    assert read(200, vectors(), call=embedding()).kind is K.EMPTY_OUTPUT
    assert read(200, reply(), call=embedding()).kind is K.BAD_OUTPUT


# Errors: kin of the witnessed cases


def told(message: str, kind: Any = None, code: Any = None, **rest: Any) -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **rest}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        # The code says more than the status ...
        (429, told("Slow down", code="slow_down"), K.RATE_LIMIT),
        (429, told("x", "insufficient_quota", "credit_balance_exhausted"), K.QUOTA),
        (429, told("x", "insufficient_quota"), K.QUOTA),
        (429, told("x", "insufficient_quota", "organization_spend_limit_exceeded"), K.QUOTA),
        (400, told("x", code="model_decommissioned"), K.MODEL_NOT_FOUND),
        (400, told("x", code="tool_use_failed", failed_generation="<f>"), K.BAD_OUTPUT),
        (400, told("x", code="content_policy_violation"), K.CONTENT_FILTER),
        (498, told("x", code="capacity_exceeded"), K.OVERLOADED),
        (401, told("x", "incorrect_api_key_error"), K.AUTH),
        (500, told("x", "overloaded_error"), K.OVERLOADED),
        (501, told("This server does not support embeddings", "not_supported_error", 501), K.BAD_REQUEST),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}, K.OVERLOADED),
        (429, {"error": "Model is overloaded", "error_type": "Overloaded"}, K.OVERLOADED),
        (503, {"error": "unhealthy", "error_type": "healthcheck"}, K.LOADING),
        (424, {"error": "Request failed during generation", "error_type": "generation"}, K.SERVER_ERROR),
        # ... except where it misleads.
        (413, told("Request too large for model", "tokens", "rate_limit_exceeded"), K.CONTEXT_LENGTH),
        (
            429,
            told(
                "Request too large for gpt-4o on tokens per min (TPM): Limit 3, Requested 4.",
                "tokens",
                "rate_limit_exceeded",
            ),
            K.CONTEXT_LENGTH,
        ),
        (429, told("reached organization TPD rate limit, current: 2, limit: 1", "rate_limit_reached_error"), K.QUOTA),
        (
            429,
            told("reached organization TPM rate limit, current: 2, limit: 1", "rate_limit_reached_error"),
            K.RATE_LIMIT,
        ),
        (429, told("Limit on requests per day (RPD) reached."), K.QUOTA),
        (429, told("Limit on requests per day (RPD) reached. Try again in 7m12s."), K.RATE_LIMIT),
        # The text says more than the status ...
        (400, told("Input token length too long", "invalid_request_error"), K.CONTEXT_LENGTH),
        (400, told("Your input exceeds the context window of this model."), K.CONTEXT_LENGTH),
        (
            400,
            {
                "object": "error",
                "message": "The input (9 tokens) is longer than the model's context length (4 tokens).",
            },
            K.CONTEXT_LENGTH,
        ),
        (
            422,
            {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9"},
            K.CONTEXT_LENGTH,
        ),
        (400, {"error": ["Error in `inputs`: field required"]}, K.BAD_REQUEST),
        (400, told("CUDA out of memory. Tried to allocate 2.00 GiB."), K.SERVER_ERROR),
        (400, {"error": "Model not supported by provider hf-inference"}, K.MODEL_NOT_FOUND),
        (400, told("Incorrect API key provided: x"), K.AUTH),
        (403, told("Insufficient balance"), K.QUOTA),
        (403, {"error": "Access to model org/gated is restricted"}, K.PERMISSION),
        (404, told("The model `x` does not exist or you do not have access to it."), K.MODEL_NOT_FOUND),
        (404, told("x", "NotFoundError", 404, param="model"), K.MODEL_NOT_FOUND),
        (503, told("Loading model", "unavailable_error", 503), K.LOADING),
        (503, {"error": "Model org/model is currently loading", "estimated_time": 20.0}, K.LOADING),
        (503, {"object": "error", "message": "The request queue is full.", "type": "503", "code": 503}, K.OVERLOADED),
        (500, told("The engine is currently overloaded, please try again later"), K.OVERLOADED),
        # A 400 that is no fault of the request: nobody but this account, or this model, is out.
        (
            400,
            told("Organization has been restricted. Please reach out.", code="organization_restricted"),
            K.PERMISSION,
        ),
        (400, told("Organization has been restricted. Please reach out to support."), K.PERMISSION),
        (400, told("The model `m` requires terms acceptance.", code="model_terms_required"), K.PERMISSION),
        (400, told("x", code="blocked_api_access"), K.QUOTA),
        (400, told("API access is blocked by a spend alert.", "invalid_request_error"), K.QUOTA),
        (
            400,
            told("You have reached your specified workspace API usage limits. You will regain access on 2026-12-01."),
            K.QUOTA,
        ),
        (400, told("This request was flagged.", code="cyber_policy"), K.CONTENT_FILTER),
        (
            400,
            told(
                "The decoder prompt (length 5951) is longer than the maximum model length of 4096.", "BadRequestError"
            ),
            K.CONTEXT_LENGTH,
        ),
        (
            400,
            told("This model's maximum prompt length is 131072 but the request contains 150000 tokens."),
            K.CONTEXT_LENGTH,
        ),
        # ... and is not over-read.
        (400, told("max_tokens is too large: 9. This model supports at most 8 completion tokens."), K.BAD_REQUEST),
        (
            400,
            told("'temperature' does not support 0.2 with this model.", param="temperature", code="unsupported_value"),
            K.BAD_REQUEST,
        ),
        (400, told("`temperature` is not supported for this model."), K.BAD_REQUEST),
        (400, told("max_tokens must be <= 8192"), K.BAD_REQUEST),
        (400, told('tool_choice="required" requires --tool-call-parser to be set'), K.BAD_REQUEST),
        (400, told("Please try again with a different prompt in 20 s", "invalid_request_error"), K.BAD_REQUEST),
        (404, {"detail": "Not Found"}, K.BAD_REQUEST),
        (404, told("File Not Found", "not_found_error", 404), K.BAD_REQUEST),
        (404, b"Not Found", K.BAD_REQUEST),
        # The status alone.
        (301, b"", K.GONE),
        (400, b"", K.BAD_REQUEST),
        (401, b"", K.AUTH),
        (402, b"", K.QUOTA),
        (403, b"<html>", K.PERMISSION),
        (405, b"", K.BAD_REQUEST),
        (408, b"", K.TIMEOUT),
        (409, b"", K.CONFLICT),
        (410, b"", K.GONE),
        (413, b"<html><title>413 Request Entity Too Large</title></html>", K.CONTEXT_LENGTH),
        (418, b"", K.BAD_REQUEST),
        (422, b"", K.BAD_REQUEST),
        (429, b"", K.RATE_LIMIT),
        (451, b"", K.PERMISSION),
        (500, b"", K.SERVER_ERROR),
        (502, b"<html><h1>Bad Gateway</h1></html>", K.SERVER_ERROR),
        (503, b"Service Unavailable", K.OVERLOADED),
        (504, b"", K.TIMEOUT),
        (520, b"", K.SERVER_ERROR),
        (524, b"", K.TIMEOUT),
        (529, b"", K.OVERLOADED),
        (100, b"", K.SERVER_ERROR),
        (0, b"", K.SERVER_ERROR),
        (999, b"", K.SERVER_ERROR),
    ],
)
def test_the_kind_of_an_error(status, body, kind):
    outcome = read(status, body)
    assert isinstance(outcome, Failure)
    assert outcome.kind is kind
    assert outcome.http_status == status
    assert outcome.message


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (503, b"Service Unavailable", K.LOADING),
        (503, b"", K.LOADING),
        (502, b"", K.LOADING),
        (503, {"error": "Service overloaded"}, K.OVERLOADED),
        (400, b"Bad Request: Invalid state", K.GONE),
        (500, b"", K.SERVER_ERROR),
        (404, b"Not Found", K.BAD_REQUEST),
    ],
)
def test_a_sleeping_endpoint(status, body, kind):
    assert read(status, body, call=completion(ENDPOINT)).kind is kind


@pytest.mark.parametrize(
    ("status", "body", "advice", "kind"),
    [
        (400, b"", "true", K.SERVER_ERROR),
        (429, b"", "true", K.RATE_LIMIT),
        (429, b"", "false", K.QUOTA),
        (500, b"", "false", K.SERVER_ERROR),
        (400, told("x", code="context_length_exceeded"), "true", K.CONTEXT_LENGTH),
        (429, told("x", code="rate_limit_exceeded"), "false", K.RATE_LIMIT),
        (400, b"", "perhaps", K.BAD_REQUEST),
    ],
)
def test_the_providers_word_on_trying_again_stands_over_the_status(status, body, advice, kind):
    assert read(status, body, {"x-should-retry": advice}).kind is kind


@pytest.mark.parametrize(
    ("status", "body", "advice", "final"),
    [
        (500, b"", "false", True),
        (500, told("x", "server_error"), "False ", True),
        (503, told("Overloaded", "overloaded_error"), "false", True),
        (504, b"", "false", True),
        (409, b"", "false", True),
        (500, b"", "true", False),
        (500, b"", "", False),
        (429, told("x", code="rate_limit_exceeded"), "false", False),  # it is a wait that follows, not a repetition
        (503, told("Loading model"), "false", False),
        (401, b"", "false", False),  # that of another key
    ],
)
def test_the_providers_last_word_on_trying_again(status, body, advice, final):
    outcome = read(status, body, {"x-should-retry": advice})
    assert isinstance(outcome, Failure)
    assert outcome.final is final


@pytest.mark.parametrize(
    ("message", "unfit"),
    [
        ("Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is.", True),
        ("Unsupported parameter: 'top_p' is not supported with this model.", True),
        ("`temperature` is not supported for this model.", True),
        ("`temperature` is deprecated for this model.", True),
        ("`temperature` and `top_p` cannot both be specified for this model. Please use only one.", True),
        ("invalid temperature: only 1 is allowed for this model", True),
        ("This model does not support response format `json_schema`.", True),
        ("('messages.0' : property 'reasoning_content' is unsupported)", True),
        ('tool_choice="required" requires --tool-call-parser to be set', True),
        ("Invalid 'temperature': decimal below minimum value. Expected a value >= 0, but got -1 instead.", False),
        ("max_tokens must be at least 1", False),
        ("Invalid 'messages': empty array.", False),
        ("this model does as it is told; you support nothing", False),
    ],
)
def test_what_this_model_lacks_is_told_from_what_is_wrong(message, unfit):
    outcome = read(400, told(message, "invalid_request_error"))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.unfit) == (K.BAD_REQUEST, unfit)
    assert read(500, told(message)).unfit is False


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"Not Found"),
        (404, {"detail": "Not Found"}),
        (405, b""),
        (501, told("This server does not support embeddings.", "not_supported_error", 501)),
    ],
)
def test_what_is_not_at_this_address_may_be_at_another(status, body):
    """A wrong base_url, an endpoint that was deleted: the request is sound."""
    outcome = read(status, body)
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.unfit) == (K.BAD_REQUEST, True)


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (told("boom", "server_error"), "boom", "server_error"),
        (told("boom", "invalid_request_error", "empty_array"), "boom", "empty_array"),
        (told("boom", "BadRequestError", 400), "boom", "BadRequestError"),
        ({"error": "boom"}, "boom", None),
        ({"error": "boom", "error_type": "validation"}, "boom", "validation"),
        ({"error": ["one", "two", 3]}, "one; two", None),
        ([{"error": {"code": 503, "message": "boom", "status": "UNAVAILABLE"}}], "boom", "UNAVAILABLE"),
        ({"object": "error", "message": "boom", "type": "503", "code": 503}, "boom", None),
        ({"message": "boom", "code": 422, "type": "Validation"}, "boom", "Validation"),
        ({"id": "o1", "error": {"error": {"message": "deep"}}}, "deep", None),
        ({"detail": "Not Found"}, "Not Found", None),
        ({"detail": [{"loc": ["body", "n"], "msg": "too big", "input": "secret"}]}, "body.n: too big", None),
        ("just text", "just text", None),
        (b"plain\n  text\x00", "plain text", None),
        (
            b"<html><head><title>502\nBad Gateway</title></head><body>x</body></html>",
            "an HTML page: 502 Bad Gateway",
            None,
        ),
        (b"<html><body>Oops <b>no</b></body></html>", "an HTML page: Oops no", None),
        (b"", "HTTP 400 with no message", None),
        (b"{}", "HTTP 400 with no message", None),
        (b"null", "HTTP 400 with no message", None),
        (told(None), "HTTP 400 with no message", None),
        (told("x" * 1000), "x" * 499 + "…", None),
    ],
)
def test_error_bodies_in_every_shape(body, message, code):
    outcome = read(400, body)
    assert (outcome.message, outcome.code) == (message, code)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Incorrect API key provided: sk-proj-abcdef1234567890.", "Incorrect API key provided: ***."),
        ("Incorrect API key provided: sk-abcd**********wxyz. See", "Incorrect API key provided: ***. See"),
        ("Incorrect API key provided: badkey. You can", "Incorrect API key provided: ***. You can"),
        ("key gsk_1234567890abcdef is wrong", "key *** is wrong"),
        ("token hf_abcdefghijklmnop expired", "token *** expired"),
        ("got Authorization: Bearer abc.def-ghi", "got Authorization: Bearer ***"),
        ("account org-1<ak-example123> is out", "account org-1<***> is out"),
        ("at https://user:word@host.example/v1", "at https://***@host.example/v1"),
        ('Body needs an inputs key, received: b\'{"prompt":"hola"}\'', "Body needs an inputs key, …"),
        ("[{'type': 'missing', 'input': {'prompt': 'hola'}}]", "[{'type': 'missing', …"),
        ("Use a bearer token, model hf_inference or task-123", "Use a bearer token, model hf_inference or task-123"),
    ],
)
def test_no_key_and_no_prompt_in_a_message(message, shown):
    assert read(401, told(message)).message == shown


# Waits


@pytest.mark.parametrize(
    ("headers", "message", "wait"),
    [
        ({}, "no hint", (None, None)),
        ({"retry-after": "20"}, "", (20.0, "retry-after")),
        ({"retry-after": "0.5"}, "", (0.5, "retry-after")),
        ({"retry-after": " 7 "}, "", (7.0, "retry-after")),
        ({"retry-after": "1m30s"}, "", (90.0, "retry-after")),
        ({"retry-after-ms": "1500", "retry-after": "20"}, "", (1.5, "retry-after-ms")),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, "", (30.0, "retry-after")),
        (
            {"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT", "date": "Sun, 22 Nov 2026 12:00:10 GMT"},
            "",
            (20.0, "retry-after"),
        ),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, "", (None, None)),
        ({"retry-after": "6"}, "try again in 5.25s", (6.0, "retry-after")),
        ({"retry-after": "0"}, "try again in 5.25s", (5.25, "body")),
        ({"retry-after": "-1"}, "", (None, None)),
        ({"retry-after": "nan"}, "", (None, None)),
        ({"retry-after": "inf"}, "", (None, None)),
        ({"retry-after": "soon"}, "", (None, None)),
        ({"retry-after": "99999999999"}, "", (MAX_WAIT_S, "retry-after")),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"},
            "",
            (179.56, "x-ratelimit-reset-requests"),
        ),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "2m59.56s"}, "", (None, None)),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            "",
            (360.0, "x-ratelimit-reset-tokens"),
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1s"}, "try again in 84ms", (0.084, "body")),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "-1"}, "", (None, None)),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0"}, "", (None, None)),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:15Z",
            },
            "",
            (15.0, "anthropic-ratelimit-requests-reset"),
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795348830"}, "", (30.0, "x-ratelimit-reset")),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795348830000"}, "", (30.0, "x-ratelimit-reset")),
        ({"ratelimit": '"api";r=0;t=55'}, "", (55.0, "ratelimit")),
        ({"ratelimit": '"api";r=5;t=55'}, "", (None, None)),
        ({"ratelimit": '"a";r=9;t=5, "b";r=0;t=77'}, "", (77.0, "ratelimit")),
    ],
)
def test_waits(headers, message, wait):
    outcome = read(429, told(message or "x"), headers)
    assert outcome.kind is K.RATE_LIMIT
    assert (outcome.wait_s, outcome.wait_from) == (pytest.approx(wait[0]), wait[1])


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        ({"error": "loading", "estimated_time": 20.0}, 20.0),
        ({"error": {"message": "x", "estimated_time": "12"}}, 12.0),
        ({"error": {"message": "x", "details": [{"@type": "t/google.rpc.RetryInfo", "retryDelay": "34.4s"}]}}, 34.4),
        ({"error": {"message": "x", "details": [{"retryDelay": "34s"}]}}, 34.0),
        ({"error": {"message": "x", "details": [{"retryDelay": "soon"}, 7]}}, None),
        ({"error": "x", "estimated_time": -5}, None),
        ({"error": "x", "estimated_time": True}, None),
        ({"error": "x", "estimated_time": 1e300}, None),
    ],
)
def test_waits_in_fields_of_the_body(body, wait_s):
    outcome = read(503, body)
    assert (outcome.wait_s, outcome.wait_from) == (wait_s, "body" if wait_s else None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 9m38.016s. Need more", 578.016),
        ("Please try again in 84ms.", 0.084),
        ("please try again after 1 seconds", 1.0),
        ("Please retry in 20.04466179s.", 20.04466179),
        ("Please retry after 43 seconds.", 43.0),
        ("Try again in 1 minute and 20 seconds", 80.0),
        ("Please wait 2 hours, 5 minutes", 7500.0),
        ("available again in about 1h2m3s", 3723.0),
        ("Rate limit resets in 55 sec", 55.0),
        ("Please try again later", None),
        ("try again in a minute", None),
        ("retry 3 times", None),
        ("try again in 0s", None),
        ("try again in 5 matters", None),
        ("Limit 200000, Used 7200, Requested 1500", None),
        ("try again in " + "9" * 500, None),
    ],
)
def test_waits_in_words(text, seconds):
    assert spoken_wait_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("1m", 60.0),
        ("5", None),
        ("x", None),
    ],
)
def test_go_durations(text, seconds):
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("kind", [400, 401, 403, 404, 413])
def test_no_wait_where_waiting_helps_nothing(kind):
    assert read(kind, told("try again in 5s"), {"retry-after": "9"}).wait_s is None


def test_counters_of_a_good_reply():
    headers = {
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5990",
        "x-ratelimit-reset-tokens": "7.66s",
        "x-ratelimit-remaining-requests": "9.5e1",
        "ratelimit": '"api";r=3;t=9',
        "x-request-id": "r",
    }
    assert counters(headers, NOW) == [
        Counter("tokens", "x-ratelimit-reset-tokens", 6000, 5990, pytest.approx(7.66)),
        Counter("requests", "x-ratelimit-remaining-requests", None, 95, None),
        Counter("api", "ratelimit", None, 3, 9.0),
    ]


# Any bytes

GOOD = reply(
    {"role": "assistant", "content": "Hola", "refusal": None, "tool_calls": [tool('{"a": 1}')], "function_call": None},
    usage={"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
    x_groq={"id": "g1"},
)
DETAILS = [{"retryDelay": "3s", "reason": "r", "error_code": "e"}]
BAD = [{"error": {"message": "x", "type": "t", "code": 400, "status": "S", "param": "p", "details": DETAILS}}]
FLAT = {"object": "error", "detail": [{"loc": ["body"], "msg": "x"}], "error": None, "estimated_time": 2.0}
ONCE_GOOD = [GOOD, BAD, FLAT, vectors({"index": 0, "embedding": [1.0]}), chunk({"content": "x"})]


def names_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=40)
WORDS = ["stop", "length", "tool_calls", "error", "rate_limit_exceeded", "data: [DONE]", "try again in 5s"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(sorted(names_in(ONCE_GOOD))) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=25,
)
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "date", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id"])
    | st.sampled_from(["ratelimit", "x-ratelimit-reset", "x-ratelimit-remaining", "a-ratelimit-b-reset"]),
    ANY_TEXT
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes().map(str)
    | st.sampled_from(["text/event-stream", "0", "true", "Sun, 22 Nov 2026 12:00:30 GMT"])
    | st.just("Mon, 1 Jan 0001 00:00:00 +2359"),
)
CALLS = st.sampled_from([completion(), completion(schema={}), completion(ENDPOINT), embedding(["a", "b"]), embedding()])


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A reply that was good once: one value in it replaced by anything."""
    value = json.loads(json.dumps(draw(st.sampled_from(ONCE_GOOD))))
    place: Any = value
    while True:
        name = draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
        if not isinstance(place[name], dict | list) or not place[name] or draw(st.booleans()):
            place[name] = draw(JSON)
            return json.dumps(value).encode()
        place = place[name]


BODIES = (
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | mutants()
    | st.lists(JSON).map(lambda values: stream(*values))
    | st.lists(JSON).map(lambda values: stream(*[chunk(value, "stop") for value in values], "[DONE]"))
)


@given(CALLS, st.sampled_from([200, 201, 204, 400, 401, 404, 429, 500, 503]) | st.integers(-1, 1000), HEADERS, BODIES)
def test_any_reply_is_an_outcome(call, status, headers, body):
    outcome = FORMAT.read_response(call, status, headers, body)
    json.dumps(asdict(outcome), ensure_ascii=False, allow_nan=False).encode()  # fit to be stored
    if isinstance(outcome, Failure):
        assert 0 < len(outcome.message) <= MESSAGE_CUT
        assert outcome.message.isprintable()
        assert outcome.http_status == status
        assert (outcome.wait_s is None) == (outcome.wait_from is None)
        assert outcome.wait_s is None or 0 < outcome.wait_s <= MAX_WAIT_S
        assert outcome.code is None or 0 < len(outcome.code) <= 100
    else:
        assert 200 <= status < 300
        if call.kind == "embedding":
            assert len(outcome.embeddings) >= len(call.input["input"])
        else:
            assert outcome.finish_reason in ("stop", "length", "tool_calls")
            assert outcome.text or outcome.tool_calls or outcome.finish_reason == "length"
            assert outcome.message["content"] == outcome.text


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"error":' * 100_000 + b"{}" + b"}" * 100_000,
        b'{"error": {"message": ' + b"[" * 900 + b"]" * 900 + b"}}",
        b'{"choices": [{"message": {"content": "x", "tool_calls": [{"function": {"name": "f", "arguments": '
        + b'{"a":' * 600
        + b"1"
        + b"}" * 600
        + b"}}]}}]}",
        b'{"error": {"message": "' + b"try again in 1" * 200_000 + b'"}}',
        b"<title" * 200_000,
        b"data: " + b"data: " * 200_000,
        b"\xff" * 1_000_000,
        b'{"a": ' + b"9" * 100_000 + b"}",
    ],
)
def test_bombs(status, body):
    outcome = read(status, body, {"ratelimit": ";r=0;t=" * 10_000, "retry-after": "9" * 100_000})
    assert isinstance(outcome, Failure)
    json.dumps(asdict(outcome), allow_nan=False)
