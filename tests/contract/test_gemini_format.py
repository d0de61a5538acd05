"""Gemini's own wire format beyond the witnessed cases: whole requests, and the rules the cases stand for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.payloads import NOW
from worker.domain.answer import Answer, Call, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.providers.format import USER_AGENT, Format, Unfit
from worker.providers.gemini import GeminiFormat

K = FailureKind
FORMAT: Format = GeminiFormat(now=lambda: NOW)
TURN = {"role": "user", "content": "Hola"}
BASE = "https://generativelanguage.googleapis.com/v1beta"
FOREIGN = "skip_thought_signature_validator"


def completion(model: str = "gemini-3.5-flash-lite", schema: Any = None, **fields: Any) -> Call:
    return Call("completion", BASE, model, fields or {"messages": [TURN]}, schema)


def embedding(given: Any, **fields: Any) -> Call:
    return Call("embedding", BASE, "gemini-embedding-001", {"input": given, **fields})


def sent(call: Call) -> Any:
    return json.loads(FORMAT.build_request(call, None).read())


def contents(*turns: Any, model: str = "gemini-3.5-flash-lite") -> Any:
    return sent(completion(model, messages=list(turns)))["contents"]


def read(status: int, body: Any, headers: Any = (), call: Call | None = None) -> Answer | Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return FORMAT.read_response(call or completion(), status, dict(headers), data)


def reply(*parts: Any, finish: Any = "STOP", **rest: Any) -> Any:
    content = {"role": "model", "parts": list(parts or ({"text": "Hola."},))}
    candidate = {"content": content, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "modelVersion": "m-1", "responseId": "r1", **rest}


# Requests, whole


def test_a_request():
    call = completion(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Speak Spanish."}]},
            TURN,
            {"role": "assistant", "content": "¿Sí?"},
            {"role": "user", "content": "¿Qué tal?"},
        ],
        max_tokens=50,
        temperature=0,
        top_p=0.5,
        stop=["END"],
        seed=7,
        user="u",
        presence_penalty=0.5,
    )
    request = FORMAT.build_request(call, "AIzaX")
    body = (
        rb'{"contents":[{"role":"user","parts":[{"text":"Hola"}]},{"role":"model","parts":[{"text":"\u00bfS\u00ed?"}]},'
        rb'{"role":"user","parts":[{"text":"\u00bfQu\u00e9 tal?"}]}],'
        rb'"systemInstruction":{"parts":[{"text":"Be brief."},{"text":"Speak Spanish."}]},'
        rb'"generationConfig":{"temperature":0,"topP":0.5,"maxOutputTokens":50,"stopSequences":["END"],"seed":7}}'
    )
    assert request.method == "POST"
    assert str(request.url) == f"{BASE}/models/gemini-3.5-flash-lite:generateContent"
    assert request.read() == body
    assert request.headers.raw == [
        (b"Host", b"generativelanguage.googleapis.com"),
        (b"Content-Type", b"application/json"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", USER_AGENT.encode()),
        (b"x-goog-api-key", b"AIzaX"),
        (b"Content-Length", str(len(body)).encode()),
    ]


def test_embeddings():
    request = FORMAT.build_request(embedding(["a", "b"], dimensions=8, user="u"), "AIzaX")
    assert str(request.url) == f"{BASE}/models/gemini-embedding-001:batchEmbedContents"
    assert json.loads(request.read()) == {
        "requests": [
            {
                "model": "models/gemini-embedding-001",
                "content": {"parts": [{"text": text}]},
                "outputDimensionality": 8,
            }
            for text in ("a", "b")
        ]
    }
    assert len(sent(embedding("a"))["requests"]) == 1


def test_only_what_the_caller_set():
    expected = {"contents": [{"role": "user", "parts": [{"text": "Hola"}]}]}
    assert sent(completion()) == expected
    assert sent(completion(prompt="Hola")) == expected
    nothing = {"temperature": None, "stop": None, "tools": [], "tool_choice": "auto", "response_format": None}
    assert sent(completion(messages=[TURN], **nothing)) == expected
    assert sent(completion(messages=[TURN], response_format={"type": "text"})) == expected


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-x", "/v1beta/models/gemini-x:generateContent"),
        ("models/gemini-x", "/v1beta/models/gemini-x:generateContent"),
        ("tunedModels/mine", "/v1beta/tunedModels/mine:generateContent"),
        ("../files?key=a#b", "/v1beta/models/..%2Ffiles%3Fkey%3Da%23b:generateContent"),
        ("a:delete", "/v1beta/models/a%3Adelete:generateContent"),
        ("\ud800", "/v1beta/models/%3F:generateContent"),
    ],
)
def test_the_name_of_a_model_leads_nowhere_else(model, path):
    assert FORMAT.build_request(completion(model), None).url.raw_path == path.encode()


def test_a_conversation_with_tools():
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    function = {"name": "find", "description": "d", "parameters": parameters, "strict": True}
    call = completion(
        messages=[
            {"role": "user", "content": "Two"},
            {"role": "user", "content": "questions"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}},
                    {"id": "t2", "type": "function", "function": {"name": "now", "arguments": ""}},
                    {"id": "t3", "type": "function", "function": {"name": "odd", "arguments": "[1]"}},
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": '{"found": true}'},
            {"role": "tool", "tool_call_id": "t2", "content": "12:00"},
            {"role": "tool", "tool_call_id": "t3", "content": "[1]"},
            {"role": "user", "content": "So?"},
        ],
        tools=[{"type": "function", "function": function}, {"googleSearch": {}}],
        tool_choice={"type": "function", "function": {"name": "find"}},
    )
    assert sent(call) == {
        "contents": [
            {"role": "user", "parts": [{"text": "Two"}, {"text": "questions"}]},
            {
                "role": "model",
                "parts": [
                    {"functionCall": {"id": "t1", "name": "find", "args": {"a": 1}}, "thoughtSignature": FOREIGN},
                    {"functionCall": {"id": "t2", "name": "now", "args": {}}},
                    {"functionCall": {"id": "t3", "name": "odd", "args": {"arguments": [1]}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "t1", "name": "find", "response": {"found": True}}},
                    {"functionResponse": {"id": "t2", "name": "now", "response": {"output": "12:00"}}},
                    {"functionResponse": {"id": "t3", "name": "odd", "response": {"output": "[1]"}}},
                    {"text": "So?"},
                ],
            },
        ],
        "tools": [
            {"functionDeclarations": [{"name": "find", "description": "d", "parametersJsonSchema": parameters}]},
            {"googleSearch": {}},
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["find"]}},
    }


@pytest.mark.parametrize(
    ("choice", "mode"), [("auto", {"mode": "AUTO"}), ("none", {"mode": "NONE"}), ("required", {"mode": "ANY"})]
)
def test_the_choice_of_a_tool(choice, mode):
    tools = [{"type": "function", "function": {"name": "find"}}]
    call = completion(messages=[TURN], tools=tools, tool_choice=choice)
    assert sent(call)["toolConfig"] == {"functionCallingConfig": mode}


def test_older_models_know_no_word_for_a_foreign_call():
    turn = {"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}]}
    assert "thoughtSignature" in contents(TURN, turn)[1]["parts"][0]
    assert "thoughtSignature" not in contents(TURN, turn, model="gemini-2.5-flash")[1]["parts"][0]


def test_images_and_files():
    parts = [
        {"type": "image_url", "image_url": {"url": "https://h/a.PNG?x=1", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://h/a"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AAAA"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "input_audio", "input_audio": {"data": "CCCC", "format": "wav"}},
    ]
    assert contents({"role": "user", "content": parts})[0]["parts"] == [
        {"fileData": {"mimeType": "image/png", "fileUri": "https://h/a.PNG?x=1"}},
        {"fileData": {"fileUri": "https://h/a"}},
        {"inlineData": {"mimeType": "image/jpeg", "data": "AAAA"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "BBBB"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "CCCC"}},
    ]


def test_what_it_cannot_take():
    with pytest.raises(Unfit, match="file"):
        contents({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]})
    with pytest.raises(Unfit, match="tokens"):
        FORMAT.build_request(embedding([1, 2]), None)
    with pytest.raises(Unfit, match="task"):
        FORMAT.build_request(completion(task="summarization", inputs="a"), None)


def test_a_schema():
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    expected = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert sent(completion(schema=schema, messages=[TURN]))["generationConfig"] == expected
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert sent(completion(messages=[TURN], response_format=wanted))["generationConfig"] == expected
    bare = sent(completion(messages=[TURN], response_format={"type": "json_object"}))
    assert bare["generationConfig"] == {"responseMimeType": "application/json"}


@pytest.mark.parametrize(("seed", "expected"), [(0, 0), (-5, -5), (2**31, 0), (2**40 + 3, 3), (-(2**63), 0)])
def test_a_seed_fits_into_32_bits(seed, expected):
    assert sent(completion(messages=[TURN], seed=seed))["generationConfig"]["seed"] == expected


# Answers


def test_an_answer():
    parts = [{"text": "Hm.", "thought": True}, {"text": "Ho"}, {"text": "la."}]
    body = reply(*parts, usageMetadata={"promptTokenCount": 5})
    assert read(200, body, {"content-type": "application/json; charset=UTF-8"}) == Answer(
        usage=Usage(5, 0),
        text="Hola.",
        finish_reason="stop",
        raw_finish="STOP",
        tool_calls=[],
        message={"role": "assistant", "content": "Hola."},
        model="m-1",
        request_id="r1",
    )


def test_the_signatures_come_back_where_they_belong():
    asking = [
        {"functionCall": {"id": "f1", "name": "find", "args": {"a": 1}}, "thoughtSignature": "S1"},
        {"functionCall": {"id": "f2", "name": "now"}},
    ]
    answer = read(200, reply({"text": "Busco."}, {"text": "", "thoughtSignature": "S0"}, *asking))
    assert isinstance(answer, Answer)
    assert answer.finish_reason == "tool_calls"
    assert answer.message["extra_content"] == {"google": {"thought_signature": "S0", "tool_calls": {"f1": "S1"}}}
    assert set(answer.message) == {"role", "content", "tool_calls", "extra_content"}
    stored = json.loads(json.dumps(answer.message))
    assert contents(TURN, stored)[1] == {
        "role": "model",
        "parts": [
            {"text": "Busco.", "thoughtSignature": "S0"},
            asking[0],
            {"functionCall": {"id": "f2", "name": "now", "args": {}}},
        ],
    }


def test_calls_without_ids_get_ones_that_no_other_turn_has():
    first = read(200, reply({"functionCall": {"name": "f"}}, {"functionCall": {"name": "g"}}))
    other = read(200, reply({"functionCall": {"name": "f"}}, responseId="r2"))
    assert [call["id"] for call in (*first.tool_calls, *other.tool_calls)] == ["call_r1_0", "call_r1_1", "call_r2_0"]
    (nameless,) = read(200, reply({"functionCall": {"name": "f"}}, responseId=None)).tool_calls
    assert nameless["id"] == "call_0"


@pytest.mark.parametrize(
    ("raw", "finish"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("CONTINUATION", "length"), ("SOMETHING_NEW", "stop"), (None, "stop")],
)
def test_finish_reasons(raw, finish):
    outcome = read(200, reply(finish=raw))
    assert (outcome.finish_reason, outcome.raw_finish) == (finish, raw)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        *[
            (reply({"text": "Half"}, finish=raw), K.CONTENT_FILTER, raw)
            for raw in ("SAFETY", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_NEW")
        ],
        *[
            (reply({"text": "Half"}, finish=raw), K.BAD_OUTPUT, raw)
            for raw in ("UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE", "MALFORMED_FUNCTION_CALL")
        ],
        (reply(finish="OTHER"), K.SERVER_ERROR, "OTHER"),
        (reply(finish="PUP_LIMITED_DISABLED"), K.PERMISSION, "PUP"),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, K.CONTENT_FILTER, "PROHIBITED_CONTENT"),
        ({"candidates": [], "promptFeedback": {"blockReason": "SAFETY"}}, K.CONTENT_FILTER, "SAFETY"),
        ({"usageMetadata": {"promptTokenCount": 3}}, K.EMPTY_OUTPUT, "candidates"),
        ({"candidates": []}, K.EMPTY_OUTPUT, "candidates"),
        ({"candidates": [{"finishReason": "STOP"}]}, K.EMPTY_OUTPUT, "without text"),
        ({"candidates": [7]}, K.BAD_OUTPUT, "no generated content"),
        ({}, K.BAD_OUTPUT, "no generated content"),
        ([], K.BAD_OUTPUT, "no generated content"),
        (reply({"functionCall": {"args": {}}}), K.BAD_OUTPUT, "no function"),
        (reply({"functionCall": None}), K.BAD_OUTPUT, "no function"),
        (reply({"functionCall": {"name": "f", "args": [1]}}), K.BAD_OUTPUT, "arguments"),
        ([{"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}], K.OVERLOADED, "Overloaded"),
        (b"<html><title>Bad</title>", K.SERVER_ERROR, "Bad"),
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
        ({}, Usage()),
        ({"promptTokenCount": 4}, Usage(4, 0)),
        ({"promptTokenCount": 4, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 2}, Usage(7, 2)),
        ({"promptTokenCount": 4, "candidatesTokenCount": 2, "thoughtsTokenCount": 5}, Usage(4, 7, None, 5)),
        ({"promptTokenCount": 4, "cachedContentTokenCount": 9}, Usage(4, 0, 4)),
        ({"promptTokenCount": "4"}, Usage()),
    ],
)
def test_usage(told, usage):
    assert read(200, reply(usageMetadata=told)).usage == usage


def quota(*ids: str) -> Any:
    return {"@type": "t/google.rpc.QuotaFailure", "violations": [{"quotaId": one} for one in ids]}


RETRY = {"@type": "t/google.rpc.RetryInfo", "retryDelay": "34.4s"}
MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
VAGUE = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("status", "message", "word", "details", "kind", "wait_s"),
    [
        (429, VAGUE, "RESOURCE_EXHAUSTED", [quota(MINUTE), RETRY], K.RATE_LIMIT, 34.4),
        (429, VAGUE, "RESOURCE_EXHAUSTED", [quota(MINUTE)], K.RATE_LIMIT, None),
        (429, VAGUE, "RESOURCE_EXHAUSTED", [], K.RATE_LIMIT, None),
        (429, VAGUE, "RESOURCE_EXHAUSTED", [quota(MINUTE, DAY), RETRY], K.QUOTA, None),
        (429, VAGUE, "RESOURCE_EXHAUSTED", [{"violations": 7}, 7, quota()], K.RATE_LIMIT, None),
        (402, "Your prepayment credits are depleted.", "RESOURCE_EXHAUSTED", [], K.QUOTA, None),
        (429, "Your prepayment credits are depleted.", "RESOURCE_EXHAUSTED", [], K.QUOTA, None),
        (429, "Your project has exceeded its spending cap.", "RESOURCE_EXHAUSTED", [], K.QUOTA, None),
        (400, "User location is not supported for the API use.", "FAILED_PRECONDITION", [], K.PERMISSION, None),
        (400, "API key expired.", "INVALID_ARGUMENT", [{"reason": "API_KEY_INVALID"}], K.AUTH, None),
        (401, "Request had invalid authentication credentials.", "UNAUTHENTICATED", [], K.AUTH, None),
        (403, "Blocked.", "PERMISSION_DENIED", [{"reason": "API_KEY_SERVICE_BLOCKED"}], K.PERMISSION, None),
        (400, 'Unknown name "user": Cannot find field.', "INVALID_ARGUMENT", [], K.BAD_REQUEST, None),
        (499, "The operation was cancelled.", "CANCELLED", [], K.SERVER_ERROR, None),
        (504, "Deadline expired.", "DEADLINE_EXCEEDED", [], K.TIMEOUT, None),
    ],
)
def test_errors(status, message, word, details, kind, wait_s):
    error = {"code": status, "message": message, "status": word, "details": details}
    for body in ({"error": error}, [{"error": error}]):
        outcome = read(status, body)
        assert (outcome.kind, outcome.wait_s) == (kind, wait_s)


@pytest.mark.parametrize(
    ("quotas", "of_model"),
    [
        ([DAY], True),
        ([MINUTE, DAY], True),
        (["GenerateRequestsPerDayPerProject"], False),
        (["GenerateRequestsPerDayPerProject", DAY], False),
        ([MINUTE], False),
    ],
)
def test_a_days_quota_may_be_that_of_one_model(quotas, of_model):
    error = {"code": 429, "message": VAGUE, "status": "RESOURCE_EXHAUSTED", "details": [quota(*quotas)]}
    assert read(429, {"error": error}).of_model is of_model


# Embeddings


def test_embeddings_in_the_order_of_the_inputs():
    body = {"embeddings": [{"values": [1, 0.5]}, {"values": [0.25, 2]}], "usageMetadata": {"promptTokenCount": 3}}
    outcome = read(200, body, call=embedding(["a", "b"]))
    assert outcome == Answer(usage=Usage(3, 0), embeddings=[[1.0, 0.5], [0.25, 2.0]])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"embeddings": []}, K.EMPTY_OUTPUT),
        ({"embeddings": [{"values": [1.0]}]}, K.BAD_OUTPUT),
        ({"embeddings": [{"values": [1.0]}, {}]}, K.BAD_OUTPUT),
        ({"embeddings": [{"values": [1.0]}, 7]}, K.BAD_OUTPUT),
        ({}, K.BAD_OUTPUT),
    ],
)
def test_broken_embeddings(body, kind):
    assert read(200, body, call=embedding(["a", "b"])).kind is kind


# Streams, which are never asked for


def stream(*chunks: Any) -> bytes:
    return "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks).encode()


def chunk(text: str, **rest: Any) -> Any:
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **rest}]}


def test_a_stream_is_put_together():
    body = stream(
        {**chunk("Ho"), "responseId": "r1", "modelVersion": "m-1", "usageMetadata": {"promptTokenCount": 3}},
        chunk("la"),
        {"candidates": [{"finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 4}},
    )
    outcome = read(200, body, {"content-type": "text/event-stream"})
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish_reason, outcome.request_id, outcome.model) == ("Hola", "stop", "r1", "m-1")
    assert outcome.usage == Usage(4, 0)


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([chunk("Ho")], K.SERVER_ERROR),
        ([chunk("Ho"), {"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}}], K.RATE_LIMIT),
        ([chunk("Ho"), [{"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}]], K.OVERLOADED),
        ([{"promptFeedback": {"blockReason": "SAFETY"}}], K.CONTENT_FILTER),
        ([chunk("", finishReason="STOP")], K.EMPTY_OUTPUT),
    ],
)
def test_a_stream_that_fails_after_its_status(chunks, kind):
    outcome = read(200, stream(*chunks), {"content-type": "text/event-stream"})
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.http_status) == (kind, 200)
