"""A worker that lives and does not work is noticed: a dead loop ends the process, a stuck lane is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.processes import Processes
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import events
from worker.services import watchdog
from worker.services.watchdog import DEAD_LOOKS, EXIT_CODE, IDLE_LOOKS, SAID_EVERY, Watchdog
from worker.services.worker import Worker
from worker.store import claims

ALONE = """
import sys, time
from worker import events
from worker.services import watchdog
watchdog.LOOK_S = 0.05
from worker.deps import build
from worker.services.hints import NoHints
from worker.services.worker import Worker
from worker.settings import load
import os
events.configure()
worker = Worker(build(load(os.environ), NoHints(), connections=8))
worker.start()
worker.engine.loop.call_soon_threadsafe({fault})
time.sleep(20)
"""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path)) as made:
        yield made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    seen: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "emit", lambda name, **fields: seen.append((name, fields)))
    return seen


def dog_of(worker: Worker, ends: list[int]) -> Watchdog:
    return Watchdog(worker.engine, worker._deps.database, poll_s=1.0, end=ends.append)


def test_a_loop_that_turns_is_left_alone(station: Station) -> None:
    ends: list[int] = []
    with station.worker() as worker:
        dog = dog_of(worker, ends)
        for _ in range(2 * DEAD_LOOKS):
            turns = worker.engine.pulse().turns
            wait_until(lambda turns=turns: worker.engine.pulse().turns > turns, "a turn of the loop")
            dog.look_at_loop()
    assert ends == []


def test_a_loop_that_stands_still_ends_the_process(station: Station) -> None:
    ends: list[int] = []
    with station.worker() as worker:
        dog = dog_of(worker, ends)
        worker.engine.loop.call_soon_threadsafe(time.sleep, 1.0)
        turns = -1
        while turns != worker.engine.pulse().turns:  # until it is held up
            turns = worker.engine.pulse().turns
            time.sleep(0.1)
        for look in range(DEAD_LOOKS + 1):
            assert ends == [], f"after {look} looks"
            dog.look_at_loop()
    assert ends == [EXIT_CODE]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["worker.engine.loop.stop", "worker.engine._standing[0].cancel"])
def test_a_process_whose_loop_has_died_ends_and_says_why(
    processes: Processes, sqlite_url: str, tmp_path: Path, fault: str
) -> None:
    """For good or in part: nobody would refill a lane any more, while the heartbeat beats on."""
    env = {"DATABASE_URL": sqlite_url, "COMPLETAR_DATA_DIR": str(tmp_path), "COMPLETAR_SANDBOX": "on"}
    process = processes.python("alone", "-c", ALONE.format(fault=fault), env=env)
    assert process.wait(15) == EXIT_CODE, process.tail()
    assert '"engine.dead"' in process.output


def test_a_lane_that_takes_nothing_of_what_is_due_is_said(
    station: Station, said: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that never finds what is there, for whatever reason: a change of the claim that went wrong, say."""
    for claim in ("claim", "claim_block"):
        monkeypatch.setattr(claims, claim, lambda *_, **__: [])
    with station.worker() as worker:
        dog = dog_of(worker, [])
        for _ in range(5):
            dog.look_at_lanes()
        station.one()
        for _ in range(IDLE_LOOKS - 1):
            dog.look_at_lanes()
        assert _stuck(said) == []
        dog.look_at_lanes()
        assert [fields["lane"] for fields in _stuck(said)] == ["interactive"]
        assert _stuck(said)[0]["level"] == "error"
        for _ in range(SAID_EVERY):
            dog.look_at_lanes()
        assert len(_stuck(said)) == 2, "again after a while, not at every look"
        monkeypatch.undo()


def test_a_lane_that_works_or_has_nothing_to_do_is_not(
    station: Station, provider: ScriptedProvider, said: list[tuple[str, dict[str, Any]]]
) -> None:
    with station.worker() as worker:
        dog = dog_of(worker, [])
        for _ in range(2 * IDLE_LOOKS):
            station.run()
            dog.look_at_lanes()
        held = provider.hold(script.chat("later"))
        job_id = station.one()
        provider.wait_for(2 * IDLE_LOOKS + 1)
        for _ in range(2 * IDLE_LOOKS):
            dog.look_at_lanes()
        held.release()
        station.ended([job_id])
    assert _stuck(said) == []


def _stuck(said: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [fields for name, fields in said if name == "lane.stuck"]


def test_who_looks_rarely_for_itself_is_given_more_time(station: Station) -> None:
    with station.worker() as worker:
        dog = Watchdog(worker.engine, worker._deps.database, poll_s=60.0)
    assert dog._patience * watchdog.LOOK_S > 60.0
