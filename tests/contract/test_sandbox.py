"""The sandbox over real sockets: every model does what its line in the table says."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import math
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import jsonschema_rs
import openai
import pytest

from tests.support.processes import Processes
from worker.providers.sandbox import MODELS, Sandbox, SandboxThread

Json = Any
_MISBEHAVING = {
    *("rate-limited", "always-rate-limited", "fail-503-twice", "fail-500-once", "fail-400", "fail-401", "quota"),
    *("context-too-long", "silent", "cut", "reset", "html", "invalid-utf8", "big", "flaky-30"),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """One sandbox for all: nothing that one request does is seen by another, unless they are the same."""
    sandbox = SandboxThread()
    yield sandbox.start()
    sandbox.stop()


class Client:
    """One kept connection, as plain as can be."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def close(self) -> None:
        self._http.close()

    def raw(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        self._http.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = self._http.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def post(self, path: str, body: Json, **headers: str) -> tuple[int, dict[str, str], Json]:
        status, answered, content = self.raw("POST", path, json.dumps(body).encode(), **headers)
        return status, answered, json.loads(content)

    def chat(self, model: str, text: str = "Hello", **fields: Json) -> tuple[int, dict[str, str], Json]:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"model": model, "messages": messages, **fields})

    def said(self, model: str, text: str = "Hello", **fields: Json) -> Json:
        """The one choice of a good answer."""
        status, _, body = self.chat(model, text, **fields)
        assert status == 200, body
        (choice,) = body["choices"]
        return choice


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with closing(Client(port)) as opened:
        yield opened


