"""Deploys: a process that is told to stop is gone in time whatever hangs, and what it held is neither lost nor repeated
for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support import scripted_provider as script
from tests.support.postgres import Postgres
from tests.support.processes import Process, Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.failure import Lane
from worker.domain.state import JobStatus
from worker.store import views

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

QUICK: Final = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}
GRACE_S: Final = 3.0  # what Railway gives a process where nothing else is said


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.hang())
        yield running


@pytest.fixture
def station(
    own_postgres: Postgres,
    migrate: Callable[[str], None],
    redis_server: Redis,
    provider: ScriptedProvider,
    tmp_path: Path,
) -> Iterator[Station]:
    own_postgres.migrate_once(migrate)
    made = Station(
        own_postgres.fresh(), provider, tmp_path, redis_url=redis_server.url, **{**QUICK, "DRAIN_S": f"{GRACE_S:g}"}
    )
    with closing(made) as opened:
        yield opened


def gone_in_time(process: Process) -> None:
    before = time.monotonic()
    process.terminate()
    assert process.wait() == 0, process.tail()
    took_s = time.monotonic() - before
    assert took_s < GRACE_S, f"{took_s:.2f} s"


@pytest.mark.parametrize("trouble", ["database frozen", "database gone", "redis frozen"])
def test_it_is_gone_within_the_shortest_grace(
    station: Station,
    provider: ScriptedProvider,
    processes: Processes,
    own_postgres: Postgres,
    redis_server: Redis,
    trouble: str,
) -> None:
    """With calls open that never answer."""
    worker = processes.worker(station.env)
    ids = station.submit(15) + station.submit(15, lane=Lane.BATCH)  # all open: a new target gets no more at once
    provider.wait_for(30)
    {
        "database frozen": own_postgres.freeze,
        "database gone": lambda: own_postgres.stop("immediate"),
        "redis frozen": redis_server.freeze,
    }[trouble]()
    gone_in_time(worker)
    if trouble == "redis frozen":
        assert {job.status for job in station.jobs(ids)} == {JobStatus.QUEUED}, "all is given back"


def test_one_process_for_all_is_gone_in_time_too(
    station: Station, provider: ScriptedProvider, processes: Processes, own_postgres: Postgres
) -> None:
    env = {name: value for name, value in station.env.items() if name != "REDIS_URL"}
    process, _ = processes.up(env)
    station.submit(5)
    provider.wait_for(5)
    own_postgres.freeze()
    gone_in_time(process)


def test_a_web_process_is_gone_in_time_while_requests_wait(station: Station, processes: Processes) -> None:
    key = "ck_a-key-that-is-long-enough-for-production"
    web, url = processes.web({**station.env, "COMPLETAR_API_KEY": key})
    ask = {
        "url": f"{url}/v1/jobs",
        "json": {"input": {"prompt": "hi"}},
        "headers": {"Authorization": f"Bearer {key}", "Prefer": "wait=60"},
        "timeout": 70,
    }

    def wait() -> None:
        with suppress(httpx.HTTPError):  # it is cut, which is the point
            httpx.post(**ask)  # type: ignore[arg-type]

    waiting = threading.Thread(target=wait)
    waiting.start()

    def stored() -> bool:
        with station.deps.database.read() as conn:
            return bool(views.listed(conn, station.project_id, views.Filter(None, None, None, None, None, 1))[0])

    wait_until(stored, "the job to be stored")
    gone_in_time(web)
    waiting.join(10)


def test_a_call_longer_than_every_drain_is_not_repeated_for_ever(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    """Each deploy costs a call. After three the job ends, and says what would help."""
    job_id = station.one()
    for deploys in range(1, 4):
        worker = processes.worker({**station.env, "DRAIN_S": "1"})
        provider.wait_for(deploys)
        worker.terminate()
        assert worker.wait() == 0
    job = station.job(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "interrupted"
    assert job.error["retryable"]
    assert "DRAIN_S" in job.error["message"]
    assert station.course(job_id) == ["first:cancelled:interrupted"] * 3


def test_stops_are_no_attempts(station: Station, provider: ScriptedProvider, processes: Processes) -> None:
    """Two deploys in the middle of its calls, and a job of one attempt still has it."""
    job_id = station.one(max_attempts=1)
    for deploys in range(1, 3):
        worker = processes.worker({**station.env, "DRAIN_S": "1"})
        provider.wait_for(deploys)
        worker.terminate()
        assert worker.wait() == 0
    provider.always(script.chat("fine"))
    processes.worker(station.env)
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.COMPLETED
    assert station.course(job_id) == [*["first:cancelled:interrupted"] * 2, "first:answered"]


def test_deploy_after_deploy_everything_ends_once(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    """A new worker comes, the old one goes, again and again under load: nothing is lost and nothing ends twice."""
    provider.always(script.chat("fine", delay_s=0.3))
    ids = station.submit(250, lane=Lane.BATCH)
    old = processes.worker({**station.env, "SLOTS": "20"})
    for _ in range(2):
        new = processes.worker({**station.env, "SLOTS": "20"})
        gone_in_time(old)
        old = new
    processes.worker({**station.env, "SLOTS": "200"})
    jobs = station.ended(ids)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert len(provider.requests) == 250, "calls of this length end within the drain"
