"""Two workers on one database: what one is told by a provider, the other knows; who waits goes on when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.deps import build
from worker.domain import pause as pausing
from worker.domain.failure import Lane
from worker.domain.job import JobView
from worker.domain.pause import Pause, PauseKind, Scope
from worker.domain.state import JobStatus
from worker.services import pauses as services
from worker.services.hints import NoHints
from worker.services.worker import Worker
from worker.store import parked, pauses

SOON_S = 0.5  # to the first probe, here
SPENT = script.error(429, "pay first", code="insufficient_quota")
REFUSED = script.error(401, "Incorrect API key provided: k-bad", code="invalid_api_key")
POOL = """
[providers.pool]
format = "openai"
base_url = "{url}/pool/v1"
api_keys = ["POOL_1", "POOL_2", "POOL_3"]
accounts = {{ POOL_3 = "other" }}
"""
KEYS = {f"POOL_{n}": f"secret-{n}-0123456789" for n in (1, 2, 3)}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    more = POOL.format(url=provider.url)
    with closing(Station(database_url, provider, tmp_path, more=more, **KEYS)) as made:
        yield made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes come quickly."""
    monkeypatch.setattr(pausing, "FIRST_PROBE_S", MappingProxyType(dict.fromkeys(PauseKind, SOON_S)))


@contextmanager
def fleet(station: Station, n: int = 2) -> Iterator[list[Worker]]:
    """Workers that hear of each other through the database alone."""
    with ExitStack() as stack:
        workers = []
        for _ in range(n):
            deps = build(station.settings, NoHints(), connections=8)
            stack.callback(deps.database.close)
            worker = Worker(deps)
            worker.start()
            stack.callback(worker.stop)
            workers.append(worker)
        yield workers


def holding(station: Station) -> list[Pause]:
    with station.deps.database.read() as conn:
        return pauses.holding(conn)


def is_parked(job: JobView) -> bool:
    return job.status is JobStatus.QUEUED and job.waiting_for is not None


def all_parked(station: Station, ids: list[str]) -> list[JobView]:
    wait_until(lambda: all(map(is_parked, station.jobs(ids))), "jobs to be parked")
    return station.jobs(ids)


def one(station: Station) -> str:
    return station.one(models=("pool/m",), lane=Lane.BATCH)


def some(station: Station, n: int, lane: Lane = Lane.BATCH) -> list[str]:
    return station.submit(n, models=("pool/m",), lane=lane)


def test_a_spent_account_stops_the_whole_fleet_and_its_jobs_wait(station: Station, provider: ScriptedProvider) -> None:
    provider.always(SPENT)
    with fleet(station) as workers:
        first = one(station)
        wait_until(lambda: len(holding(station)) == 2, "both accounts to be paused")
        calls = len(provider.requests)
        assert calls == 2, "one for each account"
        time.sleep(1.0)  # within which every process must have heard
        more = some(station, 40) + some(station, 10, Lane.INTERACTIVE)
        jobs = all_parked(station, [first, *more])
        assert len(provider.requests) == calls, "nobody of the fleet asked again"
        assert all(worker.engine.report()["in_flight"] for worker in workers)
    assert {job.attempts for job in jobs[1:]} == {0}
    pause = holding(station)[0]
    assert jobs[0].attempts == 2
    assert {job.waiting_for.kind for job in jobs if job.waiting_for is not None} == {"quota"}
    assert all(job.waiting_for is not None and "pay first" in job.waiting_for.reason for job in jobs)
    assert min(job.run_at for job in jobs) >= pause.since_at
    assert {pause.scope for pause in holding(station)} == {
        Scope("account", "pool", "pool"),
        Scope("account", "pool", "other"),
    }


