"""Panels whose worker is killed, frozen or stopped in the middle: what was paid for is kept, and asked for once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.test_first_faults import QUICK
from tests.support import scripted_provider as script
from tests.support.panel import COST, asked, by_name, calls, held, in_turn, put, says, station_for
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.state import AttemptState, JobStatus

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

ALL = {"early_stop": False}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with ExitStack() as stack:
        yield station_for(stack, postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)


def _votes_on_record(station: Station, job_id: str, count: int) -> None:
    wait_until(
        lambda: sum(one.row.state is AttemptState.ANSWERED for one in station.attempts(job_id)) == count,
        f"{count} votes on record",
    )


def test_kill_9_in_the_middle_keeps_the_votes_that_were_paid_for(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(by_name({name: in_turn(script.hang(), says(True)) for name in "de"}, says(True)))
    first = processes.worker(station.env)
    job_id = put(station, asked(consensus=ALL))
    _votes_on_record(station, job_id, 3)
    provider.wait_for(5)
    first.kill()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.status is JobStatus.COMPLETED
    assert (job.result["answer"], job.result["usable"]) == (True, 5)
    assert sorted(calls(provider)) == ["a", "b", "c", "d", "d", "e", "e"], "who had voted was not asked again"
    lost = [one.row.member for one in station.attempts(job_id) if one.row.state is AttemptState.LOST]
    assert sorted(name or "" for name in lost) == ["d/model-d", "e/model-e"]
    assert (job.attempts, job.cost_nano, job.cost_complete) == (7, 5 * COST, False)
    assert job.result["cost"] == {"amount": 5 * COST / 1e9, "currency": "USD", "complete": False}


def test_five_lost_calls_of_one_panel_are_one_death(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(by_name({}, in_turn(*[script.hang()] * 5, says(True))))
    worker = processes.worker(station.env)
    job_id = put(station, asked())
    provider.wait_for(5)
    worker.kill()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.status is JobStatus.COMPLETED, "five calls that died with one worker are not five deaths"


def test_a_panel_that_may_not_be_repeated_ends_with_its_worker(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(by_name({"a": says(True)}, script.hang()))
    worker = processes.worker(station.env)
    job_id = put(station, asked(), on_interruption="fail")
    provider.wait_for(5)
    worker.kill()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert (job.status, job.error["kind"]) == (JobStatus.FAILED, "interrupted")
    assert len(provider.requests) == 5


def test_sigterm_in_the_middle_gives_a_panel_back_with_its_votes(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    provider.always(by_name({"e": in_turn(script.hang(), says(True))}, says(True)))
    worker = processes.worker({**station.env, "DRAIN_S": "2"})
    job_id = put(station, asked(consensus=ALL))
    _votes_on_record(station, job_id, 4)
    worker.terminate()
    assert worker.wait() == 0
    assert station.job(job_id).status is JobStatus.QUEUED
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.result["usable"] == 5
    assert sorted(calls(provider)) == ["a", "b", "c", "d", "e", "e"]


def test_a_frozen_worker_cannot_write_over_the_panel_that_went_on_without_it(
    station: Station, provider: ScriptedProvider, processes: Processes
) -> None:
    hold, late = held(says(False))
    provider.always(by_name({"e": in_turn(late, says(True))}, says(True)))
    frozen = processes.worker(station.env)
    job_id = put(station, asked(consensus=ALL))
    _votes_on_record(station, job_id, 4)
    frozen.freeze()
    processes.worker(station.env)
    (job,) = station.ended([job_id], within_s=20)
    assert job.result["agreement"] == 1.0
    hold.release()
    frozen.thaw()
    wait_until(
        lambda: any(one.row.state is AttemptState.SUPERSEDED for one in station.attempts(job_id)),
        "the late vote on record",
    )
    again = station.job(job_id)
    assert (again.result, again.version) == (job.result, job.version)
