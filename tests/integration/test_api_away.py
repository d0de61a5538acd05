"""The database or the broker is away: answers come fast, say so, and are good again when it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from tests.support.postgres import Postgres
from tests.support.processes import Process, Processes
from tests.support.wait import free_port, wait_until
from tests.support.web import Web, web
from worker.deps import build
from worker.services.hints import NoHints
from worker.settings import load
from worker.store import keys, projects
from worker.store.database import Database
from worker.store.migrate import upgrade

Json = Any
HI = {"input": {"prompt": "hi"}}
KEY = "ck_of_the_environment_0123456789"
AUTH = {"Authorization": f"Bearer {KEY}"}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}


def _migrated(url: str) -> str:
    with closing(Database(url)) as database:
        upgrade(database)
    return url


@pytest.mark.postgres
def test_without_the_database_every_answer_is_a_fast_503(own_postgres: Postgres, tmp_path: Path) -> None:
    with web(_migrated(own_postgres.url()), tmp_path) as site:
        job = site.post("/v1/jobs", HI).json
        own_postgres.stop()
        for ask in (
            lambda: site.post("/v1/jobs", HI),
            lambda: site.post("/v1/jobs", HI, {"Prefer": "wait=20"}),
            lambda: site.post("/v1/jobs/bulk", {"jobs": [HI]}),
            lambda: site.get("/v1/jobs"),
            lambda: site.get(f"{job['urls']['self']}?wait=20"),
            lambda: site.get(job["urls"]["events"]),
            lambda: site.post("/completar", {"prompt": "hola"}),
            lambda: site.post("/v1/chat/completions", CHAT),
            lambda: site.get("/v1/providers"),
        ):
            before = time.monotonic()
            answer = ask()
            assert time.monotonic() - before < 1
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"
            said = answer.get_data(as_text=True)
            assert "nothing was stored" in said
            assert "127.0.0.1" not in said
        assert site.client.get("/healthz").status_code == 200
        _wait_ready(site, 503)
        own_postgres.start()
        _wait_ready(site, 200)
        assert site.get(job["urls"]["self"]).json == job
        assert len(site.get("/v1/jobs").json["data"]) == 1  # nothing was stored, as was said


def _wait_ready(site: Web, status: int) -> None:
    wait_until(lambda: site.client.get("/readyz").status_code == status, f"/readyz to answer {status}")


def test_a_database_that_is_behind_is_not_ready(empty_database_url: str, tmp_path: Path) -> None:
    with closing(Database(empty_database_url)) as database:
        upgrade(database)
    with web(empty_database_url, tmp_path) as site:
        with site.deps.database.write() as conn:
            conn.exec_driver_sql("DELETE FROM alembic_version")
        answer = site.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json == {
            "status": "unready",
            "database": "up",
            "migrations": "pending",
            "hints": "local",
            "broker": "none",
        }


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": f"postgresql://u:canary-password@127.0.0.1:{free_port()}/x",
        "REDIS_URL": f"redis://:canary-password@127.0.0.1:{free_port()}/0",
        "COMPLETAR_API_KEY": KEY,
        "GROQ_API_KEY": "never-used",
        "COMPLETAR_DATA_DIR": str(tmp_path),
        "WEB_CONCURRENCY": "1",
        "PORT": str(free_port()),
        "HOST": "127.0.0.1",
    }


@pytest.fixture
def production(processes: Processes, env: dict[str, str]) -> Iterator[tuple[httpx.Client, Process]]:
    process = processes.python("web", "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.wsgi:app", env=env)
    process.wait_for_port(int(env["PORT"]))
    with httpx.Client(base_url=f"http://127.0.0.1:{env['PORT']}", timeout=10, trust_env=False) as client:
        yield client, process


@pytest.mark.slow
def test_the_process_lives_while_database_and_broker_are_away(production: tuple[httpx.Client, Process]) -> None:
    http, process = production
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {
        "status": "unready",
        "database": "away",
        "migrations": "unknown",
        "hints": "redis",
        "broker": "away",
    }
    before = time.monotonic()
    answer = http.post("/v1/jobs", json=HI, headers=AUTH)
    assert time.monotonic() - before < 1
    assert answer.status_code == 503
    assert "canary-password" not in process.output
    assert process.stop() == 0


@pytest.mark.slow
@pytest.mark.postgres
def test_the_first_key_works_as_soon_as_the_database_is_there(
    processes: Processes, env: dict[str, str], tmp_path: Path
) -> None:
    with closing(Postgres()) as postgres:
        env["DATABASE_URL"] = postgres.url()
        process = processes.python("web", "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.wsgi:app", env=env)
        process.wait_for_port(int(env["PORT"]))
        with httpx.Client(
            base_url=f"http://127.0.0.1:{env['PORT']}", headers=AUTH, timeout=10, trust_env=False
        ) as http:
            assert http.get("/v1/jobs").status_code == 503
            postgres.start()
            _migrated(postgres.url())
            wait_until(lambda: http.get("/readyz").status_code == 200, "/readyz to be good")
            # The broker is still away: that costs a moment, and no job.
            assert http.get("/readyz").json()["broker"] == "away"
            before = time.monotonic()
            answer = http.post("/v1/jobs", json=HI)
            assert time.monotonic() - before < 2
            assert answer.status_code == 202
            assert http.get("/v1/jobs").json()["data"] == [answer.json()]


def test_where_nobody_named_a_database_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").touch()  # no folder, so no file in it can be opened
    environ = {"COMPLETAR_DATA_DIR": str(tmp_path / "data"), "GROQ_API_KEY": "k"}
    deps = build(load(environ), NoHints(), connections=1)
    with closing(deps.database):
        ready = create_app(deps).test_client().get("/readyz")
    assert (ready.status_code, ready.json["database"]) == (503, "away")
    assert ready.json["reason"] == f"DATABASE_URL is not set: SQLite at {tmp_path}/data/completar.sqlite3"


@pytest.mark.parametrize("path", ["/v1/jobs", "/completar", "/v1/chat/completions"])
def test_no_job_is_taken_in_where_nobody_could_be_asked(sqlite_url: str, tmp_path: Path, path: str) -> None:
    """They went to a host that does not exist, call after call."""
    environ = {"DATABASE_URL": sqlite_url, "COMPLETAR_DATA_DIR": str(tmp_path)}
    deps = build(load(environ), NoHints(), connections=2)
    with closing(deps.database):
        with deps.database.write() as conn:
            _, secret = keys.create(conn, projects.ensure(conn), "all")
        body = {"/v1/jobs": HI, "/completar": {"prompt": "hi"}}.get(
            path, {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
        )
        headers = {"Authorization": f"Bearer {secret}"}
        answer = create_app(deps).test_client().post(path, json=body, headers=headers)
    assert answer.status_code == 503
    assert "no provider has a key: set one of GROQ_API_KEY" in answer.text
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.slow
def test_over_a_real_socket_a_chunked_body_has_its_limit(
    sqlite_url: str, processes: Processes, env: dict[str, str]
) -> None:
    """Neither server lets the app read more than it wants of a body whose length it was not told."""
    env |= {"DATABASE_URL": sqlite_url, "COMPLETAR_MAX_BODY_BYTES": "100000"}
    del env["REDIS_URL"]
    process = processes.python("web", "-m", "gunicorn", "-c", "gunicorn.conf.py", "api.wsgi:app", env=env)
    process.wait_for_port(int(env["PORT"]))

    def pieces() -> Iterator[bytes]:
        yield b'{"input": {"prompt": "'
        for _ in range(40):
            yield b"x" * 10_000
        yield b'"}}'

    headers = {**AUTH, "Content-Type": "application/json"}
    with httpx.Client(base_url=f"http://127.0.0.1:{env['PORT']}", timeout=10, trust_env=False) as http:
        answer = http.post("/v1/jobs", content=pieces(), headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (413, "/docs#too-large")
        small = http.post("/v1/jobs", content=iter([b'{"input": ', b'{"prompt": "x"}}']), headers=headers)
        assert small.status_code == 202
