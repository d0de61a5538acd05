"""Twins against real faults: the worker is killed after their leaders have ended, and before they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from openai.types.batch_request_counts import BatchRequestCounts

from tests.support import scripted_provider as script
from tests.support.batches import content, jsonl, line, made, until
from tests.support.processes import ROOT, Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.store import keys, tallies
from worker.store.batch_tables import batch as batch_table
from worker.store.batch_tables import batch_line
from worker.store.tables import attempt, job

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

QUICK = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}
N, BODIES = 120, 6

# In small steps, each of which takes a while inside its transaction, and the first only when the leaders have ended.
_STEPS = """
import sys, time
sys.path.append({root!r})
from worker.services.batches import shared
from worker.store import batches
shared.AT_ONCE = {at_once}
heard = batches.heard
batches.heard = lambda *rest: (heard(*rest), time.sleep({step_s}))[0]
if {blind}:
    shared._share = lambda *_: (0, False)
"""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(lambda request: script.chat(f"re: {request.json['messages'][-1]['content']}", tokens=(100, 50)))
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as made_station:
        yield made_station


@pytest.fixture
def client(station: Station, processes: Processes) -> Iterator[openai.OpenAI]:
    with station.deps.database.write() as conn:
        _, secret = keys.create(conn, station.project_id, "test")
    url = processes.web(station.env)[1]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secret) as one:
        yield one


def _stepping(station: Station, *, at_once: int = 500, step_s: float = 0.0, blind: bool = False) -> dict[str, str]:
    """The environment of a worker that shares ends in small steps, or `blind`: never."""
    folder = Path(station.env["COMPLETAR_CONFIG"]).parent / "steps"
    folder.mkdir()
    text = _STEPS.format(root=str(ROOT), at_once=at_once, step_s=step_s, blind=blind)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {**station.env, "PYTHONPATH": str(folder)}


def _count(station: Station, *where: Any) -> int:
    with station.deps.database.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).where(*where)).scalar_one())


@pytest.mark.parametrize("blind", [True, False], ids=["before-any-twin", "between-twins"])
def test_a_worker_killed_between_a_leader_and_its_twins(
    station: Station, client: openai.OpenAI, processes: Processes, provider: ScriptedProvider, blind: bool
) -> None:
    env = _stepping(station, at_once=10, step_s=0.15, blind=blind)
    first = processes.worker(env)
    lines = [line(k, prompt=f"q {k % BODIES}") for k in range(N)]
    batch = made(client, jsonl(lines), extra_body={"dedupe": True})
    done_jobs = job.c.status == "completed"
    if blind:
        wait_until(lambda: _count(station, done_jobs) == BODIES, "the leaders to end", 30)
    else:
        wait_until(lambda: BODIES + 20 <= _count(station, done_jobs) < N, "some twins to be born", 30)
    first.kill()
    stood = _count(station, done_jobs)
    assert BODIES <= stood < N
    assert _count(station, batch_line.c.shared == "awaited") == N - stood, "each is as its job is"
    assert client.batches.retrieve(batch.id).request_counts == BatchRequestCounts(completed=stood, failed=0, total=N)
    processes.worker(station.env)
    done = until(client, batch.id, within_s=40)
    assert (done.status, done.request_counts.completed, done.completar["twins"]) == ("completed", N, N - BODIES)
    output = content(client, done.output_file_id)
    assert [one["custom_id"] for one in output] == [f"request-{k}" for k in range(N)]
    answers = [one["response"]["body"]["choices"][0]["message"]["content"] for one in output]
    assert answers == [f"re: q {k % BODIES}" for k in range(N)]
    asked = Counter(one.json["messages"][-1]["content"] for one in provider.requests)
    assert asked == {f"q {k}": 1 for k in range(BODIES)}
    assert (done.usage.input_tokens, done.usage.output_tokens) == (100 * BODIES, 50 * BODIES)
    with station.deps.database.read() as conn:
        counted = tallies.of(conn, [batch.id])[batch.id]
        ended = tallies.ended_after(conn, batch.id, {}, 10 * N)
        awaited = conn.execute(sa.select(batch_table.c.awaited)).scalar_one()
    assert (counted.completed, counted.ended, awaited) == (N, N, 0)
    assert len(ended) == len(set(ended)) == N
    assert _count(station, job.c.batch_id == batch.id) == N
    assert _count(station, attempt.c.job_id == job.c.id) == BODIES
    told = httpx.get(
        f"{str(client.base_url).rstrip('/')}/batches/{batch.id}/results?limit=1000",
        headers={"Authorization": f"Bearer {client.api_key}"},
    ).json()
    assert sorted(one["completar"]["line"] for one in told["data"]) == list(range(1, N + 1))
