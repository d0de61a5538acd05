"""Bad requests, on every face: a 4xx that names the field and a remedy, repeats nothing, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from api.app import OPERATIONS
from api.problems import PROBLEM_TYPE
from tests.support.web import Web, web
from worker.store import views
from worker.store.views import Filter

Json = Any
CANARY = "canary-7f3a"
LIMIT = 100_000
MANY = b"{" + b",".join(b'"%x":1' % n for n in range(9_999)) + b"%s}"
OK = {"input": {"prompt": "hi"}}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    with web(sqlite_url, tmp_path, COMPLETAR_MAX_BODY_BYTES=str(LIMIT)) as made:
        yield made


@pytest.fixture
def nobody_waits(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    with web(sqlite_url, tmp_path, COMPLETAR_WAITERS="0") as made:
        yield made


def _deep(levels: int) -> Json:
    value: Json = 1
    for _ in range(levels):
        value = [value]
    return value


def _stored(site: Web) -> int:
    with site.deps.database.read() as conn:
        project = site.new_key()[0].project_id
        return len(views.listed(conn, project, Filter(limit=100))[0])


def _is_problem(answer: TestResponse, status: int) -> Json:
    assert answer.status_code == status, answer.get_data(as_text=True)
    assert answer.content_type == f"{PROBLEM_TYPE}; charset=utf-8"  # Windows PowerShell 5.1 must be told
    problem = answer.json
    assert isinstance(problem, dict)
    assert problem["status"] == status
    assert problem["type"].startswith("/docs#")
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert CANARY not in answer.get_data(as_text=True)
    return problem


BODIES: list[tuple[str, Json, str]] = [
    ("no input", {}, "input"),
    ("input of another type", {"input": CANARY}, "input"),
    ("neither messages nor prompt", {"input": {}}, "input.messages"),
    ("both", {"input": {"prompt": CANARY, "messages": [{"role": "user", "content": "x"}]}}, "input.prompt"),
    ("no messages", {"input": {"messages": []}}, "input.messages"),
    ("too many messages", {"input": {"messages": [{"role": "user", "content": ""}] * 2001}}, "input.messages"),
    ("unknown role", {"input": {"messages": [{"role": CANARY, "content": "x"}]}}, "input.messages[0].role"),
    ("no role", {"input": {"messages": [{"content": CANARY}]}}, "input.messages[0].role"),
    ("no content", {"input": {"messages": [{"role": "user"}]}}, "input.messages[0].content"),
    ("content of another type", {"input": {"messages": [{"role": "user", "content": 3}]}}, "input.messages[0].content"),
    (
        "unknown part",
        {"input": {"messages": [{"role": "user", "content": [{"type": CANARY}]}]}},
        "input.messages[0].content[0].type",
    ),
    (
        "unknown field of a message",
        {"input": {"messages": [{"role": "user", "content": "x", "contents": CANARY}]}},
        "input.messages[0].contents",
    ),
    (
        "a tool's turn without its call",
        {"input": {"messages": [{"role": "tool", "content": "x"}]}},
        "input.messages[0].tool_call_id",
    ),
    ("temperature too high", {"input": {"prompt": "x", "temperature": 2.5}}, "input.temperature"),
    ("temperature as text", {"input": {"prompt": "x", "temperature": "1"}}, "input.temperature"),
    ("a whole number with a fraction", {"input": {"prompt": "x", "max_tokens": 1.5}}, "input.max_tokens"),
    ("no tokens", {"input": {"prompt": "x", "max_tokens": 0}}, "input.max_tokens"),
    ("several answers", {"input": {"prompt": "x", "n": 2}}, "input.n"),
    ("true is no number", {"input": {"prompt": "x", "seed": True}}, "input.seed"),
    ("a tool choice", {"input": {"prompt": "x", "tool_choice": 1}}, "input.tool_choice"),
    ("streaming", {"input": {"prompt": "x", "stream": True}}, "input.stream"),
    ("unknown field", {**OK, "modle": CANARY}, "modle"),
    ("a webhook that is no address", {**OK, "webhook": {"url": CANARY}}, "webhook.url"),
    ("model and models", {**OK, "model": "default", "models": ["default"]}, "models"),
    ("no models", {**OK, "models": []}, "models"),
    ("model of another type", {**OK, "model": 3}, "model"),
    ("a model with a NUL", {**OK, "model": "stub/\0"}, "model"),
    ("a model with a lone surrogate", {**OK, "model": "stub/\ud800"}, "model"),
    ("a long model", {**OK, "model": "stub/" + "x" * 200}, "model"),
    ("unknown model", {**OK, "model": "stab/x"}, "model"),
    ("unknown among models", {**OK, "models": ["default", "nobody/x"]}, "model"),
    ("unknown kind", {**OK, "kind": CANARY}, "kind"),
    ("unknown lane", {**OK, "lane": "fast"}, "lane"),
    ("priority", {**OK, "priority": 3}, "priority"),
    ("priority as text", {**OK, "priority": "1"}, "priority"),
    ("deadline too near", {**OK, "deadline_s": 0.5}, "deadline_s"),
    ("deadline too far", {**OK, "deadline_s": 2_592_001}, "deadline_s"),
    ("on_interruption", {**OK, "on_interruption": "perhaps"}, "on_interruption"),
    ("metadata that is none", {**OK, "metadata": [CANARY]}, "metadata"),
    ("too many pairs", {**OK, "metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ("a long name of metadata", {**OK, "metadata": {"n" * 65: "v"}}, "metadata." + "n" * 60),
    ("a long value of metadata", {**OK, "metadata": {"n": "v" * 513}}, "metadata.n"),
    ("a number as metadata", {**OK, "metadata": {"n": 1}}, "metadata.n"),
    ("a lone surrogate in metadata", {**OK, "metadata": {"n": "\ud800"}}, "metadata.n"),
    ("no schema", {**OK, "output_schema": {"type": "objekt"}}, "output_schema"),
    ("a schema that points elsewhere", {**OK, "output_schema": {"$ref": "http://127.0.0.1/x"}}, "output_schema"),
    (
        "the same in a response format",
        {
            "input": {
                "prompt": "x",
                "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "file:///x"}}},
            }
        },
        "input.response_format",
    ),
    ("no embedding input", {"kind": "embedding", "input": {"input": []}}, "input.input"),
    ("mixed embedding input", {"kind": "embedding", "input": {"input": ["x", 1]}}, "input.input"),
    ("too many embedding inputs", {"kind": "embedding", "input": {"input": ["x"] * 2049}}, "input.input"),
    ("negative tokens", {"kind": "embedding", "input": {"input": [-1]}}, "input.input"),
    ("a prompt to embed", {"kind": "embedding", "input": {"prompt": "x"}}, "input.input"),
]


@pytest.mark.parametrize(("body", "field"), [pytest.param(b, f, id=name) for name, b, f in BODIES])
def test_a_bad_job_is_named_with_field_and_remedy(site: Web, body: Json, field: str) -> None:
    problem = _is_problem(site.post("/v1/jobs", body), 422)
    errors = {one["field"]: one for one in problem["errors"]}
    assert field in errors
    assert errors[field]["message"]
    assert errors[field]["remedy"]
    assert _stored(site) == 0


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ({**OK, "modle": "x"}, "Did you mean model?"),
        ({"input": {"prompt": "x", "temprature": 1}}, "Did you mean temperature?"),
        ({**OK, "stream": True}, "/v1/jobs/{id}/events"),
        ({**OK, "zzz": 1}, "known here: deadline_s"),
        ({**OK, "model": "stub2"}, "Did you mean stub?"),
    ],
)
def test_what_was_perhaps_meant_is_suggested(site: Web, wrong: Json, meant: str) -> None:
    assert meant in site.post("/v1/jobs", wrong).json["errors"][0]["remedy"]


RAW: list[tuple[str, bytes, int, str]] = [
    ("nothing", b"", 400, "empty"),
    ("blanks", b" \n ", 400, "empty"),
    ("cut off", b'{"input": {"prompt": "canary-7f3a"', 400, "line 1, column"),
    ("no JSON", b"canary-7f3a", 400, "not valid JSON"),
    ("two values", b"{} {}", 400, "not valid JSON"),
    ("a control character", b'{"input": {"prompt": "a\x01b"}}', 400, "not valid JSON"),
    ("no UTF-8", b'{"input": {"prompt": "\xff"}}', 400, "UTF-8 at byte 22"),
    ("a surrogate in UTF-8", b'{"input": {"prompt": "\xed\xa0\x80"}}', 400, "UTF-8"),
    ("a list", b"[]", 422, "body must be"),
    ("a text", b'"canary-7f3a"', 422, "body must be"),
    ("null", b"null", 422, "body must be"),
    ("a name twice", b'{"input": {"prompt": "x"}, "model": "a", "model": "b"}', 422, "model is given twice"),
    ("a name twice among many", MANY % b',"270e":1', 422, "270e is given twice"),
    ("more names than anybody means", MANY % b',"x":1,"y":1', 422, "more than 10,000 fields"),
    ("a name twice deep down", b'{"input": {"prompt": "x", "prompt": "y"}}', 422, "prompt is given twice"),
    ("NaN", b'{"input": {"prompt": "x", "temperature": NaN}}', 422, "NaN"),
    ("Infinity", b'{"input": {"prompt": "x", "temperature": -Infinity}}', 422, "Infinity"),
    ("a number beyond all", b'{"input": {"prompt": "x", "temperature": 1e999}}', 422, "out of range"),
    ("a number of 5000 digits", b'{"input": {"prompt": "x", "seed": ' + b"9" * 5000 + b"}}", 422, "out of range"),
    (
        "too deep",
        json.dumps({"input": {"prompt": "x"}, "output_schema": {"const": _deep(63)}}).encode(),
        422,
        "64 levels",
    ),
    ("far too deep", b"[" * 20_000, 422, "64 levels"),
    ("deep and right", b"[" * 20_000 + b"]" * 20_000, 422, "64 levels"),
    ("too large", b'{"input": {"prompt": "' + b"x" * LIMIT + b'"}}', 413, "larger"),
]


@pytest.mark.parametrize(("raw", "status", "said"), [pytest.param(*rest, id=name) for name, *rest in RAW])
def test_a_body_that_is_no_good_json(site: Web, raw: bytes, status: int, said: str) -> None:
    problem = _is_problem(site.post("/v1/jobs", data=raw), status)
    assert said in problem["detail"]
    assert _stored(site) == 0


def test_a_chunked_body_has_the_same_limit(site: Web) -> None:
    body = b'{"input": {"prompt": "' + b"x" * (LIMIT * 4) + b'"}}'
    answer = site.client.post(
        "/v1/jobs",
        input_stream=io.BytesIO(body),
        headers={**site.auth, "Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    _is_problem(answer, 413)


@pytest.mark.parametrize(
    ("headers", "status", "said"),
    [
        ({"Content-Type": "text/plain"}, 415, "Content-Type must be application/json"),
        ({"Content-Type": ""}, 415, "Content-Type must be application/json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type must be application/json"),
        ({"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"Prefer": "wait=0"}, 422, "Prefer"),
        ({"Prefer": "wait=61"}, 422, "Prefer"),
        ({"Prefer": "wait=soon"}, 422, "Prefer"),
        ({"Prefer": "respond-async, wait=-1"}, 422, "Prefer"),
        ({"Idempotency-Key": ""}, 422, "Idempotency-Key"),
        ({"Idempotency-Key": "k" * 256}, 422, "Idempotency-Key"),
        ({"Idempotency-Key": "llave \xf1"}, 422, "Idempotency-Key"),
    ],
)
def test_bad_headers(site: Web, headers: dict[str, str], status: int, said: str) -> None:
    problem = _is_problem(site.post("/v1/jobs", data=json.dumps(OK), headers=headers), status)
    assert said in problem["detail"]
    assert _stored(site) == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=job_1", "after"),
        ("after=%00", "after"),
        ("after=' OR 1=1 --", "after"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=1_0", "limit"),
        ("limit=2&limit=3", "limit"),
        ("status=done", "status"),
        ("kind=chat", "kind"),
        ("batch_id=1", "batch_id"),
        ("created_after=yesterday", "created_after"),
        ("created_after=1700000000", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_after=2026-13-01T00:00:00Z", "created_after"),
        ("sort=asc", "sort"),
    ],
)
def test_bad_queries(site: Web, query: str, field: str) -> None:
    problem = _is_problem(site.get(f"/v1/jobs?{query}"), 422)
    assert [one["field"] for one in problem["errors"]] == [field]
    assert problem["errors"][0]["remedy"]


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", ""])
def test_bad_waits(site: Web, wait: str) -> None:
    job = site.post("/v1/jobs", OK).json
    assert _is_problem(site.get(f"{job['urls']['self']}?wait={wait}"), 422)["errors"][0]["field"] == "wait"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/job", 404),
        ("GET", "/v1/jobs/", 404),
        ("GET", "//v1/jobs", 404),
        ("GET", "/v1/jobs/%00", 404),
        ("GET", "/v1/jobs/job_00000000000000000000000000", 404),
        ("GET", "/v1/jobs/job_00000000000000000000000000/attempts", 404),
        ("GET", "/v1/jobs/job_00000000000000000000000000/events", 404),
        ("POST", "/v1/jobs/job_00000000000000000000000000/cancel", 404),
        ("POST", "/v1/jobs/job_00000000000000000000000000/retry", 404),
        ("POST", "/v1/jobs/no-id/cancel", 404),
        ("DELETE", "/v1/jobs", 405),
        ("OPTIONS", "/v1/jobs", 405),
        ("PUT", "/v1/jobs/bulk", 405),
        ("GET", "/v1/jobs/bulk", 405),
        ("GET", "/completar", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_addresses_that_are_none(site: Web, method: str, path: str, status: int) -> None:
    answer = site.client.open(path, method=method, headers=site.auth)
    _is_problem(answer, status)
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", {"input": {"messages": [{"role": "user", "content": [{}] * 20_000}]}}),
        ("/v1/jobs", {"input": {"messages": [{"role": "assistant", "tool_calls": [{}] * 20_000}]}}),
        ("/v1/jobs", {"input": {"prompt": "x", "modalities": [1] * 20_000}}),
        ("/v1/chat/completions", {"model": "default", "messages": [{"role": "user", "content": [1] * 20_000}]}),
        ("/v1/responses", {"model": "default", "input": [{"role": "user", "content": [{}] * 20_000}]}),
        ("/v1/responses", {"model": "default", "input": "x", "include": [1] * 20_000}),
        ("/v1/predictions", {"question": "?", "answer": {"type": "choice", "options": [1] * 20_000}, "panel": ["x"]}),
    ],
)
def test_of_a_list_without_end_the_first_fault_is_told(site: Web, path: str, body: Json) -> None:
    """Of a million nobody reads more than twenty, and the server did nothing else for half a minute."""
    answer = site.post(path, body)
    assert answer.status_code in {400, 422}
    told = answer.get_data(as_text=True)
    assert "[0]" in told
    assert "[1]" not in told


def test_no_name_in_an_address_breaks_anything(database_url: str, tmp_path: Path) -> None:
    """Postgres takes no NUL in a text, not even to find nothing."""
    named = [one for one in OPERATIONS if "{" in one.path]
    assert len(named) > 30
    with web(database_url, tmp_path) as site:
        for operation in named:
            for odd in ("%00", "a%00b", "%ff", "..%2f..", "x" * 3_000):
                path = re.sub(r"{\w+}", odd, operation.path)
                answer = site.client.open(path, method=operation.method, headers=site.auth, json={"part_ids": ["x"]})
                assert 400 <= answer.status_code < 500, (operation.method, path[:80], answer.get_data(as_text=True))


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/v1/chat/completions", {"model": "default"}, 400, "messages"),
        ("POST", "/v1/chat/completions", {**CHAT, "messages": [{"role": CANARY}]}, 400, "messages[0].role"),
        ("POST", "/v1/chat/completions", {**CHAT, "temperature": "hot"}, 400, "temperature"),
        ("POST", "/v1/chat/completions", {**CHAT, "n": 2}, 400, "n"),
        ("POST", "/v1/chat/completions", {**CHAT, "stream": True}, 400, "stream"),
        ("POST", "/v1/chat/completions", {**CHAT, "model": "nobody/x"}, 404, "model"),
        ("POST", "/v1/chat/completions", {**CHAT, "models": []}, 400, "models"),
        ("POST", "/v1/chat/completions", b"{", 400, "body"),
        ("POST", "/v1/chat/completions", b'{"messages": "' + b"x" * LIMIT + b'"}', 413, None),
        ("POST", "/v1/embeddings", {"model": "default"}, 400, "input"),
        ("POST", "/v1/embeddings", {"model": "default", "input": []}, 400, "input"),
        (
            "POST",
            "/v1/embeddings",
            {"model": "default", "input": "x", "encoding_format": "hex"},
            400,
            "encoding_format",
        ),
        ("GET", "/v1/models/nobody/x", None, 404, "model"),
        ("DELETE", "/v1/models", None, 405, None),
        ("POST", "/v1/responses", {"model": "default"}, 400, "input"),
        ("POST", "/v1/assistants", {}, 404, None),
        ("GET", "/v1/vector_stores", None, 404, None),
    ],
)
def test_the_openai_face_answers_in_openais_shape(
    site: Web, method: str, path: str, body: Json, status: int, param: str | None
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body)
    answer = site.client.open(path, method=method, data=data, headers={**site.auth, "Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.content_type == "application/json; charset=utf-8"
    assert set(answer.json) == {"error"}
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert CANARY not in error["message"]


def test_completar_answers_in_spanish_and_english(site: Web) -> None:
    problem = _is_problem(site.post("/completar", {"pregunta": "hola"}), 422)
    assert "La petición no es válida. / The request is not valid." in problem["detail"]
    assert {one["field"] for one in problem["errors"]} == {"pregunta"}
    problem = _is_problem(site.post("/completar", {"prompt": "hola", "provider": "hugginface"}), 422)
    assert problem["errors"][0]["field"] == "provider"
    problem = _is_problem(site.post("/completar", {"prompt": "x", "mensajes": [{"role": "user", "content": "x"}]}), 422)
    assert problem["errors"][0]["field"] == "prompt"
    problem = _is_problem(site.post("/completar", {"prompt": "x", "temperature": 1, "temperatura": 1}), 422)
    assert problem["errors"][0]["field"] == "temperature"


def test_bulk_names_every_bad_line_and_stores_nothing(site: Web) -> None:
    lines = [
        json.dumps(OK),
        '{"input": {"prompt": "canary-7f3a"',
        "",
        json.dumps({**OK, "model": "nobody/x"}),
        json.dumps({"input": {"prompt": 1, "top_p": 2}}),
        '{"input": {"prompt": "x", "prompt": "y"}}',
        json.dumps(OK),
    ]
    answer = site.post("/v1/jobs/bulk", data="\n".join(lines), headers={"Content-Type": "application/x-ndjson"})
    problem = _is_problem(answer, 422)
    found = sorted((one["line"], one["field"]) for one in problem["errors"])
    assert found == [(2, "body"), (4, "model"), (5, "input.prompt"), (5, "input.top_p"), (6, "prompt")]
    assert all(one["remedy"] for one in problem["errors"])
    assert "4 jobs are faulty" in problem["detail"]
    assert _stored(site) == 0


@pytest.mark.parametrize(
    "body", [{}, [], {"jobs": {}}, {"jobs": []}, {"jobs": [OK], "lane": "batch"}, {"jobs": [OK] * 1001}, {"jobs": [1]}]
)
def test_a_bulk_that_is_none(site: Web, body: Json) -> None:
    problem = _is_problem(site.post("/v1/jobs/bulk", body), 422)
    assert problem["errors"][0]["remedy"]
    assert _stored(site) == 0


def test_an_unforeseen_fault_tells_its_number_and_logs_its_place(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("worker.events.emit", lambda event, **fields: told.append((event, fields)))

    def broken(*_args: object, **_kw: object) -> None:
        raise ValueError(f"a parameter was {CANARY}")

    monkeypatch.setattr("api.routes.jobs.submit", broken)
    answer = site.post("/v1/jobs", {"input": {"prompt": CANARY}})
    problem = _is_problem(answer, 500)
    assert problem["request_id"] in problem["detail"]
    ((event, fields),) = told
    assert event == "request.failed"
    assert fields["request_id"] == problem["request_id"]
    assert fields["error"] == "ValueError"
    assert any("jobs.py" in place for place in fields["where"])
    assert CANARY not in str(told)


def test_every_answer_has_an_id_and_is_sealed(site: Web) -> None:
    for path in ("/healthz", "/docs", "/openapi.json", "/v1/jobs", "/nowhere", "/v1/models"):
        answer = site.client.get(path)
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-id_1.2:3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("<script>", False), ("", False)],
)
def test_a_sane_request_id_is_honoured(site: Web, given: str, kept: bool) -> None:
    answer = site.client.get("/healthz", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) == kept


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner, max_size=3)
    ),
    max_leaves=8,
)
WORDS = st.sampled_from(
    ["input", "messages", "prompt", "role", "content", "model", "models", "metadata", "kind", "output_schema", "tools"]
)
LIKE_OURS = st.recursive(JSON, lambda inner: st.dictionaries(WORDS, inner, max_size=4), max_leaves=12)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=LIKE_OURS)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/bulk", "/v1/embeddings", "/v1/chat/completions"])
def test_no_json_is_a_fault_of_ours(nobody_waits: Web, path: str, body: Json) -> None:
    answer = nobody_waits.post(path, data=json.dumps(body))
    assert answer.status_code < 500 or answer.json["error"]["code"] == "too_many_waiting"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=())))
def test_any_text_is_taken_as_a_prompt_and_can_be_listed(site: Web, text: str) -> None:
    answer = site.post("/v1/jobs", {"input": {"messages": [{"role": "user", "content": text}]}})
    assert answer.status_code == 202
    assert site.get("/v1/jobs?limit=1").json["data"][0]["id"] == answer.json["id"]


def test_the_table_of_operations_is_all_there_is(site: Web) -> None:
    rules = {
        (rule.rule, method)
        for rule in site.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD"
    }
    assert rules == {(operation.rule, operation.method) for operation in OPERATIONS}