def test_one_probe_at_a_time_and_all_go_on_when_it_is_answered(
    station: Station, provider: ScriptedProvider, soon: None
) -> None:
    provider.always(SPENT)
    with fleet(station):
        all_parked(station, [one(station)])  # what is out when the first failure comes cannot be held back
        time.sleep(services.LOOK_S * 1.5)  # every process must have heard; there is no event to wait for
        ids = some(station, 60)
        all_parked(station, ids)
        wait_until(lambda: min((pause.probes for pause in holding(station)), default=0) >= 2, "two probes each")
        probed = sum(pause.probes for pause in holding(station))
        assert len(provider.requests) <= 2 + probed
        versions = [job.version for job in station.jobs(ids)]
        assert sum(versions) <= 3 * len(ids) + 3 * probed, "claimed and parked once; the others were left in peace"
        provider.always(script.chat("back"))
        jobs = station.ended(ids)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert len(holding(station)) < 2, "the one that was probed first was enough"
    with station.deps.database.read() as conn:
        assert parked.marks(conn) == []


def test_a_command_ends_the_pause_and_all_go_on_at_once(station: Station, provider: ScriptedProvider) -> None:
    provider.always(SPENT)
    with fleet(station):
        ids = some(station, 30)
        all_parked(station, ids)
        wait_until(lambda: len(holding(station)) == 2, "both pauses to be on record")
        provider.always(script.chat("paid"))
        with station.deps.database.write() as conn:
            assert pauses.end_all_by(conn, "pool", "key_1") == 2
        began = time.monotonic()
        jobs = station.ended(ids)
        assert time.monotonic() - began < 4.0
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert all(job.attempts <= 3 for job in jobs)


def test_a_restart_keeps_the_pause(station: Station, provider: ScriptedProvider) -> None:
    provider.always(SPENT)
    with fleet(station, 1):
        all_parked(station, [one(station)])
    calls = len(provider.requests)
    ids = some(station, 5)
    with fleet(station, 1):
        jobs = all_parked(station, ids)
        assert len(provider.requests) == calls, "the first claim of a new process knows it"
    assert {job.attempts for job in jobs} == {0}


def test_the_dead_keys_of_a_pool_are_asked_once_by_the_whole_fleet(
    station: Station, provider: ScriptedProvider
) -> None:
    alive = f"Bearer {KEYS['POOL_3']}"
    provider.always(lambda r: script.chat("alive") if r.headers["authorization"] == alive else REFUSED)
    with fleet(station, 1):
        assert station.run(models=("pool/m",)).attempts == 3
    refused = len(provider.requests) - 1
    assert refused == 2
    with fleet(station):
        ids = some(station, 20) + some(station, 5, Lane.INTERACTIVE)
        jobs = station.ended(ids)
    assert {(job.status, job.attempts) for job in jobs} == {(JobStatus.COMPLETED, 1)}
    assert len(provider.requests) == refused + 1 + len(ids)
    assert {(p.kind, p.scope.name) for p in holding(station)} == {
        (PauseKind.AUTH, "POOL_1"),
        (PauseKind.AUTH, "POOL_2"),
    }
    assert all("k-bad" not in pause.reason for pause in holding(station))


def test_where_every_key_is_refused_lines_wait_and_who_is_waited_for_fails(
    station: Station, provider: ScriptedProvider
) -> None:
    provider.always(REFUSED)
    with fleet(station):
        asked = station.run(models=("pool/m",))
        assert (asked.status, asked.error["kind"]) == (JobStatus.FAILED, "auth")
        (line,) = all_parked(station, [one(station)])
        assert line.waiting_for is not None
        assert line.waiting_for.kind == "auth"
        provider.always(script.chat("mended"))
        with station.deps.database.write() as conn:
            assert pauses.end_all_by(conn, "pool", "key_1", key="POOL_2") == 1
        (job,) = station.ended([line.id])
    assert job.status is JobStatus.COMPLETED
    assert provider.requests[-1].headers["authorization"] == f"Bearer {KEYS['POOL_2']}", "one of several is enough"