def test_echo_names_itself_repeats_the_last_user_and_counts_tokens(client: Client) -> None:
    status, headers, body = client.chat("echo", "What is a queue?")
    assert status == 200
    assert headers["x-request-id"].startswith("req_sandbox_")
    assert headers["content-type"] == "application/json"
    assert (body["object"], body["model"]) == ("chat.completion", "echo")
    assert body["id"].startswith("chatcmpl-sandbox-")
    (choice,) = body["choices"]
    text = choice["message"]["content"]
    assert text.startswith("[sandbox] ")
    assert text.endswith("What is a queue?")
    assert choice["finish_reason"] == "stop"
    prompt, said = math.ceil(len("Be brief.What is a queue?") / 4), math.ceil(len(text) / 4)
    assert body["usage"] == {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def test_parts_of_a_message_are_read(client: Client) -> None:
    parts = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "text", "text": "two"},
    ]
    body = {"model": "echo", "messages": [{"role": "user", "content": parts}]}
    _, _, answer = client.post("/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["content"].endswith("one\ntwo")


@pytest.mark.parametrize("model", sorted(set(MODELS) - _MISBEHAVING - {"slow-2s", "embed"}))
def test_the_same_request_has_the_same_answer_to_the_byte(port: int, model: str) -> None:
    request = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    with closing(Client(port)) as one, closing(Client(port)) as two:
        assert one.raw("POST", "/v1/chat/completions", request) == two.raw("POST", "/v1/chat/completions", request)


def test_max_tokens_cut_the_answer_where_they_are_asked(client: Client) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        choice = client.said("echo", "A long story. " * 20, **{field: 5})
        assert (len(choice["message"]["content"]), choice["finish_reason"]) == (20, "length")
    assert client.said("echo", max_tokens=1000)["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("model", "status", "failures", "code"),
    [
        ("rate-limited", 429, 2, "rate_limit_exceeded"),
        ("fail-503-twice", 503, 2, "server_is_overloaded"),
        ("fail-500-once", 500, 1, None),
        ("fail-529-twice", 529, 2, None),
        ("fail-408-once", 408, 1, None),
    ],
)
def test_some_fail_a_number_of_times_and_then_answer(
    client: Client, model: str, status: int, failures: int, code: str | None
) -> None:
    for _ in range(failures):
        got, headers, body = client.chat(model, "count me")
        assert (got, body["error"]["code"]) == (status, code)
        assert body["error"]["message"].startswith("[sandbox] ")
        assert headers.get("retry-after") == ("1" if status == 429 else None)
    assert client.said(model, "count me")["finish_reason"] == "stop"
    assert client.chat(model, "another")[0] == status, "another request has a count of its own"


def test_tries_are_counted_by_job_where_one_is_named(client: Client) -> None:
    def tried(job: str, text: str) -> int:
        body = {"model": "fail-500-once", "messages": [{"role": "user", "content": text}]}
        return client.post("/v1/chat/completions", body, x_completar_job=job)[0]

    assert [tried("job_1", "a"), tried("job_2", "a"), tried("job_1", "b"), tried("job_2", "a")] == [500, 500, 200, 200]


@pytest.mark.parametrize(
    ("model", "status", "kind", "code"),
    [
        ("always-rate-limited", 429, "requests", "rate_limit_exceeded"),
        ("quota", 429, "insufficient_quota", "insufficient_quota"),
        ("fail-400", 400, "invalid_request_error", None),
        ("fail-401", 401, "invalid_request_error", "invalid_api_key"),
        ("fail-418", 418, "invalid_request_error", None),
        ("context-too-long", 400, "invalid_request_error", "context_length_exceeded"),
        ("gpt-6", 404, "invalid_request_error", "model_not_found"),
        ("embed", 404, "invalid_request_error", "model_not_found"),
        ("slow-", 404, "invalid_request_error", "model_not_found"),
        ("flaky-101", 404, "invalid_request_error", "model_not_found"),
        ("fail-200", 404, "invalid_request_error", "model_not_found"),
    ],
)
def test_some_fail_every_time(client: Client, model: str, status: int, kind: str, code: str | None) -> None:
    for _ in range(4):
        got, _, body = client.chat(model)
        assert (got, body["error"]["type"], body["error"]["code"]) == (status, kind, code)
        assert body["error"]["message"].startswith("[sandbox] ")


def test_flaky_fails_about_its_share_once_each(client: Client) -> None:
    first = [client.chat("flaky-30", str(i))[0] for i in range(300)]
    assert set(first) == {200, 503}
    assert 60 <= first.count(503) <= 120
    assert {client.chat("flaky-30", str(i))[0] for i in range(300)} == {200}
    assert {client.chat("flaky-0", str(i))[0] for i in range(20)} == {200}
    assert {client.chat("flaky-100", str(i))[0] for i in range(20)} == {503}


def test_slow_answers_late_and_holds_up_nobody_else(port: int) -> None:
    with closing(Client(port)) as slow, closing(Client(port)) as quick:
        body = json.dumps({"model": "slow-60s", "messages": [{"role": "user", "content": "Hi"}]})
        slow._http.request("POST", "/v1/chat/completions", body)
        assert quick.said("slow-20ms")["finish_reason"] == "stop"
        assert slow._http.sock is not None
        slow._http.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            slow._http.getresponse()


def test_silent_takes_the_request_and_says_nothing(client: Client) -> None:
    client._http.timeout = 0.2
    with pytest.raises(TimeoutError):
        client.chat("silent")


def test_cut_ends_in_the_middle_of_the_body(client: Client) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.chat("cut")
    assert caught.value.partial.startswith(b'{"id":"chatcmpl-sandbox-')


def test_reset_ends_before_the_first_byte(client: Client) -> None:
    with pytest.raises(ConnectionResetError):
        client.chat("reset")


def test_bodies_that_are_no_answer(client: Client) -> None:
    def content(model: str) -> tuple[str, bytes]:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode()
        status, headers, answer = client.raw("POST", "/v1/chat/completions", body)
        assert status == 200
        return headers["content-type"], answer

    kind, page = content("html")
    assert kind.startswith("text/html")
    assert page.startswith(b"<!doctype html>")
    _, broken = content("invalid-utf8")
    with pytest.raises(UnicodeDecodeError):
        broken.decode()
    _, big = content("big")
    assert len(big) == 50_000_000
    assert json.loads(big)["choices"][0]["message"]["content"].startswith("[sandbox] ")
    assert client.said("echo")["finish_reason"] == "stop", "the connection is still good"


def test_texts_that_are_hard_to_keep(client: Client) -> None:
    empty = client.said("empty")
    assert (empty["message"]["content"], empty["finish_reason"]) == ("", "stop")
    assert "\0" in client.said("nul")["message"]["content"]
    refused = client.said("refuse")
    assert refused["message"]["content"] is None
    assert refused["message"]["refusal"].startswith("[sandbox] ")
    filtered = client.said("filtered")
    assert (filtered["message"]["content"], filtered["finish_reason"]) == ("", "content_filter")
    cut = client.said("length", "Tell me everything you know about queues.")
    assert cut["finish_reason"] == "length"
    assert cut["message"]["content"].startswith("[sandbox] You")
    with pytest.raises(json.JSONDecodeError):
        json.loads(client.said("json-broken")["message"]["content"])


_SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"enum": ["yes", "no"]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "reasons": {"type": "array", "items": {"$ref": "#/$defs/reason"}, "minItems": 3},
        "sure": {"type": "boolean"},
        "votes": {"type": "integer", "minimum": 10, "maximum": 12},
    },
    "required": ["answer", "confidence", "reasons", "sure", "votes"],
    "additionalProperties": False,
    "$defs": {"reason": {"type": "string", "maxLength": 12}},
}


