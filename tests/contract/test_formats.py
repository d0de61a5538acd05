"""What every wire format keeps to, whatever provider it speaks to. A new one joins by being in FORMATS."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.payloads import case_id, load
from worker.domain.answer import MESSAGE_CUT, Answer, Call, Failure
from worker.providers.format import USER_AGENT, Unfit
from worker.providers.formats import FORMATS
from worker.providers.waits import MAX_WAIT_S

BASE = "https://provider.example/v1"
KEY = "sk-ant-api03-Zk9qTVeryLong_secret-0123456789"
TURN = {"role": "user", "content": "Hola"}
CHAT = {"messages": [TURN]}
WORDS = {"input": "a"}

# The whole body of the least that can be asked, by the end of its address. What the caller did not set stands in it
# only where the API demands it. None: the format has no words for it.
Least = tuple[str, dict[str, Any]] | None
COMPLETION: dict[str, Least] = {
    "openai": ("/chat/completions", {"model": "m", **CHAT}),
    "openai-responses": ("/responses", {"model": "m", "input": [TURN]}),
    "anthropic": ("/messages", {"model": "m", "max_tokens": 8192, **CHAT}),
    "gemini": ("/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hola"}]}]}),
    "hf-openai": ("/chat/completions", {"model": "m", **CHAT}),
    "hf-text-generation": ("/", {"inputs": [TURN]}),
    "hf-text2text-generation": ("/", {"inputs": "Hola"}),
    "hf-handler": ("/", {"inputs": "Hola"}),
    "hf-inference": ("/models/m", {"inputs": "Hola", "parameters": {"return_full_text": False}}),
    "tei": None,
}
EMBEDDING: dict[str, Least] = {
    "openai": ("/embeddings", {"model": "m", **WORDS}),
    "openai-responses": ("/embeddings", {"model": "m", **WORDS}),
    "anthropic": None,
    "gemini": (
        "/models/m:batchEmbedContents",
        {"requests": [{"model": "models/m", "content": {"parts": [{"text": "a"}]}}]},
    ),
    "hf-openai": ("/embeddings", {"model": "m", **WORDS}),
    "hf-text-generation": None,
    "hf-text2text-generation": None,
    "hf-handler": None,
    "hf-inference": ("/models/m/pipeline/feature-extraction", {"inputs": "a"}),
    "tei": ("/embed", {"inputs": "a"}),
}
LEAST = [
    pytest.param(name, Call(kind, BASE, "m", asked), least, id=f"{name}-{kind}")
    for kind, asked, table in (("completion", CHAT, COMPLETION), ("embedding", WORDS, EMBEDDING))
    for name, least in table.items()
]
CONVERSING = [name for name, least in COMPLETION.items() if least is not None]
# Those that can be sent anything a chat may hold: images, tools, turns of tools.
NATIVE = ["openai", "openai-responses", "anthropic", "gemini", "hf-openai"]

each_format = pytest.mark.parametrize("name", FORMATS)
each_least = pytest.mark.parametrize(("name", "call", "least"), LEAST)


def test_every_format_is_in_the_tables():
    assert set(COMPLETION) == set(EMBEDDING) == set(FORMATS)
    assert {name: form.name for name, form in FORMATS.items()} == {name: name for name in FORMATS}


# Requests


@each_least
def test_nothing_is_sent_that_the_caller_did_not_set(name, call, least):
    if least is None:
        with pytest.raises(Unfit, match=f"format {name} "):
            FORMATS[name].build_request(call, KEY)
        return
    request = FORMATS[name].build_request(call, KEY)
    path, body = least
    assert request.method == "POST"
    assert str(request.url) == BASE + path
    assert json.loads(request.read()) == body


@each_least
def test_the_headers_are_whole_and_exact(name, call, least):
    if least is None:
        return
    request = FORMATS[name].build_request(call, KEY)
    lower = [header.decode().lower() for header, _ in request.headers.raw]
    assert len(set(lower)) == len(lower)
    exact = {
        "host": "provider.example",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": USER_AGENT,
        "content-length": str(len(request.read())),
    }
    assert {header: request.headers[header] for header in exact} == exact


@each_least
def test_the_key_stands_in_one_header_and_nowhere_else(name, call, least):
    if least is None:
        return
    request = FORMATS[name].build_request(call, KEY)
    bare = FORMATS[name].build_request(call, None)
    assert KEY not in str(request.url)
    assert KEY.encode() not in request.read()
    assert [KEY in value for value in request.headers.values()].count(True) == 1
    assert (bare.url, bare.read()) == (request.url, request.read())
    assert len(bare.headers) == len(request.headers) - 1


@each_least
def test_the_same_call_is_the_same_bytes(name, call, least):
    if least is None:
        return
    first = FORMATS[name].build_request(call, KEY)
    first.headers["x-later"] = "changed"
    second = FORMATS[name].build_request(copy.deepcopy(call), KEY)
    assert "x-later" not in second.headers
    assert second.read() == first.read()


@pytest.mark.parametrize("name", CONVERSING)
def test_a_slash_at_the_end_of_the_base_is_no_part_of_it(name):
    calls = [Call("completion", url, "m", CHAT) for url in (BASE, BASE + "/")]
    assert len({FORMATS[name].build_request(call, None).url for call in calls}) == 1


ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
URL_TEXT = st.sampled_from(["https://h/a.png", "data:image/png;base64,AAAA", "data:,%41\ud800", "data:;base64,", ""])
PART = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, ANY_TEXT),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, URL_TEXT),
    st.builds(lambda kind, value: {"type": kind, kind: value}, st.sampled_from(["file", "input_audio", "odd"]), VALUE),
    VALUE,
)
TOOL_CALL = st.one_of(
    st.builds(
        lambda identity, name, arguments: {
            "id": identity,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        },
        ANY_TEXT,
        ANY_TEXT,
        st.sampled_from(["{}", '{"a": 1}', "[1]", "{broken", ""]) | VALUE,
    ),
    VALUE,
)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
        optional={
            "content": ANY_TEXT | st.lists(PART, max_size=3) | VALUE,
            "tool_calls": st.lists(TOOL_CALL, max_size=3) | VALUE,
            "tool_call_id": ANY_TEXT,
            "refusal": VALUE,
            "extra_content": st.just({"google": {"thought_signature": "s", "tool_calls": {"": "s"}}}) | VALUE,
        },
    ),
    VALUE,
)
SCHEMA_WORDS = ["type", "properties", "items", "anyOf", "oneOf", "$defs", "format", "minItems", "description"]
SCHEMA = st.recursive(
    VALUE,
    lambda inner: st.dictionaries(
        st.sampled_from(SCHEMA_WORDS),
        inner | st.dictionaries(ANY_TEXT, inner, max_size=2) | st.lists(inner, max_size=2),
        max_size=4,
    ),
    max_leaves=6,
)
FUNCTION = st.builds(lambda function: {"type": "function", "function": function}, st.dictionaries(ANY_TEXT, VALUE))
# Parameters are of the types the API lets through; what stands inside messages, tools and schemas is the callers' own.
INPUT = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(MESSAGE, max_size=4) | VALUE,
        "prompt": ANY_TEXT,
        "temperature": st.floats(0, 2) | st.integers(0, 2),
        "top_p": st.floats(0, 1),
        "max_tokens": st.integers(1, 10_000_000),
        "stop": ANY_TEXT | st.lists(ANY_TEXT, max_size=3),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "tools": st.lists(FUNCTION | VALUE, max_size=2),
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | VALUE,
        "parallel_tool_calls": st.booleans(),
        "response_format": st.builds(lambda s: {"type": "json_schema", "json_schema": {"schema": s}}, SCHEMA) | VALUE,
    },
)


@each_format
@settings(max_examples=60)
@given(asked=INPUT, model=ANY_TEXT, schema=st.none() | st.dictionaries(ANY_TEXT, SCHEMA, max_size=3))
@example(asked={"messages": [{"role": "user", "content": "\ud800"}]}, model="\ud800", schema=None)
def test_any_conversation_is_a_request_or_unfit(name, asked, model, schema):
    call = Call("completion", BASE, model, asked, schema)
    before = copy.deepcopy(call)
    with contextlib.suppress(Unfit):
        request = FORMATS[name].build_request(call, KEY)
        json.loads(request.read().decode("ascii"))
        assert str(request.url).startswith(BASE + "/")
    assert call == before  # the job's own input is left as it was


# Replies

PROVIDERS = ["anthropic", "gemini", "openai_responses", "openai", "openai_embeddings", "hf_endpoint", "tei", "tgi"]
WITNESSED = [case for provider in PROVIDERS for case in load(provider)]
BODIES = [case["body"] for case in WITNESSED]
NAMES = sorted({name for case in WITNESSED for name in case["headers"]})
STATUSES = st.sampled_from([200, 201, 204, 301, 400, 401, 404, 413, 429, 500, 503, 529]) | st.integers(-1, 1000)
HEADERS = st.dictionaries(st.sampled_from(NAMES), ANY_TEXT | st.sampled_from(["text/event-stream", "0", "true"]))


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A witnessed reply with one value in it replaced by anything, in one piece or as the events of a stream."""
    body = draw(st.sampled_from(BODIES))
    if isinstance(body, str):
        lines = body.splitlines(keepends=True)
        place = draw(st.integers(0, max(0, len(lines) - 1)))
        data = json.dumps(draw(VALUE))
        return "".join([*lines[:place], f"data: {data}\n", *lines[place + 1 :]]).encode()
    value = copy.deepcopy(body)
    place: Any = value
    while place:
        name = draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
        if not isinstance(place[name], dict | list) or not place[name] or draw(st.booleans()):
            place[name] = draw(VALUE)
            break
        place = place[name]
    return json.dumps(value).encode()