def test_a_key_that_was_replaced_is_asked_at_once(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    more = POOL.format(url=provider.url)
    mended = {name: f"{secret}-mended" for name, secret in KEYS.items()}
    with closing(Station(database_url, provider, tmp_path, more=more, **KEYS)) as before:
        provider.always(REFUSED)
        with fleet(before, 1):
            line = one(before)
            all_parked(before, [line])
        with fleet(before, 1):
            asked = before.run(models=("pool/m",))
            assert asked.attempts == 0, "the same keys stay refused over a restart"
    provider.always(script.chat("mended"))
    with closing(Station(database_url, provider, tmp_path, more=more, **mended)) as after, fleet(after, 1):
        assert after.run(models=("pool/m",)).status is JobStatus.COMPLETED
        (job,) = after.ended([line], within_s=5)
        assert job.status is JobStatus.COMPLETED
        assert holding(after) == []


def test_a_pause_of_one_target_is_probed_though_another_serves(
    station: Station, provider: ScriptedProvider, soon: None
) -> None:
    spent = True

    def answer(received: Received) -> script.Script:
        return SPENT if spent and received.path.startswith("/first") else script.chat("fine")

    provider.always(answer)
    with fleet(station):
        assert station.run().served.provider == "second"  # type: ignore[union-attr]
        (pause,) = wait_until(lambda: holding(station), "the pause to be on record")
        assert pause.scope == Scope("target", "first", "first/m"), "no key, so no account to speak of"
        spent = False
        wait_until(lambda: station.run().attempts and not holding(station), "the pause to end")
        wait_until(lambda: station.run().served.provider == "first", "both workers to have heard of it", 5)


def test_the_wait_a_provider_names_is_a_floor(station: Station, provider: ScriptedProvider, soon: None) -> None:
    provider.always(script.error(429, "x", code="insufficient_quota", headers={"retry-after": "1800"}))
    with fleet(station, 1):
        (job,) = all_parked(station, [one(station)])
    assert all(1700 < pause.wait_s <= 1800 for pause in holding(station))
    assert (job.run_at - job.created_at).total_seconds() > 1700


def test_a_deadline_ends_a_job_in_its_park(station: Station, provider: ScriptedProvider) -> None:
    provider.always(SPENT)
    with fleet(station, 1):
        job_id = station.one(models=("pool/m",), deadline_s=1.5)
        all_parked(station, [job_id])
        (job,) = station.ended([job_id], within_s=10)
    assert job.status is JobStatus.EXPIRED
    assert job.waiting_for is None


def test_a_door_that_a_person_closes_stays_so_until_it_is_opened(station: Station, provider: ScriptedProvider) -> None:
    scope = Scope("target", "first", "first/m")
    with fleet(station) as workers:
        with station.deps.database.write() as conn:
            pauses.begin_by(conn, scope, "moving house", "key_1")
        time.sleep(services.LOOK_S * 1.5)  # every process must have heard; there is no event to wait for
        alone = station.one(models=("first/m",))
        assert station.run().served.provider == "second"  # type: ignore[union-attr]
        (job,) = all_parked(station, [alone])
        assert job.waiting_for is not None
        assert (job.waiting_for.reason, job.waiting_for.until_at) == ("moving house", None)
        with station.deps.database.write() as conn:
            pauses.end_by(conn, scope, "key_1")
        (job,) = station.ended([alone], within_s=5)
        assert job.served.provider == "first"  # type: ignore[union-attr]
        assert len(workers) == 2


def test_a_circuit_breaker_that_a_person_closes_lets_calls_through_at_once(
    station: Station, provider: ScriptedProvider
) -> None:
    provider.always(script.error(503, "busy"))
    with fleet(station, 1) as (worker,):
        station.submit(8, models=("first/m",), max_attempts=20)

        def is_open() -> bool:
            assert worker._gate is not None
            return "first/m" in worker._gate.report(time.monotonic())["targets"]

        wait_until(is_open, "the breaker to open")
        provider.always(script.chat("back"))
        began = time.monotonic()
        with station.deps.database.write() as conn:
            pauses.end_by(conn, Scope("target", "first", "first/m"), "key_1")
        wait_until(lambda: not is_open(), "the breaker to be closed", 3)
        assert station.run(models=("first/m",)).status is JobStatus.COMPLETED
        assert time.monotonic() - began < 5.0, "by itself it opens after ten seconds"
