"""Cancels, deadlines and hedged calls over real worker processes: whoever runs a job hears of it, or dies with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import clock
from worker.domain.state import AttemptState, JobStatus
from worker.services.cancel import cancel
from worker.store.tables import job as job_table

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

# Quick to notice a death, so that a test is short; the product's defaults are 3 s and 15 s.
QUICK = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}
SLOW_DOWN = script.error(429, "slow down", code="rate_limit_exceeded", headers={"retry-after": "3"})


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    hedged = "hedge_after_s = 0.2"
    with closing(
        Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, more=hedged, SLOTS="4", **QUICK)
    ) as made:
        yield made


def _holders(station: Station, ids: list[str]) -> set[str]:
    with station.deps.database.read() as conn:
        return set(conn.execute(sa.select(job_table.c.worker_id).where(job_table.c.id.in_(ids))).scalars())


def test_a_cancel_is_heard_within_a_second_by_whichever_worker_runs_the_job(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    """Eight jobs that wait to ask again, four in each of two processes, cancelled from a third."""
    provider.always(SLOW_DOWN)
    workers = [processes.worker(station.env) for _ in range(2)]
    ids = station.submit(8, models=("first/m",))
    provider.wait_for(1)
    # One call makes the target rest, so the others may wait without having asked: all of them are held.
    wait_until(lambda: len(_holders(station, ids)) == 2 and None not in _holders(station, ids), "both to hold some")
    for job_id in ids:
        cancel(station.deps, station.project_id, job_id)
    began, asked = time.monotonic(), len(provider.requests)
    jobs = station.ended(ids, within_s=10)
    took_s = time.monotonic() - began
    assert {job.status for job in jobs} == {JobStatus.CANCELLED}
    assert took_s < 2.5, "a second, and more for a busy machine"
    time.sleep(max(0.0, 3.4 - (time.monotonic() - began)))  # the wait they were in would be over: nothing happens
    assert len(provider.requests) == asked
    assert [worker.stop() for worker in workers] == [0, 0]


def test_a_worker_killed_with_two_calls_of_a_job_open_leaves_both_as_lost_and_no_third_beside_another(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(script.hang())
    first = processes.worker(station.env)
    job_id = station.one()
    provider.wait_for(2)
    first.kill()
    assert [a.row.state for a in station.attempts(job_id)] == [AttemptState.SENT] * 2
    provider.always(script.chat("in the end", delay_s=0.6))
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.status is JobStatus.COMPLETED
    course = station.course(job_id)
    assert course[:2] == ["first:lost:interrupted", "second:lost:interrupted"]
    assert len(course) == 3 == job.attempts == len(provider.requests), "it was hedged once"
    assert not job.cost_complete


def test_a_job_whose_worker_died_after_the_cancel_ends_as_cancelled_without_a_call(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(script.hang())
    first = processes.worker(station.env)
    job_id = station.one()
    provider.wait_for(2)
    cancel(station.deps, station.project_id, job_id)
    first.kill()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert (job.status, job.attempts, job.cost_complete) == (JobStatus.CANCELLED, 2, False)
    assert station.course(job_id) == ["first:lost:interrupted", "second:lost:interrupted"]
    assert len(provider.requests) == 2


def test_a_deadline_that_passes_while_the_worker_lies_dead_is_kept(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(script.hang())
    first = processes.worker(station.env)
    job_id = station.one(deadline_s=3.0, models=("first/m",))
    provider.wait_for(1)
    first.kill()
    deadline = station.job(job_id).deadline_at
    assert deadline is not None
    wait_until(lambda: clock.now() > deadline, "the deadline")
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert (job.status, job.error["kind"]) == (JobStatus.EXPIRED, "deadline")
    assert job.deadline_at == deadline
    assert station.course(job_id) == ["first:lost:interrupted"]
    assert len(provider.requests) == 1
