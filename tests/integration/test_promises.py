"""Promises about the order of effects, each looked at from the outside at the moment it is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, Script, ScriptedProvider
from tests.support.station import Station
from worker import clock
from worker.domain.failure import Lane
from worker.domain.job import Return
from worker.services.hints import NoHints
from worker.services.idempotency import IdempotencyKey
from worker.services.submit import JobRequest, submit
from worker.store import claims, idempotency, jobs, projects, settling, workers
from worker.store.settling import Settle
from worker.store.tables import attempt, job

ASK = JobRequest("completion", ("default",), {"prompt": "p"})


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path)) as made:
        yield made


def test_workers_hear_of_a_job_only_when_it_is_stored(station: Station) -> None:
    seen: list[int] = []

    class Looking(NoHints):
        def jobs(self, ids: Sequence[str]) -> None:
            with station.deps.database.read() as conn:
                rows = conn.execute(sa.select(job.c.id).where(job.c.id.in_(ids))).all()
            seen.append(len(rows))

    submit(replace(station.deps, hints=Looking()), station.project_id, [ASK, ASK])
    assert seen == [2]


def test_no_call_leaves_before_its_mark_is_on_record(station: Station, provider: ScriptedProvider) -> None:
    """Asked of the database when the request arrives, which is later than the mark and perhaps not by much."""
    marks: list[int] = []

    def looking(_received: Received) -> Script:
        with station.deps.database.read() as conn:
            marks.append(conn.execute(sa.select(sa.func.count()).where(attempt.c.state == "sent")).scalar_one())
        return script.chat("fine")

    provider.always(looking)
    with station.worker() as worker:
        store = worker.engine.writer._store

        def slow(entries: object, **more: object) -> object:
            clock_s = clock.monotonic_s()
            while clock.monotonic_s() - clock_s < 0.1:  # a database that takes its time
                pass
            return store(entries, **more)  # type: ignore[arg-type]

        worker.engine.writer._store = slow  # type: ignore[method-assign, assignment]
        station.run()
    assert marks == [1]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_workers_wrong_clock_decides_nothing(station: Station, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    database = station.deps.database
    due, parked = station.submit(2, lane=Lane.BATCH, deadline_s=600.0)
    with database.write() as conn:
        workers.register(conn, worker_id="wrk", host="h", pid=1, lanes=["batch"], release="1")
        (held,) = claims.claim(conn, [parked], worker_id="wrk", claim_id="clm")
        settling.settle(conn, [Settle(parked, held.claim_id, Return(600.0))])
        assert idempotency.remember(conn, "proj", "jobs", "k", "f", [])
    right = clock.now
    monkeypatch.setattr(clock, "now", lambda: right() + timedelta(hours=hours))
    with database.write() as conn:
        assert workers.bury(conn, 15.0) == 0
        assert jobs.expire(conn) == 0
        assert jobs.purge(conn, 60.0) == 0
        found = claims.claim(conn, [due, parked], worker_id="wrk", claim_id="clm_2")
        assert [job.id for job in found] == [due]
        assert idempotency.find(conn, "proj", "jobs", "k") is not None


def test_an_idempotency_key_is_of_one_project(station: Station) -> None:
    with station.deps.database.write() as conn:
        other = projects.ensure(conn, "other")
    first = submit(station.deps, station.project_id, [ASK], IdempotencyKey("jobs", "k", "f"))
    theirs = submit(station.deps, other, [ASK], IdempotencyKey("jobs", "k", "f"))
    assert (first.replayed, theirs.replayed) == (False, False)
    assert first.ids != theirs.ids