@each_format
@settings(max_examples=80)
@given(
    kind=st.sampled_from(["completion", "embedding"]),
    schema=st.none() | st.just({}),
    status=STATUSES,
    headers=HEADERS,
    body=st.binary() | VALUE.map(lambda value: json.dumps(value).encode()) | mutants() | mutants(),
)
def test_any_reply_is_an_outcome(name, kind, schema, status, headers, body):
    asked = {"input": ["a", "b"]} if kind == "embedding" else {**CHAT, "stop": "\n"}
    outcome = FORMATS[name].read_response(Call(kind, BASE, "m", asked, schema), status, headers, body)
    check(outcome, status)


def check(outcome: Answer | Failure, status: int) -> None:
    json.dumps(asdict(outcome), ensure_ascii=False, allow_nan=False).encode()  # fit to be stored
    if isinstance(outcome, Answer):
        assert 200 <= status < 300
        assert (outcome.embeddings is None) != (outcome.message is None)
        return
    assert 0 < len(outcome.message) <= MESSAGE_CUT
    assert outcome.message.isprintable()
    assert outcome.http_status == status
    assert (outcome.wait_s is None) == (outcome.wait_from is None)
    assert outcome.wait_s is None or 0 < outcome.wait_s <= MAX_WAIT_S


KEYS = [KEY, "sk-proj-abcdefghijklmnop", "AIzaSyA1234567890abcdefghijklmnopqrstuv", "hf_abcdefghijklmnopqrstuvwxyz"]


