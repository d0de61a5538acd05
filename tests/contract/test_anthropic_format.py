"""Anthropic's Messages beyond the witnessed cases: whole requests, and the rules the cases stand for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.payloads import NOW
from worker.domain.answer import Answer, Call, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.providers.anthropic import AnthropicFormat
from worker.providers.anthropic_schema import narrowed
from worker.providers.format import USER_AGENT, Format, Unfit

K = FailureKind
FORMAT: Format = AnthropicFormat(now=lambda: NOW)
TURN = {"role": "user", "content": "Hola"}
BASE = "https://api.anthropic.com/v1"


def completion(model: str = "claude-haiku-4-5", schema: Any = None, **fields: Any) -> Call:
    return Call("completion", BASE, model, fields or {"messages": [TURN]}, schema)


def sent(call: Call) -> Any:
    return json.loads(FORMAT.build_request(call, None).read())


def messages(*turns: Any) -> Any:
    return sent(completion(messages=list(turns)))["messages"]


def read(status: int, body: Any, headers: Any = (), call: Call | None = None) -> Answer | Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read_response(call or completion(), status, dict(headers), data)


def reply(*blocks: Any, stop: Any = "end_turn", **rest: Any) -> Any:
    blocks = blocks or ({"type": "text", "text": "Hola."},)
    return {"id": "msg_1", "type": "message", "model": "m-1", "content": list(blocks), "stop_reason": stop, **rest}


# Requests, whole


def test_a_request():
    call = completion(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Speak Spanish."}]},
            TURN,
        ],
        max_tokens=50,
        temperature=0,
        stop="END",
        seed=7,
        user="u",
    )
    request = FORMAT.build_request(call, "sk-ant-x")
    body = (
        b'{"model":"claude-haiku-4-5","max_tokens":50,"system":"Be brief.\\nSpeak Spanish.",'
        b'"messages":[{"role":"user","content":"Hola"}],"stop_sequences":["END"],"temperature":0}'
    )
    assert request.method == "POST"
    assert str(request.url) == "https://api.anthropic.com/v1/messages"
    assert request.read() == body
    assert request.headers.raw == [
        (b"Host", b"api.anthropic.com"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", USER_AGENT.encode()),
        (b"x-api-key", b"sk-ant-x"),
        (b"anthropic-version", b"2023-06-01"),
        (b"Content-Length", str(len(body)).encode()),
    ]


def test_without_a_key_there_is_no_credential():
    headers = FORMAT.build_request(completion(), None).headers
    assert "x-api-key" not in headers
    assert headers["anthropic-version"] == "2023-06-01"


def test_a_conversation_with_tools():
    tool = {"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object"}}}
    call = completion(
        messages=[
            {"role": "user", "content": "Two"},
            {"role": "user", "content": "questions"},
            {
                "role": "assistant",
                "content": "\n\n",
                "tool_calls": [
                    {"id": "functions.find:0", "function": {"name": "find", "arguments": '{"a":1}'}},
                    {"id": "t2", "type": "function", "function": {"name": "find", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "functions.find:0", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "two"}]},
            {"role": "user", "content": "So?"},
        ],
        tools=[tool, {"type": "function", "function": {"name": "now", "strict": True}}],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    assert sent(call) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 8192,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Two"}, {"type": "text", "text": "questions"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "functions_find_0", "name": "find", "input": {"a": 1}},
                    {"type": "tool_use", "id": "t2", "name": "find", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "functions_find_0", "content": "one"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "two"},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [
            {"name": "find", "description": "d", "input_schema": {"type": "object"}},
            {"name": "now", "input_schema": {"type": "object", "properties": {}}, "strict": True},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }


def test_only_what_the_caller_set_and_the_ceiling_the_api_demands():
    expected = {"model": "claude-haiku-4-5", "max_tokens": 8192, "messages": [TURN]}
    assert sent(completion()) == expected
    assert sent(completion(prompt="Hola")) == expected
    nothing = {"temperature": None, "stop": None, "tools": [], "tool_choice": "auto", "response_format": None}
    assert sent(completion(messages=[TURN], **nothing)) == expected


def test_the_newer_name_of_the_ceiling_wins():
    assert sent(completion(messages=[TURN], max_tokens=9, max_completion_tokens=5))["max_tokens"] == 5
    assert sent(completion(messages=[TURN], max_tokens=9, max_completion_tokens=None))["max_tokens"] == 9


def test_instructions_alone_are_the_users_turn():
    call = completion(messages=[{"role": "system", "content": "Say hello."}])
    assert sent(call)["messages"] == [{"role": "user", "content": "Say hello."}]
    assert "system" not in sent(call)


def test_images():
    url = {"type": "image_url", "image_url": {"url": "https://h/a.png", "detail": "low"}}
    data = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AAAA"}}
    written = {"type": "image_url", "image_url": {"url": "data:image/svg+xml,%3Csvg%3E"}}
    (message,) = messages({"role": "user", "content": [{"type": "text", "text": "What?"}, url, data, written]})
    assert message["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image", "source": {"type": "url", "url": "https://h/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/svg+xml", "data": "PHN2Zz4="}},
    ]


def test_a_document():
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}
    (message,) = messages({"role": "user", "content": [{"type": "file", "file": file}]})
    source = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    assert message["content"] == [{"type": "document", "source": source, "title": "a.pdf"}]


def test_what_it_cannot_take():
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    with pytest.raises(Unfit, match="input_audio"):
        messages({"role": "user", "content": [audio]})
    with pytest.raises(Unfit, match="embeddings"):
        FORMAT.build_request(Call("embedding", BASE, "m", {"input": "a"}), None)
    with pytest.raises(Unfit, match="task"):
        FORMAT.build_request(completion(task="summarization", inputs="a"), None)


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", None, {"type": "auto"}),
        ("none", None, {"type": "none"}),
        ("none", False, {"type": "none"}),
        ("required", True, {"type": "any"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (None, None, None),
        ({"type": "function", "function": {"name": "find"}}, None, {"type": "tool", "name": "find"}),
        ({"type": "any"}, None, {"type": "any"}),
    ],
)
def test_the_choice_of_a_tool(choice, parallel, expected):
    tools = [{"type": "function", "function": {"name": "find"}}]
    call = completion(messages=[TURN], tools=tools, tool_choice=choice, parallel_tool_calls=parallel)
    assert sent(call).get("tool_choice") == expected


def test_a_tool_in_the_providers_own_words():
    tool = {"type": "web_search_20260318", "name": "web_search"}
    assert sent(completion(messages=[TURN], tools=[tool]))["tools"] == [tool]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-haiku-4-5-20251001", {"temperature": 0.2, "top_k": 5}),
        ("claude-sonnet-4-6", {"temperature": 0.2, "top_k": 5}),
        ("claude-opus-4-20250514", {"temperature": 0.2, "top_k": 5}),
        ("claude-opus-4-6", {"temperature": 0.2, "top_k": 5}),
        ("claude-opus-4-7", {}),
        ("claude-opus-5", {}),
        ("claude-sonnet-5-5", {}),
        ("claude-haiku-5-5", {}),
        ("claude-of-tomorrow", {}),
        ("tiny-random", {"temperature": 0.2, "top_p": 0.9, "top_k": 5}),
    ],
)
def test_sampling_parameters_only_where_they_are_taken(model, expected):
    fields = sent(completion(model, messages=[TURN], temperature=0.2, top_p=0.9, top_k=5))
    assert {name: fields[name] for name in ("temperature", "top_p", "top_k") if name in fields} == expected


def test_one_sampling_parameter_and_its_range():
    assert sent(completion(messages=[TURN], top_p=0.5))["top_p"] == 0.5
    assert sent(completion(messages=[TURN], temperature=1.7))["temperature"] == 1


def test_a_stop_of_white_space_is_ours():
    call = completion(messages=[TURN], stop=["\n\n", "END"])
    assert sent(call)["stop_sequences"] == ["END"]
    assert read(200, reply({"type": "text", "text": "One.\n\nTwo."}), call=call).text == "One."
    assert "stop_sequences" not in sent(completion(messages=[TURN], stop="\n"))


# A schema


def test_a_schema():
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    closed = {**schema, "additionalProperties": False}
    expected = {"format": {"type": "json_schema", "schema": closed}}
    assert sent(completion(schema=schema, messages=[TURN]))["output_config"] == expected
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert sent(completion(messages=[TURN], response_format=wanted))["output_config"] == expected
    assert "output_config" not in sent(completion(messages=[TURN], response_format={"type": "json_object"}))
    assert "additionalProperties" not in schema


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (
            {"type": "integer", "minimum": 1, "maximum": 9, "description": "A digit"},
            {"type": "integer", "description": 'A digit\n\n{"minimum": 1, "maximum": 9}'},
        ),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "color"}, {"type": "string", "description": '{"format": "color"}'}),
        ({"type": "array", "items": {"enum": [1, "a"]}, "minItems": 1}, None),
        (
            {"type": "array", "items": {"type": "string", "pattern": "^ñ"}, "minItems": 2},
            {
                "type": "array",
                "items": {"type": "string", "description": '{"pattern": "^ñ"}'},
                "description": '{"minItems": 2}',
            },
        ),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (
            {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/a", "$defs": {"a": True}},
            {"$ref": "#/$defs/a", "$defs": {"a": True}},
        ),
        # A map, or anything: closed, it could only be empty. The provider complains instead.
        ({"type": "object"}, None),
        ({"type": "object", "additionalProperties": {"type": "string"}}, None),
        (
            {"type": "object", "properties": {"minimum": {"type": "number"}}, "additionalProperties": True},
            {"type": "object", "properties": {"minimum": {"type": "number"}}, "additionalProperties": False},
        ),
        ({"type": "string", "format": ["odd"]}, {"type": "string", "description": '{"format": ["odd"]}'}),
    ],
)
def test_schemas_in_the_subset_that_is_taken(schema, expected):
    assert narrowed(schema) == (schema if expected is None else expected)


# Answers


def test_an_answer():
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    body = reply(thought, {"type": "text", "text": "Ho"}, {"type": "text", "text": "la."}, usage={"input_tokens": 5})
    assert read(200, body, {"request-id": "r1"}) == Answer(
        usage=Usage(5),
        text="Hola.",
        finish_reason="stop",
        raw_finish="end_turn",
        tool_calls=[],
        message={"role": "assistant", "content": "Hola."},
        model="m-1",
        request_id="r1",
    )


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("something_new", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reasons(stop, finish):
    outcome = read(200, reply(stop=stop))
    assert (outcome.finish_reason, outcome.raw_finish) == (finish, stop)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (reply(stop="refusal"), K.REFUSAL, "Hola."),
        (
            reply(stop="refusal", stop_details={"type": "refusal", "category": "brand_new", "explanation": None}),
            K.REFUSAL,
            "brand_new",
        ),
        (reply(stop="pause_turn"), K.SERVER_ERROR, "pause_turn"),
        (reply({"type": "text", "text": " "}), K.EMPTY_OUTPUT, "without text"),
        ({"type": "message", "content": []}, K.EMPTY_OUTPUT, "without text"),
        ({"type": "message"}, K.BAD_OUTPUT, "no message"),
        ([], K.BAD_OUTPUT, "no message"),
        (reply({"type": "tool_use", "id": "t", "input": {}}, stop="tool_use"), K.BAD_OUTPUT, "no function"),
        (reply({"type": "tool_use", "name": "f", "input": [1]}, stop="tool_use"), K.BAD_OUTPUT, "arguments"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, K.OVERLOADED, "Overloaded"),
        (b"<html><title>Bad</title>", K.SERVER_ERROR, "Bad"),
    ],
)
def test_a_good_status_with_something_else(body, kind, words):
    outcome = read(200, body)
    assert isinstance(outcome, Failure)
    assert outcome.kind is kind
    assert words in outcome.message


def test_what_the_ceiling_cut_is_an_answer():
    outcome = read(200, reply({"type": "thinking", "thinking": "Hm."}, stop="max_tokens"), call=completion(schema={}))
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish_reason, outcome.json) == ("", "length", None)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (None, Usage()),
        ({"input_tokens": 1, "output_tokens": 2}, Usage(1, 2)),
        ({"input_tokens": 1, "cache_read_input_tokens": 21, "output_tokens": 6}, Usage(22, 6, 21)),
        (
            {"input_tokens": 1, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 0, "output_tokens": 6},
            Usage(11, 6, 0),
        ),
        ({"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}, Usage(None, 9, None, 4)),
        ({"cache_read_input_tokens": 3}, Usage()),
        ({"input_tokens": -1, "output_tokens": "3", "output_tokens_details": []}, Usage()),
    ],
)
def test_usage(told, usage):
    assert read(200, reply(usage=told)).usage == usage


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, ("invalid_request_error", "max_tokens: 100000 > 64000, which is the maximum allowed"), K.BAD_REQUEST),
        (400, ("invalid_request_error", "`temperature` is deprecated for this model."), K.BAD_REQUEST),
        (400, ("invalid_request_error", "You have reached your specified API usage limits."), K.QUOTA),
        (400, ("invalid_request_error", "This organization has been disabled."), K.PERMISSION),
        (413, ("request_too_large", "Request exceeds the maximum size"), K.CONTEXT_LENGTH),
        (404, ("not_found_error", "Not found"), K.MODEL_NOT_FOUND),
        (408, ("api_error", "x"), K.TIMEOUT),
    ],
)
def test_errors(status, body, kind):
    kind_, message = body
    told = {"type": "error", "error": {"type": kind_, "message": message}, "request_id": "req_body"}
    outcome = read(status, told)
    assert (outcome.kind, outcome.request_id) == (kind, "req_body")
    assert read(status, told, {"request-id": "req_header"}).request_id == "req_header"


def test_contract_spend_limit_is_no_window():
    error = {"type": "rate_limit_error", "message": "x", "details": {"error_code": "contract_spend_limit_reached"}}
    assert read(429, {"type": "error", "error": error}).kind is K.QUOTA


# Streams, which are never asked for


def stream(*events: Any) -> bytes:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()


HEAD = {"id": "msg_1", "model": "m-1", "content": [], "stop_reason": None, "usage": {"input_tokens": 3}}
START = {"type": "message_start", "message": HEAD}
STOP = {"type": "message_stop"}


def delta(index: int, **fields: Any) -> Any:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def block(index: int, **fields: Any) -> Any:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def ending(reason: str, **usage: Any) -> Any:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def test_a_stream_is_put_together():
    body = stream(
        START,
        {"type": "ping"},
        block(0, type="thinking", thinking=""),
        delta(0, type="thinking_delta", thinking="Hm."),
        delta(0, type="signature_delta", signature="s"),
        block(1, type="text", text=""),
        delta(1, type="text_delta", text="Ho"),
        delta(1, type="text_delta", text="la"),
        block(2, type="tool_use", id="t1", name="find", input={}),
        delta(2, type="input_json_delta", partial_json='{"a"'),
        delta(2, type="input_json_delta", partial_json=": 1}"),
        block(3, type="tool_use", id="t2", name="now", input={}),
        {"type": "something_new"},
        ending("tool_use", input_tokens=None, output_tokens=9),
        STOP,
    )
    outcome = read(200, body, {"content-type": "text/event-stream"})
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish_reason, outcome.model, outcome.request_id) == (
        "Hola",
        "tool_calls",
        "m-1",
        "msg_1",
    )
    assert outcome.usage == Usage(3, 9)
    assert outcome.tool_calls == [
        {"id": "t1", "name": "find", "arguments": {"a": 1}},
        {"id": "t2", "name": "now", "arguments": {}},
    ]


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([START, block(0, type="text"), delta(0, text="Ho")], K.SERVER_ERROR),
        ([START, block(0, type="text"), delta(0, text="Ho"), STOP], K.SERVER_ERROR),
        ([START, block(0, type="text"), delta(0, text="Ho"), ending("end_turn")], K.SERVER_ERROR),
        ([START, {"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}], K.RATE_LIMIT),
        ([START, ending("end_turn"), STOP], K.EMPTY_OUTPUT),
    ],
)
def test_a_stream_that_fails_after_its_status(events, kind):
    outcome = read(200, stream(*events), {"content-type": "text/event-stream"})
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.http_status, outcome.usage.input_tokens) == (kind, 200, 3)


# What is sent back


def test_an_answer_can_be_sent_back():
    tool = {"type": "tool_use", "id": "t1", "name": "find", "input": {"ciudad": "Lima"}}
    answer = read(200, reply({"type": "text", "text": "Busco."}, tool, stop="tool_use"))
    assert isinstance(answer, Answer)
    turn = {"role": "assistant", "content": [{"type": "text", "text": "Busco."}, tool]}
    assert messages(TURN, answer.message)[1] == turn
