"""The whole Procfile under honcho, with a real Postgres and a real Redis: what a platform would run."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support import scripted_provider as script
from tests.support.processes import Process, Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import free_port

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

KEY = "ck_a-key-that-is-long-enough-for-production"
AUTH = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("from the provider"))
        yield running


@pytest.fixture
def env(empty_postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "completar.toml"
    config.write_text(
        f'[providers.p]\nformat = "openai"\nbase_url = "{provider.base_url}"\nlabel = "P"\napi_keys = ["P_KEY"]\n'
        '[routes.default]\ntargets = ["p/m"]\n'
    )
    return {
        "DATABASE_URL": empty_postgres_url.replace("postgresql+psycopg://", "postgres://"),  # as platforms write it
        "REDIS_URL": redis_server.url,
        "COMPLETAR_CONFIG": str(config),
        "COMPLETAR_API_KEY": KEY,
        "P_KEY": "sk-canary-of-the-provider",
        "WEB_CONCURRENCY": "1",
        "PORT": str(free_port()),
    }


@pytest.fixture
def site(processes: Processes, env: dict[str, str]) -> tuple[str, Process]:
    release = processes.from_procfile("release", env)
    assert release.wait() == 0
    honcho = processes.start("honcho", ["honcho", "--no-colour", "start", "-p", env["PORT"], "web", "worker"], env)
    honcho.wait_for_line(r"worker\.1 .* ready\.")
    honcho.wait_for_port(int(env["PORT"]))
    return f"http://127.0.0.1:{env['PORT']}", honcho


def test_a_job_goes_all_the_way_and_the_processes_end_in_order(
    site: tuple[str, Process], provider: ScriptedProvider, redis_server: Redis
) -> None:
    url, honcho = site
    with httpx.Client(base_url=url, headers=AUTH, timeout=30) as http:
        assert http.get("/readyz").json()["status"] == "ready"
        body = {"kind": "completion", "input": {"prompt": "a canary prompt"}}
        done = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"})
        assert done.status_code == 200, done.text
        job = done.json()
        assert (job["status"], job["result"]["text"]) == ("completed", "from the provider")
        assert job["served_by"]["label"] == "P"
        lines = "\n".join(json.dumps({"input": {"prompt": f"line {i}"}}) for i in range(200))
        bulk = http.post("/v1/jobs/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert bulk.status_code == 202, bulk.text
        for queued in _jobs(bulk.json()):
            seen = http.get(f"/v1/jobs/{queued['id']}", params={"wait": 20}).json()
            while seen["status"] in {"queued", "in_progress"}:
                seen = http.get(f"/v1/jobs/{queued['id']}", params={"wait": 20}).json()
            assert seen["status"] == "completed"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    answer = client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "from the provider"
    assert len(provider.requests) == 202
    assert {r.headers["authorization"] for r in provider.requests} == {"Bearer sk-canary-of-the-provider"}
    honcho.signal(signal.SIGTERM)
    honcho.wait()
    for name in ("web.1", "worker.1"):
        assert f"{name} stopped (rc=0)" in honcho.output
    for secret in ("sk-canary-of-the-provider", KEY, "a canary prompt"):
        assert secret not in honcho.output, "no secret and no prompt in a log"
    assert "Traceback" not in honcho.output


def _jobs(answer: Any) -> list[dict[str, Any]]:
    return answer["data"] if "data" in answer else answer["jobs"]


def test_a_short_key_is_refused_where_everybody_can_reach_it(processes: Processes, env: dict[str, str]) -> None:
    web = processes.from_procfile("web", {**env, "COMPLETAR_API_KEY": "short"})
    assert web.wait() == 4
    assert "COMPLETAR_API_KEY: is too short" in web.output
    assert "Traceback" not in web.output
