"""OpenAI's Responses beyond the witnessed cases: whole requests, and the rules the cases stand for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.payloads import NOW
from worker.domain.answer import Answer, Call, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.providers.format import USER_AGENT, Format, Unfit
from worker.providers.openai import OpenAIFormat
from worker.providers.openai_responses import OpenAIResponsesFormat

K = FailureKind
FORMAT: Format = OpenAIResponsesFormat(now=lambda: NOW)
TURN = {"role": "user", "content": "Hola"}
BASE = "https://api.openai.com/v1"


def completion(schema: Any = None, **fields: Any) -> Call:
    return Call("completion", BASE, "gpt-6-luna", fields or {"messages": [TURN]}, schema)


def sent(call: Call) -> Any:
    return json.loads(FORMAT.build_request(call, None).read())


def items(*turns: Any) -> Any:
    return sent(completion(messages=list(turns)))["input"]


def read(status: int, body: Any, headers: Any = (), call: Call | None = None) -> Answer | Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read_response(call or completion(), status, dict(headers), data)


def said(text: str) -> Any:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def reply(*output: Any, status: Any = "completed", **rest: Any) -> Any:
    return {"id": "resp_1", "object": "response", "model": "m-1", "status": status, "output": list(output), **rest}


# Requests, whole


def test_a_request():
    call = completion(
        messages=[{"role": "system", "content": "Be brief."}, TURN],
        max_tokens=50,
        temperature=0,
        reasoning_effort="low",
        verbosity="low",
        store=False,
        seed=7,
        stop="END",
        n=1,
    )
    request = FORMAT.build_request(call, "sk-x")
    body = (
        b'{"model":"gpt-6-luna","input":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hola"}],'
        b'"max_output_tokens":50,"temperature":0,"store":false,"reasoning":{"effort":"low"},'
        b'"text":{"verbosity":"low"}}'
    )
    assert request.method == "POST"
    assert str(request.url) == "https://api.openai.com/v1/responses"
    assert request.read() == body
    assert request.headers.raw == [
        (b"Host", b"api.openai.com"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", USER_AGENT.encode()),
        (b"Authorization", b"Bearer sk-x"),
        (b"Content-Length", str(len(body)).encode()),
    ]


def test_only_what_the_caller_set():
    expected = {"model": "gpt-6-luna", "input": [TURN]}
    assert sent(completion()) == expected
    assert sent(completion(prompt="Hola")) == expected
    nothing = {"temperature": None, "tools": [], "tool_choice": "auto", "response_format": None, "top_p": None}
    assert sent(completion(messages=[TURN], **nothing)) == expected


def test_embeddings_are_those_of_a_chat_provider():
    call = Call("embedding", BASE, "text-embedding-3-small", {"input": "a"})
    ours, theirs = FORMAT.build_request(call, "k"), OpenAIFormat().build_request(call, "k")
    assert (ours.url, ours.headers, ours.read()) == (theirs.url, theirs.headers, theirs.read())
    body = {"data": [{"index": 0, "embedding": [1.0]}]}
    assert read(200, body, call=call).embeddings == [[1.0]]


def test_a_conversation_with_tools():
    function = {"name": "find", "description": "d", "parameters": {"type": "object"}, "strict": True}
    call = completion(
        messages=[
            TURN,
            {
                "role": "assistant",
                "content": "Busco.",
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}},
                    {"id": "t2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": [{"type": "text", "text": "two"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Both."}], "refusal": None},
            {"role": "user", "content": "So?"},
        ],
        tools=[{"type": "function", "function": function}, {"type": "function", "function": {"name": "now"}}],
        tool_choice={"type": "function", "function": {"name": "find"}},
        parallel_tool_calls=False,
    )
    assert sent(call) == {
        "model": "gpt-6-luna",
        "input": [
            TURN,
            {"role": "assistant", "content": "Busco."},
            {"type": "function_call", "call_id": "t1", "name": "find", "arguments": '{"a": 1}'},
            {"type": "function_call", "call_id": "t2", "name": "now", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "t1", "output": "one"},
            {"type": "function_call_output", "call_id": "t2", "output": "two"},
            {"role": "assistant", "content": "Both."},
            {"role": "user", "content": "So?"},
        ],
        "parallel_tool_calls": False,
        "tools": [
            {"type": "function", **function},
            {"type": "function", "name": "now", "parameters": None, "strict": False},
        ],
        "tool_choice": {"type": "function", "name": "find"},
    }


def test_images_and_files():
    parts = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "https://h/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
    ]
    assert items({"role": "user", "content": parts})[0]["content"] == [
        {"type": "input_text", "text": "What?"},
        {"type": "input_image", "image_url": "https://h/a.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"},
    ]


def test_what_it_cannot_take():
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    with pytest.raises(Unfit, match="input_audio"):
        items({"role": "user", "content": [audio]})
    with pytest.raises(Unfit, match="task"):
        FORMAT.build_request(completion(task="summarization", inputs="a"), None)


def test_a_schema():
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    closed = {**schema, "required": ["ok"], "additionalProperties": False}
    for each, strict in ((schema, False), (closed, True)):
        own = {"type": "json_schema", "name": "answer", "schema": each, "strict": strict}
        assert sent(completion(each, messages=[TURN], response_format={"type": "text"}))["text"] == {"format": own}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    theirs = {"type": "json_schema", "name": "n", "schema": schema}
    assert sent(completion(messages=[TURN], response_format=wanted))["text"] == {"format": theirs}
    bare = {"type": "json_object"}
    assert sent(completion(messages=[TURN], response_format=bare))["text"] == {"format": bare}


# Answers


def test_an_answer():
    body = reply({"type": "reasoning", "summary": []}, said("Ho"), said("la."), usage={"input_tokens": 5})
    assert read(200, body) == Answer(
        usage=Usage(5),
        text="Hola.",
        finish_reason="stop",
        raw_finish="completed",
        tool_calls=[],
        message={"role": "assistant", "content": "Hola."},
        model="m-1",
        request_id="resp_1",
    )


def test_calls_of_tools_can_be_sent_back():
    call = {"type": "function_call", "id": "fc_1", "call_id": "t1", "name": "find", "arguments": '{"a": 1}'}
    answer = read(200, reply(said("Busco."), call))
    assert isinstance(answer, Answer)
    assert answer.finish_reason == "tool_calls"
    assert answer.tool_calls == [{"id": "t1", "name": "find", "arguments": {"a": 1}}]
    assert items(TURN, answer.message)[1:] == [
        {"role": "assistant", "content": "Busco."},
        {"type": "function_call", "call_id": "t1", "name": "find", "arguments": '{"a": 1}'},
    ]


def test_a_stop_is_ours():
    call = completion(messages=[TURN], stop=["END", "FIN"])
    assert read(200, reply(said("One FIN two END")), call=call).text == "One "


@pytest.mark.parametrize(
    ("status", "reason", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", "max_output_tokens", "length"),
        ("incomplete", "something_new", "stop"),
        ("incomplete", None, "stop"),
        (None, None, "stop"),
    ],
)
def test_finish_reasons(status, reason, finish):
    details = None if reason is None else {"reason": reason}
    outcome = read(200, reply(said("Hola"), status=status, incomplete_details=details))
    assert (outcome.finish_reason, outcome.raw_finish) == (finish, reason or status)


def test_a_call_the_ceiling_cut():
    call = {"type": "function_call", "call_id": "t1", "name": "find", "arguments": '{"a": '}
    details = {"reason": "max_output_tokens"}
    outcome = read(200, reply(call, status="incomplete", incomplete_details=details))
    assert (outcome.finish_reason, outcome.tool_calls[0]["arguments"]) == ("length", '{"a": ')


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        *[
            (reply(status="failed", error={"code": code, "message": "x"}), kind, "x")
            for code, kind in [
                ("server_error", K.SERVER_ERROR),
                ("rate_limit_exceeded", K.RATE_LIMIT),
                ("insufficient_quota", K.QUOTA),
                ("invalid_prompt", K.CONTENT_FILTER),
                ("bio_policy", K.CONTENT_FILTER),
                ("image_content_policy_violation", K.CONTENT_FILTER),
                ("invalid_image_url", K.BAD_REQUEST),
                ("something_new", K.SERVER_ERROR),
            ]
        ],
        (reply(status="failed", error=None), K.SERVER_ERROR, "failed"),
        (reply(said("Half"), status="cancelled"), K.SERVER_ERROR, "cancelled"),
        (reply(status="queued"), K.SERVER_ERROR, "queued"),
        (reply(said(" ")), K.EMPTY_OUTPUT, "without text"),
        (reply(), K.EMPTY_OUTPUT, "without text"),
        (reply({"type": "function_call", "call_id": "t", "name": "f", "arguments": "{"}), K.BAD_OUTPUT, "no JSON"),
        ({"object": "error", "message": "boom", "code": 429}, K.RATE_LIMIT, "boom"),
        ({"choices": []}, K.BAD_OUTPUT, "no response"),
        ([], K.BAD_OUTPUT, "no response"),
        (b"", K.SERVER_ERROR, "empty"),
    ],
)
def test_a_good_status_with_something_else(body, kind, words):
    outcome = read(200, body)
    assert isinstance(outcome, Failure)
    assert outcome.kind is kind
    assert words in outcome.message


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (None, Usage()),
        ({"input_tokens": 0, "output_tokens": 0}, Usage(0, 0)),
        ({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}, Usage(9, None, 4)),
        ({"output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}}, Usage(None, 9, None, 4)),
        ({"input_tokens": True, "input_tokens_details": []}, Usage()),
    ],
)
def test_usage(told, usage):
    assert read(200, reply(said("Hola"), usage=told)).usage == usage


# Streams, which are never asked for


def stream(*events: Any) -> bytes:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()


BEGUN = {"type": "response.created", "response": reply(status="in_progress", usage={"input_tokens": 3})}


def test_a_stream_ends_with_the_whole():
    delta = {"type": "response.output_text.delta", "delta": "Ho"}
    body = stream(BEGUN, delta, {"type": "response.completed", "response": reply(said("Hola"))})
    outcome = read(200, body, {"content-type": "text/event-stream"})
    assert (outcome.text, outcome.finish_reason) == ("Hola", "stop")


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([BEGUN], K.SERVER_ERROR),
        ([BEGUN, {"type": ["odd"], "response": {}}], K.SERVER_ERROR),
        ([BEGUN, {"type": "error", "code": "rate_limit_exceeded", "message": "x", "param": None}], K.RATE_LIMIT),
        ([BEGUN, {"type": "response.failed", "response": reply(error={"code": "bio_policy"})}], K.CONTENT_FILTER),
        (
            [{"type": "response.incomplete", "response": reply(incomplete_details={"reason": "content_filter"})}],
            K.CONTENT_FILTER,
        ),
    ],
)
def test_a_stream_that_fails_after_its_status(events, kind):
    outcome = read(200, stream(*events), {"content-type": "text/event-stream"})
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.http_status) == (kind, 200)


def test_a_mark_at_the_end_of_a_stream_ends_nothing():
    assert read(200, stream(BEGUN) + b"data: [DONE]\n\n").kind is K.SERVER_ERROR