@pytest.mark.parametrize("model", ["json", "echo"])
def test_a_schema_is_met(client: Client, model: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "vote", "strict": True, "schema": _SCHEMA}}
    texts = {client.said(model, str(i), response_format=form)["message"]["content"] for i in range(20)}
    for text in texts:
        jsonschema_rs.validate(_SCHEMA, json.loads(text))
    assert len(texts) > 1, "what is asked decides the answer"


def test_json_without_a_schema_is_an_object_that_names_the_sandbox(client: Client) -> None:
    assert json.loads(client.said("json", "Hi")["message"]["content"]) == {"sandbox": True, "you_wrote": "Hi"}
    plain = client.said("echo", "Hi", response_format={"type": "json_object"})
    assert json.loads(plain["message"]["content"])["sandbox"] is True


def test_a_schema_that_is_none_is_refused_and_nothing_is_fetched(client: Client) -> None:
    form: Json = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}
    status, _, body = client.chat("json", response_format=form)
    assert (status, body["error"]["param"]) == (400, "response_format")
    with closing(socket.create_server(("127.0.0.1", 0))) as trap:
        away = f"http://127.0.0.1:{trap.getsockname()[1]}/schema"
        inner = {"$id": away, "$schema": away, "$ref": away}
        form["json_schema"]["schema"] = {"$schema": away, "properties": {"a": inner}, "required": ["a"]}
        assert client.chat("json", response_format=form)[0] == 200
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()


_TOOLS = [
    {"type": "function", "function": {"name": "first", "parameters": _SCHEMA}},
    {"type": "function", "function": {"name": "second"}},
]


def test_tools_are_called_until_their_result_comes(client: Client) -> None:
    choice = client.said("tools", tools=_TOOLS)
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert call["function"]["name"] == "first"
    jsonschema_rs.validate(_SCHEMA, json.loads(call["function"]["arguments"]))
    chosen = client.said("tools", tools=_TOOLS, tool_choice={"type": "function", "function": {"name": "second"}})
    assert chosen["message"]["tool_calls"][0]["function"] == {"name": "second", "arguments": "{}"}
    assert client.said("tools", tools=_TOOLS, tool_choice="none")["finish_reason"] == "stop"
    assert client.said("tools")["finish_reason"] == "stop"
    messages = [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": "42"}]
    _, _, after = client.post("/v1/chat/completions", {"model": "tools", "messages": messages, "tools": _TOOLS})
    assert after["choices"][0]["finish_reason"] == "stop"


def test_embeddings_are_unit_vectors_that_the_text_alone_decides(client: Client) -> None:
    _, _, body = client.post("/v1/embeddings", {"model": "embed", "input": ["one", "two", "one"]})
    one, two, again = (each["embedding"] for each in body["data"])
    assert [each["index"] for each in body["data"]] == [0, 1, 2]
    assert (len(one), one, one != two) == (8, again, True)
    assert math.hypot(*one) == pytest.approx(1)
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    _, _, alone = client.post("/v1/embeddings", {"model": "embed", "input": "one", "encoding_format": "base64"})
    packed = base64.b64decode(alone["data"][0]["embedding"])
    assert struct.unpack("<8f", packed) == pytest.approx(one)
    _, _, wide = client.post("/v1/embeddings", {"model": "embed", "input": [1, 2, 3], "dimensions": 256})
    assert [len(each["embedding"]) for each in wide["data"]] == [256]
    assert client.post("/v1/embeddings", {"model": "fail-500-once", "input": "x"})[0] == 500


@pytest.mark.parametrize("model", sorted({*MODELS, "slow-5ms"} - {"silent", "cut", "reset", "slow-2s"}))
def test_every_model_takes_embeddings_too(client: Client, model: str) -> None:
    body = json.dumps({"model": model, "input": ["one", [1, 2]]}).encode()
    status, _, content = client.raw("POST", "/v1/embeddings", body)
    if status != 200:
        assert json.loads(content)["error"]["message"].startswith("[sandbox] ")
    elif model not in ("html", "invalid-utf8"):
        assert len(json.loads(content)["data"]) == 2


def test_the_models_are_listed(client: Client) -> None:
    status, _, content = client.raw("GET", "/v1/models")
    assert status == 200
    assert [each["id"] for each in json.loads(content)["data"]] == list(MODELS)


def test_the_official_client_understands_it(port: int) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
        answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "Hi"}])
        assert (answer.choices[0].message.content or "").startswith("[sandbox] ")
        assert len(client.embeddings.create(model="embed", input="Hi").data[0].embedding) == 8
        assert [model.id for model in client.models.list()] == list(MODELS)
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(model="quota", messages=[{"role": "user", "content": "Hi"}])
        assert limited.value.code == "insufficient_quota"