@each_format
@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("key", KEYS)
def test_a_key_in_a_reply_is_in_no_failure(name, status, key):
    told = f"Incorrect API key provided: {key}. Your header was Authorization: Bearer {key}"
    bodies = [
        json.dumps({"error": {"message": told, "type": key, "code": key}}),
        json.dumps([{"error": {"code": 401, "message": told, "status": "UNAUTHENTICATED"}}]),
        json.dumps({"error": told}),
        json.dumps({"detail": [{"loc": ["header"], "msg": told}]}),
        f"<html><title>{told}</title></html>",
        told,
        f"event: error\ndata: {json.dumps({'type': 'error', 'error': {'message': told}})}\n\n",
    ]
    for body in bodies:
        call = Call("completion", BASE, "m", CHAT)
        outcome = FORMATS[name].read_response(call, status, {"content-type": "text/plain"}, body.encode())
        if isinstance(outcome, Failure):
            assert key not in outcome.message
            assert key not in (outcome.code or "")
        else:
            assert status == 200  # an endpoint of one's own may answer with any JSON


# From one provider to the next

TOOL = {"role": "tool", "tool_call_id": "", "content": '{"found": 1}'}
ASKING = [case for case in WITNESSED if case["expected"].get("tool_calls")]


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("case", ASKING, ids=case_id)
def test_what_one_provider_said_can_be_told_to_any_other(name, case):
    speaker = {"anthropic": "anthropic", "gemini": "gemini", "openai_responses": "openai-responses"}
    asked = Call("completion", BASE, "m", CHAT)
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    answer = FORMATS[speaker.get(case["provider"], "openai")].read_response(asked, 200, case["headers"], body.encode())
    assert isinstance(answer, Answer)
    turn = json.loads(json.dumps(answer.message))
    results = [{**TOOL, "tool_call_id": call["id"]} for call in answer.tool_calls]
    request = FORMATS[name].build_request(Call("completion", BASE, "m", {"messages": [TURN, turn, *results]}), None)
    sent = request.read().decode()
    assert "extra_content" not in sent
    for call in answer.tool_calls:
        assert call["name"] in sent
        assert sent.count(call["id"]) >= 2  # the call and its result
