"""Every operation checks its caller: each route with each key, and each project behind its own wall."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from api.app import OPERATIONS
from api.auth import REMEMBERED_S
from api.operations import Operation
from tests.support.web import Web, web
from worker import clock
from worker.store import keys
from worker.store.keys import SCOPES
from worker.store.tables import api_key

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs"}
NOBODY = "job_00000000000000000000000000"


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    with web(sqlite_url, tmp_path) as made:
        yield made


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The process's clock, for the test to move."""
    at = [1000.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: at[0])
    return at


def _ask(site: Web, operation: Operation, secret: str | None) -> TestResponse:
    path = operation.path.replace("{job_id}", NOBODY).replace("{model}", "no/model")
    path = path.replace("{endpoint_id}", "we_" + "0" * 26).replace("{delivery_id}", "whd_" + "0" * 26)
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    # No body: a caller who may go on is told so by another status than 401 and 403.
    return site.client.open(path, method=operation.method, headers=headers)


def test_only_these_are_open() -> None:
    assert {operation.path for operation in OPERATIONS if operation.scope is None} == OPEN


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_each_route_asks_for_its_scope_and_no_other(site: Web, operation: Operation) -> None:
    for scope in SCOPES:
        _, secret = site.new_key(scope)
        answer = _ask(site, operation, secret)
        if operation.scope in {None, scope}:
            assert answer.status_code not in {401, 403}
        else:
            assert answer.status_code == 403
            assert f"python3 run.py keys create --scope {operation.scope}" in answer.get_data(as_text=True)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
@pytest.mark.parametrize("secret", [None, "", "ck_unknown", "k" * 1000, "' OR 1=1 --", "\xff\xfe"])
def test_each_route_refuses_who_has_no_key(site: Web, operation: Operation, secret: str | None) -> None:
    answer = _ask(site, operation, secret)
    if operation.scope is None:
        assert answer.status_code != 401
        return
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    told = answer.get_data(as_text=True)
    assert "python3 run.py keys create" in told
    assert secret is None or len(secret) < 2 or secret not in told
    if operation.face == "openai":
        assert answer.json["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("header", "status"), [("Basic {}", 401), ("{}", 401), ("bearer {}", 200), ("Bearer  {} ", 200)]
)
def test_the_header_is_read_as_written(site: Web, header: str, status: int) -> None:
    answer = site.client.get("/v1/jobs", headers={"Authorization": header.format(site.key)})
    assert answer.status_code == status


def test_a_revoked_key_is_refused_within_five_seconds(site: Web, now: list[float]) -> None:
    key, secret = site.new_key()
    auth = {"Authorization": f"Bearer {secret}"}
    assert site.client.get("/v1/jobs", headers=auth).status_code == 200
    with site.deps.database.write() as conn:
        assert keys.revoke(conn, key.id)
    assert REMEMBERED_S < 5
    now[0] += REMEMBERED_S
    assert site.client.get("/v1/jobs", headers=auth).status_code == 401


def test_an_expired_key_is_refused(site: Web) -> None:
    _, secret = site.new_key(lasts_s=-1.0)
    assert site.client.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_a_key_is_looked_up_once_in_a_while_and_not_each_time(
    site: Web, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    find = keys.find
    monkeypatch.setattr(keys, "find", lambda conn, secret: (asked.append(secret), find(conn, secret))[1])
    for _ in range(5):
        site.get("/v1/routes")
    assert len(asked) == 1
    now[0] += REMEMBERED_S
    site.get("/v1/routes")
    assert len(asked) == 2


def test_a_new_key_works_at_once_though_it_was_refused_before(site: Web) -> None:
    auth = {"Authorization": "Bearer ck_made_later"}
    assert site.client.get("/v1/jobs", headers=auth).status_code == 401
    site.new_key(secret="ck_made_later")
    assert site.client.get("/v1/jobs", headers=auth).status_code == 200


def test_use_is_noted_at_most_once_a_minute(site: Web, now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    noted = itertools.count()
    used = keys.used
    monkeypatch.setattr(keys, "used", lambda conn, key_id: (next(noted), used(conn, key_id)))
    for seconds in (0, 1, 58, 61):
        now[0] = 1000.0 + seconds
        site.get("/v1/routes")
    assert next(noted) == 2
    with site.deps.database.read() as conn:
        assert any(key.last_used_at is not None for key in keys.listed(conn))


def test_another_projects_job_is_unknown(site: Web) -> None:
    job = site.post("/v1/jobs", {"input": {"prompt": "hi"}}).json
    _, other = site.new_key(project="other")
    auth = {"Authorization": f"Bearer {other}"}
    for method, path in [
        ("GET", job["urls"]["self"]),
        ("GET", job["urls"]["attempts"]),
        ("GET", job["urls"]["events"]),
        ("POST", job["urls"]["cancel"]),
        ("POST", f"{job['urls']['self']}/retry"),
        ("GET", f"/v1/dead_letters/{job['id']}"),
        ("POST", f"/v1/dead_letters/{job['id']}/replay"),
    ]:
        answer = site.client.open(path, method=method, headers=auth)
        assert answer.status_code == 404, path
        assert job["id"] not in answer.get_data(as_text=True)
    assert site.client.get("/v1/jobs", headers=auth).json["data"] == []
    assert site.get(job["urls"]["self"]).json["status"] == "queued"


def test_another_projects_idempotency_key_is_another(site: Web) -> None:
    body, header = {"input": {"prompt": "hi"}}, {"Idempotency-Key": "same"}
    mine = site.post("/v1/jobs", body, header)
    _, other = site.new_key(project="other")
    theirs = site.post("/v1/jobs", {"input": {"prompt": "else"}}, {**header, "Authorization": f"Bearer {other}"})
    assert theirs.status_code == 202
    assert mine.json["id"] != theirs.json["id"]


def test_the_first_key_is_stored_at_the_first_request(sqlite_url: str, tmp_path: Path) -> None:
    secret = "ck_of_the_environment_0123456789"
    with web(sqlite_url, tmp_path, COMPLETAR_API_KEY=secret) as site:
        for _ in range(2):
            answer = site.client.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"})
            assert answer.status_code == 200
        with site.deps.database.read() as conn:
            assert [key.name for key in keys.listed(conn)] == ["all", "COMPLETAR_API_KEY"]
            stored = conn.execute(sa.select(api_key)).all()
        assert secret not in str(stored)


def test_no_answer_shows_a_key_of_a_provider(site: Web) -> None:
    from tests.support.web import SECRET

    for path in ("/v1/providers", "/v1/routes", "/v1/models", "/openapi.json", "/readyz"):
        assert SECRET not in site.get(path).get_data(as_text=True)
    (stub,) = site.get("/v1/providers").json["data"]
    assert stub["keys"] == ["STUB_KEY"]
