"""A process is killed at each point between two effects, once; what it promised must hold without it.

`tests/support/crashing_worker.py` names the points and wraps the functions there; another worker then finds what the
dead one left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.crashing_worker import DEAD, POINTS
from tests.support.processes import Processes
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from worker.domain.state import JobStatus
from worker.services.idempotency import IdempotencyKey
from worker.services.submit import JobRequest, submit
from worker.store.tables import job

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

QUICK: Final = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "1", "COMPLETAR_POLL_S": "0.1"}


@dataclass(frozen=True)
class Promise:
    """What another worker makes of it: calls that the provider saw in all, and the course on record."""

    calls: int
    course: list[str]


_AS_IF_NOTHING: Final = Promise(1, ["first:answered"])
# What was marked counts as sent, for nobody can know; what was answered and not recorded is asked again.
_UNKNOWN: Final = ["first:lost:interrupted", "first:answered"]
PROMISES: Final = {
    "claim.before_commit": _AS_IF_NOTHING,
    "claim.after_commit": _AS_IF_NOTHING,
    "mark.before_commit": _AS_IF_NOTHING,
    "mark.after_commit": Promise(1, _UNKNOWN),
    "send.before": Promise(1, _UNKNOWN),
    "send.after_before_record": Promise(2, _UNKNOWN),
    "record.before_commit": Promise(2, _UNKNOWN),
    "record.after_commit": _AS_IF_NOTHING,
}
# Jobs that a process stored before it died there.
STORED: Final = {
    "submit.before_rows": 0,
    "submit.between_key_and_rows": 0,
    "submit.before_commit": 0,
    "submit.after_commit_before_hint": 1,
}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(postgres_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(postgres_url, provider, tmp_path, **QUICK)) as made:
        yield made


def _die(processes: Processes, station: Station, point: str) -> None:
    process = processes.python("dying", "-m", "tests.support.crashing_worker", point, "1", env=station.env)
    assert process.wait() == DEAD, process.tail()


def test_every_point_has_its_promise() -> None:
    assert PROMISES.keys() | STORED.keys() == POINTS.keys()


@pytest.mark.parametrize("point", PROMISES)
def test_a_worker_killed_there_breaks_no_promise(
    station: Station, provider: ScriptedProvider, processes: Processes, point: str
) -> None:
    promise = PROMISES[point]
    job_id = station.one()
    _die(processes, station, point)
    dead = station.job(job_id)
    with station.worker():
        (ended,) = station.ended([job_id], within_s=15)
    assert ended.status is JobStatus.COMPLETED
    assert station.course(job_id) == promise.course
    assert len(provider.requests) == promise.calls
    assert ended.attempts == len(promise.course)
    if point == "record.after_commit":
        assert ended == dead, "an end does not change"


@pytest.mark.parametrize(
    ("point", "calls"), [("mark.before_commit", 1), ("mark.after_commit", 0), ("send.after_before_record", 1)]
)
def test_a_call_that_may_not_be_repeated_is_not(
    station: Station, provider: ScriptedProvider, processes: Processes, point: str, calls: int
) -> None:
    job_id = station.one(on_interruption="fail")
    _die(processes, station, point)
    with station.worker():
        (ended,) = station.ended([job_id], within_s=15)
    assert len(provider.requests) == calls
    assert ended.status is (JobStatus.COMPLETED if point == "mark.before_commit" else JobStatus.FAILED)


@pytest.mark.parametrize("point", STORED)
def test_who_asks_again_after_a_crash_has_one_job(
    station: Station, provider: ScriptedProvider, processes: Processes, point: str
) -> None:
    _die(processes, station, point)
    assert _jobs(station) == STORED[point]
    ask = JobRequest("completion", ("default",), {"prompt": "once"})
    made = submit(station.deps, station.project_id, [ask], IdempotencyKey("jobs", "k", "f"))
    assert made.replayed is bool(STORED[point])
    assert _jobs(station) == 1
    with station.worker():
        (ended,) = station.ended(made.ids, within_s=15)
    assert ended.status is JobStatus.COMPLETED
    assert len(provider.requests) == 1


def _jobs(station: Station) -> int:
    with station.deps.database.read() as conn:
        return conn.execute(sa.select(sa.func.count()).select_from(job)).scalar_one()
