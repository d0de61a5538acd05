"""The mechanism against real faults: killed and frozen workers, a wiped or dead broker, a stop under load.

The fault campaign will go further; these are the faults every deployment meets in its first week.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.support import scripted_provider as script
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.failure import Lane
from worker.domain.state import AttemptState, JobStatus

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

# Quick to notice a death, so that a test is short; the product's defaults are 3 s and 15 s.
QUICK = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as made:
        yield made


def _calls_by_prompt(provider: ScriptedProvider) -> Counter[str]:
    return Counter(r.json["messages"][0]["content"] for r in provider.requests)


def test_kill_9_in_mid_call_loses_nothing_and_repeats_only_the_open_calls(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    holds = [provider.hold(script.chat("never seen")) for _ in range(8)]
    first = processes.worker(station.env)
    ids = station.submit(8) + station.submit(30, lane=Lane.BATCH, prompt="line")
    provider.wait_for(len(holds))
    first.kill()
    second = processes.worker(station.env)
    jobs = station.ended(ids, within_s=20)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    lost = [a for job in jobs for a in station.attempts(job.id) if a.row.state is AttemptState.LOST]
    rows = sum(len(station.attempts(job.id)) for job in jobs)
    assert rows - len(lost) <= len(provider.requests) <= rows, "every call the provider saw is on record"
    assert len(lost) >= len(holds), "and those marked whose bytes had not left yet count as lost too"
    assert len(provider.requests) <= len(ids) + len(lost)
    assert not all(job.cost_complete for job in jobs), "what a lost call cost is unknown, and says so"
    assert second.stop() == 0


def test_an_interrupted_call_is_not_repeated_where_the_job_forbids_it(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.hold(script.chat("never seen"))
    worker = processes.worker(station.env)
    job_id = station.one(on_interruption="fail")
    provider.wait_for(1)
    worker.kill()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "interrupted"
    assert len(provider.requests) == 1


def test_a_job_that_kills_its_worker_is_started_three_times_and_no_more(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(script.hang())
    job_id = station.one()
    for start in range(3):
        worker = processes.worker(station.env)
        provider.wait_for(start + 1)
        worker.kill()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "poison"
    assert "3 times" in job.error["message"]
    assert len(provider.requests) == 3


def test_a_wiped_broker_loses_no_job(
    station: Station, provider: ScriptedProvider, processes: Processes, redis_server: Redis
) -> None:
    ids = station.submit(50) + station.submit(50, lane=Lane.BATCH, prompt="line")
    redis_server.flushall()
    processes.worker(station.env)
    assert {job.status for job in station.ended(ids, within_s=20)} == {JobStatus.COMPLETED}
    assert max(_calls_by_prompt(provider).values()) == 1


def test_a_dead_broker_stops_neither_intake_nor_work(
    station: Station, provider: ScriptedProvider, processes: Processes, redis_server: Redis
) -> None:
    worker = processes.worker(station.env)
    redis_server.kill()
    began = time.monotonic()
    ids = station.submit(20)
    assert time.monotonic() - began < 1.0, "a dead broker must not hold up the caller"
    assert {job.status for job in station.ended(ids, within_s=20)} == {JobStatus.COMPLETED}
    redis_server.start()
    more = station.submit(20, prompt="after")
    assert {job.status for job in station.ended(more, within_s=20)} == {JobStatus.COMPLETED}
    assert max(_calls_by_prompt(provider).values()) == 1
    assert worker.stop() == 0


def test_a_silent_broker_holds_no_caller_up(station: Station, redis_server: Redis) -> None:
    station.one()  # its connection is open now, and stays open
    redis_server.freeze()
    began = time.monotonic()
    station.one()
    assert time.monotonic() - began < 1.0, "one that says nothing must not cost more than one that refuses"


def test_sigterm_under_load_ends_in_time_and_gives_back_what_it_did_not_finish(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(script.chat("slow", delay_s=0.4))
    worker = processes.worker({**station.env, "DRAIN_S": "8", "SLOTS": "40"})
    ids = station.submit(300, lane=Lane.BATCH)
    provider.wait_for(60)
    began = time.monotonic()
    worker.terminate()
    assert worker.wait() == 0
    assert time.monotonic() - began < 8.0
    jobs = station.jobs(ids)
    assert {job.status for job in jobs} <= {JobStatus.COMPLETED, JobStatus.QUEUED}
    queued = [job for job in jobs if job.status is JobStatus.QUEUED]
    assert queued, "the load outlasts the worker"
    assert all(job.attempts == 0 for job in queued), "a job given back has used no attempt"
    processes.worker({**station.env, "SLOTS": "200"})
    assert {job.status for job in station.ended(ids, within_s=20)} == {JobStatus.COMPLETED}
    assert max(_calls_by_prompt(provider).values()) == 1, "no call was made twice because of the stop"


def test_a_call_that_outlasts_the_drain_is_given_back_as_interrupted(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.hold(script.chat("never seen"))
    worker = processes.worker({**station.env, "DRAIN_S": "2"})
    job_id = station.one()
    provider.wait_for(1)
    began = time.monotonic()
    worker.terminate()
    assert worker.wait() == 0
    assert time.monotonic() - began < 3.0
    job = station.job(job_id)
    assert job.status is JobStatus.QUEUED
    assert station.course(job_id) == ["first:cancelled:interrupted"]
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.status is JobStatus.COMPLETED


def test_a_drain_may_outlast_the_lease_without_a_second_call(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    held = provider.hold(script.chat("in the end"))
    draining = processes.worker({**station.env, "DRAIN_S": "15"})
    job_id = station.one()
    provider.wait_for(1)
    processes.worker(station.env)
    draining.terminate()
    draining.wait_for_line("worker.draining")
    time.sleep(2 * float(QUICK["COMPLETAR_LEASE_S"]))  # the lease has to pass: there is no event to wait for
    held.release()
    (job,) = station.ended([job_id], within_s=20)
    assert job.result["text"] == "in the end"
    assert len(provider.requests) == 1
    assert draining.wait() == 0


def test_a_worker_frozen_past_its_lease_cannot_write_over_a_newer_fate(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    held = provider.hold(script.chat("from the frozen one"))
    frozen = processes.worker(station.env)
    job_id = station.one()
    provider.wait_for(1)
    frozen.freeze()
    provider.always(script.chat("from the living one"))
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.result["text"] == "from the living one"
    held.release()
    frozen.thaw()
    wait_until(
        lambda: any(a.row.state is AttemptState.SUPERSEDED for a in station.attempts(job_id)),
        "the late answer on record",
    )
    again = station.job(job_id)
    assert again.result["text"] == "from the living one"
    assert again.version == job.version
    fresh = station.submit(5, prompt="afterwards")
    assert {j.status for j in station.ended(fresh)} == {JobStatus.COMPLETED}
    assert frozen.running


def test_a_worker_frozen_while_it_marks_a_call_does_not_make_it(
    station: Station, provider: ScriptedProvider, processes: Processes, postgres: Postgres, postgres_url: str
) -> None:
    """Its mark holds the claim, so nobody takes the job back until the database has ended that transaction."""
    frozen = processes.worker(station.env)
    url = postgres_url.replace("+psycopg", "")
    with psycopg.connect(url) as holding, psycopg.connect(url, autocommit=True) as looking:
        holding.execute("LOCK TABLE attempt IN SHARE MODE")
        job_id = station.one()
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO attempt%'"
        wait_until(lambda: looking.execute(waits).fetchone(), "the mark to wait for the lock")
        frozen.freeze()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=25)
    assert job.status is JobStatus.COMPLETED
    frozen.thaw()
    frozen.wait_for_line("worker.declared_dead")
    fresh = station.submit(5, prompt="afterwards")
    assert {j.status for j in station.ended(fresh)} == {JobStatus.COMPLETED}
    assert max(_calls_by_prompt(provider).values()) == 1
    assert station.course(job_id)[-1] == "first:answered"
    assert set(station.course(job_id)[:-1]) <= {"first:cancelled"}


def test_the_database_stopped_hard_loses_no_answer(
    own_postgres: Postgres,
    migrate: object,
    redis_server: Redis,
    provider: ScriptedProvider,
    tmp_path: Path,
    processes: Processes,
) -> None:
    own_postgres.migrate_once(migrate)  # type: ignore[arg-type]
    url = own_postgres.fresh()
    with closing(Station(url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as station:
        holds = [provider.hold(script.chat(f"paid {i}")) for i in range(5)]
        processes.worker({**station.env, "COMPLETAR_LEASE_S": "20"})
        ids = station.submit(5)
        provider.wait_for(5)
        own_postgres.stop("immediate")
        for hold in holds:
            hold.release()
        own_postgres.start()
        jobs = station.ended(ids, within_s=30)
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}
        assert len(provider.requests) == 5, "an answer that arrived meanwhile is recorded without a second call"


def test_two_workers_share_the_work_and_no_call_is_made_twice(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(script.chat("fine", delay_s=0.05))
    ids = station.submit(400, lane=Lane.BATCH) + station.submit(100, prompt="interactive")
    workers = [processes.worker({**station.env, "SLOTS": "50"}) for _ in range(2)]
    jobs = station.ended(ids, within_s=30)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert max(_calls_by_prompt(provider).values()) == 1
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0, 0]
