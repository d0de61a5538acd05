"""The Procfile's `web` and `worker` with a database and nothing else: no Redis, not even one that is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.processes import Process, Processes
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import free_port, wait_until
from worker.store.database import Database

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

KEY = "ck_a-key-that-is-long-enough-for-production"
HI = {"input": {"prompt": "hi"}}
WAIT = {"Prefer": "wait=20"}
LISTENING = "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN completar' AND datname = current_database()"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def env(provider: ScriptedProvider, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "completar.toml"
    config.write_text(
        f'[providers.p]\nformat = "openai"\nbase_url = "{provider.base_url}"\n[routes.default]\ntargets = ["p/m"]\n'
    )
    return {"COMPLETAR_CONFIG": str(config), "COMPLETAR_API_KEY": KEY}


def site(processes: Processes, env: dict[str, str]) -> tuple[httpx.Client, Process, Process]:
    worker = processes.worker(env)
    web, url = processes.web(env)
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30), web, worker


def test_jobs_are_heard_of_through_postgres(processes: Processes, env: dict[str, str], postgres_url: str) -> None:
    """A named Redis is left alone, and workers hardly look by themselves here: what comes at once was heard."""
    env |= {
        "DATABASE_URL": postgres_url,
        "COMPLETAR_HINTS": "sql",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "COMPLETAR_POLL_S": "60",
        "DRAIN_S": "10",
    }
    http, web, worker = site(processes, env)
    with http, closing(Database(postgres_url)) as database:
        wait_until(lambda: _listening(database), "the worker to listen")
        assert http.get("/readyz").json() == {
            "status": "ready",
            "database": "up",
            "migrations": "current",
            "hints": "sql",
            "broker": "none",
        }
        http.post("/v1/jobs", json=HI, headers=WAIT)  # every connection is made by now
        before = time.monotonic()
        done = http.post("/v1/jobs", json=HI, headers=WAIT)
        assert done.json()["status"] == "completed"
        assert time.monotonic() - before < 1.0
        bulk = http.post("/v1/jobs/bulk", json={"jobs": [HI] * 50}).json()["data"]
        assert {_ended(http, job["id"])["status"] for job in bulk} == {"completed"}
        (pid,) = _listening(database)
        with database.write() as conn:
            conn.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        wait_until(lambda: [found for found in _listening(database) if found != pid], "it to listen again")
        before = time.monotonic()
        assert http.post("/v1/jobs", json=HI, headers=WAIT).json()["status"] == "completed"
        assert time.monotonic() - before < 1.0
    before = time.monotonic()
    assert (web.stop(), worker.stop()) == (0, 0)
    assert time.monotonic() - before < 10
    for process in (web, worker):
        assert "redis" not in process.output.lower(), process.tail()
        assert "Traceback" not in process.output, process.tail()


def _listening(database: Database) -> list[int]:
    with database.read() as conn:
        return list(conn.execute(sa.text(LISTENING)).scalars())


def _ended(http: httpx.Client, job_id: str) -> Any:
    deadline = time.monotonic() + 20
    while (job := http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json())["ended_at"] is None:
        assert time.monotonic() < deadline, job
    return job


def test_with_sqlite_workers_look_by_themselves(processes: Processes, env: dict[str, str], sqlite_url: str) -> None:
    env |= {"DATABASE_URL": sqlite_url, "COMPLETAR_POLL_S": "0.2"}
    http, web, worker = site(processes, env)
    with http:
        assert http.get("/readyz").json()["hints"] == "sql"
        assert http.post("/v1/jobs", json=HI, headers=WAIT).json()["status"] == "completed"
        bulk = http.post("/v1/jobs/bulk", json={"jobs": [HI] * 20}).json()["data"]
        assert {_ended(http, job["id"])["status"] for job in bulk} == {"completed"}
    assert (web.stop(), worker.stop()) == (0, 0)


def test_a_drain_without_a_broker_lets_open_calls_end(
    processes: Processes, env: dict[str, str], postgres_url: str, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.chat("in the end"))
    http, _, worker = site(processes, {**env, "DATABASE_URL": postgres_url, "DRAIN_S": "15"})
    with http:
        job = http.post("/v1/jobs", json=HI).json()
        provider.wait_for(1)
        worker.terminate()
        worker.wait_for_line("worker.draining")
        later = http.post("/v1/jobs", json=HI).json()
        held.release()
        assert _ended(http, job["id"])["result"]["text"] == "in the end"
        assert worker.wait() == 0
        assert http.get(f"/v1/jobs/{later['id']}").json()["status"] == "queued"
