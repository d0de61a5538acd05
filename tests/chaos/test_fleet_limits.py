"""Limits and breakers of a fleet of real worker processes, against a provider that minds both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import scripted_provider as script
from tests.support.limited import Limited
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.failure import Lane
from worker.domain.state import JobStatus

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

QUICK = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "5", "COMPLETAR_POLL_S": "0.2", "SLOTS": "100"}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def test_three_workers_keep_within_one_limit_and_use_it_up(
    postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path, processes: Processes
) -> None:
    limited = Limited(rpm=2400)
    provider.always(limited)
    more = "[providers.first.limits]\nrpm = 2400\n"
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, more=more, **QUICK)) as station:
        for _ in range(3):
            processes.worker(station.env)
        ids = station.submit(320, lane=Lane.BATCH)
        jobs = station.ended(ids, within_s=40)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert len(limited.refused) <= 0.01 * len(limited.taken)
    first_half = limited.taken[: len(ids) * 3 // 4]  # at the end there is not work for all of them
    rate = (len(first_half) - 41) / (first_half[-1] - first_half[40])
    assert rate >= 0.9 * 40


def test_a_dead_target_is_left_alone_by_the_whole_fleet_and_used_again_when_it_is_back(
    postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path, processes: Processes
) -> None:
    back = False

    def answer(request: Received) -> Script:
        if request.path.startswith("/first") and not back:
            return script.error(500, "down")
        return script.chat("fine", delay_s=0.02)

    def to_first() -> list[Received]:
        return [r for r in provider.requests if r.path.startswith("/first")]

    provider.always(answer)
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as station:
        for _ in range(3):
            processes.worker(station.env)
        assert {job.status for job in station.ended(station.submit(60, lane=Lane.BATCH))} == {JobStatus.COMPLETED}
        time.sleep(1.0)  # as long as it may take until all know
        before = len(to_first())
        began = time.monotonic()
        while time.monotonic() - began < 6.0:
            station.ended(station.submit(20, lane=Lane.BATCH))
        assert len(to_first()) - before <= 2, "the first spell is 10 s; a fleet that counts apart would go on asking"
        back = True

        def in_use() -> bool:
            station.ended(station.submit(20))
            return len(to_first()) - before > 200

        wait_until(in_use, "the target to be used again", timeout_s=30.0)


def test_a_target_that_hangs_does_not_take_the_places_of_another(
    postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path, processes: Processes
) -> None:
    def answer(request: Received) -> Script:
        return script.hang() if request.path.startswith("/first") else script.chat("fine", delay_s=0.02)

    provider.always(answer)
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as station:
        hanging = station.submit(400, lane=Lane.BATCH, models=("first/m",))
        working = station.submit(400, lane=Lane.BATCH, models=("second/m",), prompt="other")
        worker = processes.worker(station.env)
        jobs = station.ended(working, within_s=15)
        assert {job.status for job in jobs} == {JobStatus.COMPLETED}
        assert all(job.status is not JobStatus.FAILED for job in station.jobs(hanging))
        worker.kill()
