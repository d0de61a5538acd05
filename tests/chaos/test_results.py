"""What was paid for is kept while the database is away or frozen; jobs that kill their workers take nobody along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import scripted_provider as script
from tests.support.postgres import Postgres
from tests.support.processes import ROOT, Process, Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.failure import Lane
from worker.domain.state import AttemptState, JobStatus
from worker.store import deaths

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

QUICK = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}
LEASE_S = float(QUICK["COMPLETAR_LEASE_S"])
EXPLODE = "explode"
# Loaded by every Python that starts with its folder on PYTHONPATH: a job with this prompt kills the process while its
# request is built, before any call is marked.
_BOMB = """
import os, signal, worker.services.run as run
written = run.written
def bomb(course, ask):
    if "{word}" in str(course.request):
        with open({log!r}, "a") as file:
            file.write(course.job.id + "\\n")
        os.killpg(0, signal.SIGKILL)
    return written(course, ask)
run.written = bomb
"""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as made:
        yield made


@pytest.fixture
def shaky(
    own_postgres: Postgres,
    migrate: Callable[[str], None],
    redis_server: Redis,
    provider: ScriptedProvider,
    tmp_path: Path,
) -> Iterator[Station]:
    """On a database of its own, to be stopped and frozen."""
    url = own_postgres.migrate_once(migrate).fresh()
    with closing(Station(url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as made:
        yield made
        own_postgres.thaw()


def test_a_job_that_explodes_before_any_call_is_started_three_times_and_takes_nobody_along(
    station: Station, provider: ScriptedProvider, processes: Processes, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    bomb = tmp_path / "bomb"
    bomb.mkdir()
    (bomb / "sitecustomize.py").write_text(_BOMB.format(word=EXPLODE, log=str(starts)))
    env = {**station.env, "PYTHONPATH": f"{bomb}:{ROOT}", "SLOTS": "40"}
    provider.always(script.chat("fine", delay_s=0.2))
    ids = station.submit(30, lane=Lane.BATCH, prompt="innocent")
    culprit = station.one(lane=Lane.BATCH, prompt=EXPLODE)
    workers = [processes.from_procfile("worker", env, f"--hostname bomb{n}@test") for n in range(4)]
    jobs = {job.id: job for job in station.ended([*ids, culprit], within_s=30)}
    assert starts.read_text().split() == [culprit] * 3
    assert [worker.running for worker in workers].count(True) == 1
    assert jobs[culprit].status is JobStatus.FAILED
    assert jobs[culprit].error["kind"] == "poison"
    assert {jobs[i].status for i in ids} == {JobStatus.COMPLETED}, "those that were merely there are done"
    assert station.attempts(culprit) == []
    with station.deps.database.read() as conn:
        seen = deaths.of_jobs(conn, [culprit])[culprit]
    assert [death.open_target for death in seen] == [None] * 3


def open_calls(provider: ScriptedProvider, station: Station) -> tuple[list[script.Hold], list[str]]:
    """Jobs whose calls are open until their holds are released."""
    holds = [provider.hold(script.chat(f"paid {i}")) for i in range(3)]
    ids = station.submit(3)
    provider.wait_for(3)
    return holds, ids


def answered_after(
    provider: ScriptedProvider, station: Station, worker: Process, deed: Callable[[], None]
) -> list[str]:
    """Jobs whose answers reach the worker after the deed."""
    holds, ids = open_calls(provider, station)
    deed()
    for hold in holds:
        hold.release()
    worker.wait_for_line("writer.waiting")
    return ids


def all_paid_once(provider: ScriptedProvider, station: Station, ids: list[str]) -> None:
    jobs = station.ended(ids, within_s=20)
    assert [job.status for job in jobs] == [JobStatus.COMPLETED] * len(ids)
    assert len(provider.requests) == len(ids), "nothing was asked twice"
    for job_id in ids:
        assert [a.row.state for a in station.attempts(job_id)] == [AttemptState.ANSWERED]


def test_answers_outlive_a_worker_that_must_stop_while_the_database_is_away(
    own_postgres: Postgres, shaky: Station, provider: ScriptedProvider, processes: Processes, tmp_path: Path
) -> None:
    worker = processes.worker({**shaky.env, "DRAIN_S": "4"})
    ids = answered_after(provider, shaky, worker, lambda: own_postgres.stop("immediate"))
    assert worker.stop() == 0
    spool = tmp_path / "data" / "spool"
    assert list(spool.glob("*.jsonl"))
    own_postgres.start()
    processes.worker(shaky.env)
    all_paid_once(provider, shaky, ids)
    assert list(spool.iterdir()) == []


def test_answers_outlive_a_kill_in_a_long_outage(
    own_postgres: Postgres, shaky: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    worker = processes.worker(shaky.env)
    ids = answered_after(provider, shaky, worker, lambda: own_postgres.stop("immediate"))
    worker.wait_for_line("job.spooled")
    wait_until(lambda: worker.output.count("job.spooled") == 3, "all answers on disk")
    worker.kill()
    own_postgres.start()
    processes.worker(shaky.env)
    all_paid_once(provider, shaky, ids)


def test_a_frozen_database_holds_nothing_up_for_good(
    own_postgres: Postgres, shaky: Station, provider: ScriptedProvider
) -> None:
    with shaky.worker() as worker:
        began_as = worker.id
        holds, ids = open_calls(provider, shaky)
        own_postgres.freeze()
        for hold in holds:
            hold.release()
        time.sleep(LEASE_S)  # it has to pass: there is no event to wait for
        own_postgres.thaw()
        all_paid_once(provider, shaky, ids)
        provider.always(script.chat("fine"))
        more = shaky.submit(5, prompt="afterwards")
        assert {job.status for job in shaky.ended(more, within_s=10)} == {JobStatus.COMPLETED}
        assert worker.id == began_as, "who could not be heard is not dead"


def test_after_an_outage_nobody_is_declared_dead_by_who_comes_back_first(
    own_postgres: Postgres, shaky: Station, provider: ScriptedProvider
) -> None:
    with shaky.worker() as one, shaky.worker() as other:
        began_as = {one.id, other.id}
        holds, ids = open_calls(provider, shaky)
        own_postgres.stop("immediate")
        time.sleep(1.2 * LEASE_S)  # it has to pass
        own_postgres.start()
        time.sleep(0.5 * LEASE_S)  # sweeps come and go
        for hold in holds:
            hold.release()
        all_paid_once(provider, shaky, ids)
        assert {one.id, other.id} == began_as
