"""Batches against real faults: workers killed while they read, take in and write, and answers that are lost."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.batches import CHAT, both, content, jsonl, line, made, until, uploaded
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.store import keys
from worker.store.batch_tables import batch as batch_table
from worker.store.batch_tables import batch_line
from worker.store.tables import job

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

QUICK = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}

# A page takes a while, so that a worker can be killed between two of them.
_SLOWLY = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END $$;
CREATE TRIGGER slowly BEFORE UPDATE OF {column} ON batch FOR EACH ROW
WHEN (NEW.{column} IS DISTINCT FROM OLD.{column}) EXECUTE FUNCTION slowly();
"""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as made_station:
        yield made_station


@pytest.fixture
def url(station: Station, processes: Processes) -> str:
    return processes.web(station.env)[1]


@pytest.fixture
def client(station: Station, url: str) -> Iterator[openai.OpenAI]:
    with station.deps.database.write() as conn:
        _, secret = keys.create(conn, station.project_id, "test")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secret) as one:
        yield one


def _slow(station: Station, column: str) -> None:
    with station.deps.database.write() as conn:
        conn.exec_driver_sql(_SLOWLY.format(column=column))


def _row(station: Station) -> Any:
    with station.deps.database.read() as conn:
        return conn.execute(sa.select(batch_table)).one()


def test_a_worker_killed_while_it_takes_lines_in_leaves_none_out_and_takes_none_twice(
    station: Station, client: openai.OpenAI, processes: Processes
) -> None:
    n = 1500
    _slow(station, "taken_line")
    env = {**station.env, "PYTHONPATH": str(_small_pages(station, take_in=100))}
    first = processes.worker(env)
    batch = made(client, jsonl(line(k) for k in range(n)))
    wait_until(lambda: 300 <= _row(station).taken < n, "some lines to be jobs")
    first.kill()
    stood = _row(station).taken
    assert stood < n
    processes.worker(env)
    done = until(client, batch.id, within_s=60)
    assert (done.status, done.request_counts.completed) == ("completed", n)
    with station.deps.database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).where(job.c.batch_id == batch.id)).scalar_one() == n
        lines = conn.execute(sa.select(batch_line.c.line).order_by(batch_line.c.line)).scalars().all()
    assert lines == list(range(1, n + 1))
    output, errors = both(client, done)
    assert errors == []
    assert [one["custom_id"] for one in output] == [f"request-{k}" for k in range(n)]


def test_a_worker_killed_while_it_writes_the_files_leaves_each_line_in_them_once(
    station: Station, client: openai.OpenAI, processes: Processes
) -> None:
    n = 400
    _slow(station, "written_line")
    env = {**station.env, "PYTHONPATH": str(_small_pages(station, write=20))}
    first = processes.worker(env)
    batch = made(client, jsonl(line(k) for k in range(n)))
    wait_until(lambda: 60 <= _row(station).written_line < n, "some lines to be written", 40)
    assert client.batches.retrieve(batch.id).output_file_id is None
    assert list(client.files.list(purpose="batch_output")) == [], "nobody sees a file before it is whole"
    first.kill()
    assert 0 < _row(station).written_line < n
    processes.worker(env)
    done = until(client, batch.id, within_s=40)
    assert [one["custom_id"] for one in content(client, done.output_file_id)] == [f"request-{k}" for k in range(n)]
    assert client.files.retrieve(done.output_file_id).bytes == len(client.files.content(done.output_file_id).content)


def test_a_worker_killed_while_it_reads_the_file_is_followed_by_another(
    station: Station, client: openai.OpenAI, processes: Processes
) -> None:
    env = {**station.env, "PYTHONPATH": str(_small_pages(station, read_s=0.02))}
    first = processes.worker(env)
    batch = made(client, jsonl(line(k) for k in range(300)))
    wait_until(lambda: _row(station).owner is not None, "somebody to read it")
    assert client.batches.retrieve(batch.id).status == "validating"
    first.kill()
    assert _row(station).status == "validating"
    processes.worker(station.env)
    assert until(client, batch.id).status == "completed"


def test_who_follows_has_every_line_once_though_workers_are_killed(
    station: Station, client: openai.OpenAI, processes: Processes, provider: ScriptedProvider
) -> None:
    n, kills = 600, 2
    provider.always(lambda request: script.chat("fine", delay_s=0.02 if b"question" in request.body else 0.0))
    env = {**station.env, "SLOTS": "20"}
    worker = processes.worker(env)
    batch = made(client, jsonl(line(k) for k in range(n)))
    found: list[str] = []
    killed, cursor, over = 0, "start", False
    while not over:
        page = client.get(f"/batches/{batch.id}/results?after={cursor}&limit=50&wait=5", cast_to=httpx.Response).json()
        found += [one["custom_id"] for one in page["data"]]
        cursor, over = page["next"], page["over"]
        if killed < kills and len(found) > n * (killed + 1) / (kills + 2):
            killed += 1
            worker.kill()
            worker = processes.worker(env)
    assert killed == kills
    assert sorted(found) == sorted(f"request-{k}" for k in range(n))
    done = until(client, batch.id)
    assert (done.request_counts.completed, done.completar["cost"]["complete"]) == (n, False)
    assert len(provider.requests) <= n + kills * 20


def test_a_stopped_worker_hands_its_batches_on_at_once(
    station: Station, client: openai.OpenAI, processes: Processes, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.chat("late"))
    env = {**station.env, "COMPLETAR_LEASE_S": "60", "DRAIN_S": "2"}
    first = processes.worker(env)
    batch = made(client, jsonl([line(1)]))
    provider.wait_for(1)
    assert first.stop() == 0
    assert _row(station).owner is None
    held.release()
    processes.worker(env)
    assert until(client, batch.id, within_s=20).status == "completed"


def test_a_batch_that_was_stored_though_its_answer_was_lost_is_not_made_twice(
    station: Station, client: openai.OpenAI, url: str
) -> None:
    file_id = uploaded(client, jsonl([line(1)]))
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Authorization": f"Bearer {client.api_key}", "Idempotency-Key": "once"}
    lost = http.client.HTTPConnection(url.removeprefix("http://"))
    lost.request("POST", "/v1/batches", json.dumps(asked), {**headers, "Content-Type": "application/json"})
    wait_until(lambda: list(client.batches.list()), "the batch to be stored")
    lost.close()
    (stored,) = client.batches.list()
    again = client.batches.create(**asked, extra_headers={"Idempotency-Key": "once"})  # type: ignore[arg-type]
    assert again.id == stored.id
    assert len(list(client.batches.list())) == 1


def _small_pages(station: Station, *, take_in: int = 2000, write: int = 1000, read_s: float = 0.0) -> Path:
    """A folder for PYTHONPATH whose sitecustomize makes the worker of a test go in small steps."""
    folder = Path(station.env["COMPLETAR_CONFIG"]).parent / "small"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""
import sys, time
sys.path.append({str(Path(__file__).resolve().parents[2])!r})
from worker.services.batches import lines, take_in, validate, write
take_in.FIRST = take_in.PAGE = {take_in}
write.LOOKED_AT = {write}
if {read_s}:
    judge = validate._judge
    validate._judge = lambda *rest: (time.sleep({read_s}), judge(*rest))[1]
""",
        encoding="utf-8",
    )
    return folder