_DEEP = (
    b'{"model": "json", "messages": [{}], "response_format": {"type": "json_schema", "json_schema": {"schema": '
    + b'{"items":' * 400
    + b"{}"
    + b"}" * 400
    + b"}}}"
)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b"{}", 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/chat/completions", _DEEP, 200),
        ("POST", "/v1/chat/completions", b'{"model": "echo"}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "echo", "messages": []}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "echo", "messages": ["Hi"]}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "echo", "messages": [{}], "stream": true}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "echo", "messages": [{}]}', 200),
        ("POST", "/v1/chat/completions", b'{"model": "\\ud800", "messages": [{}]}', 404),
        (
            "POST",
            "/v1/chat/completions",
            b'{"model": "flaky-0", "messages": [{"role": "user", "content": "\\ud800"}]}',
            200,
        ),
        ("POST", "/v1/embeddings", b'{"model": "embed"}', 400),
        ("POST", "/v1/embeddings", b'{"model": "embed", "input": [null]}', 400),
        ("POST", "/v1/embeddings", b'{"model": "embed", "input": [[]]}', 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/models", b"", 405),
        ("POST", "/v2/chat", b"{}", 404),
    ],
)
def test_nonsense_is_answered_in_openais_shape(
    client: Client, method: str, path: str, body: bytes, status: int
) -> None:
    got, _, content = client.raw(method, path, body)
    assert got == status
    answer = json.loads(content)
    assert "choices" in answer if status == 200 else answer["error"]["message"].startswith("[sandbox] ")


def _exchange(port: int, *pieces: bytes) -> bytes:
    """Everything that comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        return b"".join(iter(lambda: connection.recv(65536), b""))


_BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}).encode()
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(_BODY)


def test_requests_one_behind_the_other_are_answered_in_turn(port: int) -> None:
    slow = _BODY.replace(b"echo", b"slow-20ms")
    first = _HEAD.replace(b"%d" % len(_BODY), b"%d" % len(slow)) + b"\r\n" + slow
    came = _exchange(port, first + _HEAD + b"\r\n" + _BODY + _HEAD + b"Connection: close\r\n\r\n" + _BODY)
    assert came.count(b"HTTP/1.1 200 OK") == 3
    assert came.index(b'"slow-20ms"') < came.index(b'"echo"')


def test_a_request_in_small_pieces_is_put_together(port: int) -> None:
    whole = _HEAD + b"Connection: close\r\n\r\n" + _BODY
    assert b"HTTP/1.1 200 OK" in _exchange(port, *(whole[i : i + 7] for i in range(0, len(whole), 7)))


def test_a_client_that_waits_for_leave_gets_it(port: int) -> None:
    came = _exchange(port, _HEAD + b"Expect: 100-continue\r\nConnection: close\r\n\r\n", _BODY)
    assert came.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /v1/models HTTP/2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (64 << 10), 431),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 200),
    ],
)
def test_what_is_not_a_request_it_takes_ends_the_connection(port: int, sent: bytes, status: int) -> None:
    assert _exchange(port, sent).startswith(b"HTTP/1.1 %d " % status)


def test_latency_is_drawn_from_its_range() -> None:
    async def took() -> list[float]:
        loop = asyncio.get_running_loop()
        sandbox = Sandbox(latency_s=(0.05, 0.06))
        port = await sandbox.start()
        waits = []
        for i in range(3):
            body = _BODY.replace(b"Hi", b"H%d" % i)
            began = loop.time()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_HEAD + b"Connection: close\r\n\r\n" + body)
            await reader.read()
            waits.append(loop.time() - began)
            writer.close()
            await writer.wait_closed()
        await sandbox.aclose()
        return waits

    assert all(0.05 <= wait < 1 for wait in asyncio.run(took()))


def test_closing_hangs_up_on_everybody_and_the_port_is_free_again() -> None:
    sandbox = SandboxThread()
    port = sandbox.start()
    assert sandbox.base_url == f"http://127.0.0.1:{port}/v1"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(_HEAD.replace(b"echo", b"slow-60s") + b"\r\n")
        sandbox.stop()
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    sandbox.stop()
    again = SandboxThread()
    assert again.start(port) == port
    with pytest.raises(OSError, match="in use"):
        SandboxThread().start(port)
    again.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_it_runs_alone_until_it_is_told_to_stop(processes: Processes) -> None:
    process = processes.python("sandbox", "-m", "worker.providers.sandbox", "--port", "0")
    port = int(process.wait_for_line(r"listening on http://127\.0\.0\.1:(\d+)/v1").group(1))
    with closing(Client(port)) as client:
        assert client.said("echo")["finish_reason"] == "stop"
        second = processes.python("second", "-m", "worker.providers.sandbox", "--port", str(port))
        assert second.wait() == 1
        assert second.output.startswith("[sandbox] ")
        assert "Traceback" not in second.output
        assert process.stop() == 0
