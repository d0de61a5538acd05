"""A job's deadline: on its row, by the database's clock. Past it no call begins and nothing is waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import clock
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import JobView, NewJob
from worker.domain.state import AttemptState, JobStatus
from worker.services import sweep
from worker.store import claims, new_jobs, views
from worker.store.database import Database

EARLY_S = 0.05  # how much sooner than said an end may be seen: clocks of two kinds are compared


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path)) as made, made.worker():
        yield made


def expired(job: JobView) -> None:
    """It ended as one whose deadline passed, and not before that."""
    assert job.status is JobStatus.EXPIRED
    assert job.error["kind"] == "deadline"
    assert job.error["retryable"] is True
    assert job.result is None
    assert job.deadline_at is not None
    assert job.ended_at is not None
    assert -EARLY_S <= (job.ended_at - job.deadline_at).total_seconds() < 3.0


def passed(station: Station, job_id: str) -> None:
    deadline = station.job(job_id).deadline_at
    assert deadline is not None
    wait_until(lambda: clock.now() > deadline, "the deadline")


# -- before any call ----------------------------------------------------------------------------------------------


def test_a_queued_job_that_nobody_claims_is_expired_by_a_sweep(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    """A worker that does not serve its lane is enough."""
    quick = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1"}
    with closing(Station(database_url, provider, tmp_path, LANES="interactive", **quick)) as station:
        job_id = station.one(lane=Lane.BATCH, deadline_s=0.3)
        with station.worker():
            (job,) = station.ended([job_id], within_s=10.0)
    expired(job)
    assert job.started_at is None
    assert (job.attempts, provider.requests) == (0, [])


def test_every_passed_deadline_is_seen_to_in_one_sweep_and_no_other_job_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "EXPIRED_AT_ONCE", 10)

    def stored(n: int, deadline_s: float | None) -> list[str]:
        made = [
            NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("x",), {}, deadline_s=deadline_s)
            for _ in range(n)
        ]
        with database.write() as conn:
            new_jobs.insert(conn, made)
        return [job.id for job in made]

    late, later, never, claimed = stored(35, 0.001), stored(5, 60.0), stored(5, None), stored(5, 0.001)
    wait_until(lambda: _all_late(database, late + claimed), "their deadlines")
    with database.write() as conn:
        assert len(claims.claim(conn, claimed, worker_id="wrk_1", claim_id="clm_1")) == 5
    sweep.expire(database)
    with database.read() as conn:
        found = views.many(conn, "proj_a", late + later + never + claimed)
    for job_id in late:
        expired(found[job_id])
        assert found[job_id].version == 2
    assert {found[i].status for i in later + never} == {JobStatus.QUEUED}
    assert {found[i].status for i in claimed} == {JobStatus.IN_PROGRESS}, "whoever runs it ends it"


def _all_late(database: Database, ids: list[str]) -> bool:
    with database.read() as conn:
        found = views.many(conn, "proj_a", ids)
    return all(job.deadline_at is not None and job.deadline_at < clock.now() for job in found.values())


def test_a_job_that_waits_for_a_place_of_the_provider_expires_without_a_call(
    sqlite_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    held = provider.hold(script.chat("slow"))
    limits = "[providers.first.limits]\nconcurrency = 1\n"
    with closing(Station(sqlite_url, provider, tmp_path, more=limits)) as station, station.worker():
        first = station.one(models=("first/m",))
        provider.wait_for(1)
        began = time.monotonic()
        second = station.one(models=("first/m",), deadline_s=0.4)
        (job,) = station.ended([second], within_s=4.0)
        assert time.monotonic() - began < 3.0
        expired(job)
        held.release()
        station.ended([first])
    assert (job.attempts, len(provider.requests)) == (0, 1)


# -- between calls ------------------------------------------------------------------------------------------------


def test_a_parked_job_expires_at_its_deadline_and_not_at_the_end_of_its_park(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.services.run.IN_PLACE_S", 0.1)  # so that it parks for less than five seconds
    station.provider.always(script.error(429, "slow", code="rate_limit_exceeded", headers={"retry-after": "60"}))
    job_id = station.one(lane=Lane.BATCH, deadline_s=1.5)
    wait_until(lambda: station.course(job_id) == ["first:failed:rate_limit"], "the call")
    wait_until(lambda: station.job(job_id).status is JobStatus.QUEUED, "the park")
    parked = station.job(job_id)
    assert parked.deadline_at is not None
    assert abs((parked.run_at - parked.deadline_at).total_seconds()) < 0.5, "no wait past it"
    (job,) = station.ended([job_id], within_s=12.0)
    expired(job)
    assert len(station.provider.requests) == 1


def test_a_wait_in_place_ends_at_the_deadline(station: Station) -> None:
    station.provider.always(script.error(429, "slow", code="rate_limit_exceeded", headers={"retry-after": "4"}))
    began = time.monotonic()
    job = station.run(models=("first/m",), deadline_s=0.5)
    assert time.monotonic() - began < 3.0
    expired(job)
    assert job.attempts == 1 == len(station.provider.requests)


# -- while a call is open -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [script.hang(), script.chat("drips", drip=(5, 0.1))])
def test_an_open_call_is_cut_no_other_target_is_asked_and_the_cost_is_unknown(station: Station, slow: Any) -> None:
    station.provider.always(slow)
    began = time.monotonic()
    job = station.run(deadline_s=0.5)
    assert time.monotonic() - began < 3.0
    expired(job)
    assert station.course(job.id) == ["first:failed:deadline"]
    assert "deadline of the job" in (station.attempts(job.id)[0].row.reason or "")
    assert not job.cost_complete
    assert len(station.provider.requests) == 1


def test_two_open_calls_are_cut_together(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> None:
    provider.always(script.hang())
    with closing(Station(database_url, provider, tmp_path, more="hedge_after_s = 0.1")) as station, station.worker():
        job = station.run(deadline_s=0.6)
        expired(job)
        assert sorted(station.course(job.id)) == ["first:failed:deadline", "second:failed:deadline"]
    assert len(provider.requests) == 2


def test_deadlines_that_cut_calls_close_no_door(station: Station) -> None:
    """A job in a hurry says nothing against its target: many of them do not open its breaker."""
    station.provider.always(script.hang())
    ids = station.submit(12, deadline_s=0.3)
    assert {job.status for job in station.ended(ids)} == {JobStatus.EXPIRED}
    station.provider.always(script.chat("fine"))
    job = station.run()
    assert station.course(job.id) == ["first:answered"]


def test_a_silent_target_is_still_a_timeout_where_the_deadline_is_far(
    sqlite_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(lambda r: script.hang() if r.path.startswith("/first") else script.chat("second"))
    with closing(Station(sqlite_url, provider, tmp_path, more="attempt_timeout_s = 0.3")) as station:
        with station.worker():
            job = station.run(deadline_s=30.0)
        assert station.course(job.id) == ["first:failed:timeout", "second:answered"]


# -- across workers -----------------------------------------------------------------------------------------------


def test_the_deadline_goes_on_while_no_worker_runs(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(script.hang())
    with closing(Station(database_url, provider, tmp_path, DRAIN_S="1.0")) as station:
        with station.worker():
            job_id = station.one(deadline_s=1.5)
            provider.wait_for(1)
        given_back = station.job(job_id)
        assert (given_back.status, given_back.attempts) == (JobStatus.QUEUED, 1)
        passed(station, job_id)
        provider.always(script.chat("too late"))
        with station.worker():
            (job,) = station.ended([job_id])
        expired(job)
        assert job.deadline_at == given_back.deadline_at
        assert station.course(job_id) == ["first:cancelled:interrupted"]
    assert len(provider.requests) == 1


def test_the_next_worker_cuts_a_call_by_what_is_left_of_the_deadline(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(script.hang())
    with closing(Station(database_url, provider, tmp_path, DRAIN_S="1.0")) as station:
        with station.worker():
            job_id = station.one(deadline_s=1.8)
            provider.wait_for(1)
        with station.worker():
            (job,) = station.ended([job_id], within_s=8.0)
        expired(job)
        assert station.course(job_id) == ["first:cancelled:interrupted", "first:failed:deadline"]
        assert station.attempts(job_id)[1].row.state is AttemptState.FAILED
        assert station.attempts(job_id)[1].row.kind is FailureKind.DEADLINE
