"""Cancels that race with everything else: one move wins, no call follows, and what was paid is in the books."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import clock
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Ending, JobView, NewJob, Return, Served
from worker.domain.money import Usage
from worker.domain.state import AttemptState, JobStatus
from worker.engine import engine
from worker.engine.writer import Entry, store
from worker.services.cancel import cancel
from worker.store import attempts, claims, jobs, new_jobs, settling, views
from worker.store.attempts import Attempt
from worker.store.database import Database
from worker.store.settling import Settle

RACES: Final = 1_000
PROJECT: Final = "proj_a"
USAGE: Final = Usage(100, 50)
COST: Final = 600_000
S = JobStatus
PRICES: Final = "[providers.first.models.m]\nprice = { input = 1, output = 10 }\n"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine", tokens=(100, 50)))
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path, more=PRICES)) as made, made.worker():
        yield made


def balanced(job: JobView, calls: list[Attempt]) -> None:
    """The job's sums are those of its attempts, and a cancelled one shows nothing but them."""
    usage, cost = Usage(None, None), None
    for past in calls:
        usage = usage + past.row.usage
        if past.row.cost_nano is not None:
            cost = (cost or 0) + past.row.cost_nano
    assert (job.usage, job.cost_nano, job.attempts) == (usage, cost, len(calls))
    if job.status is S.CANCELLED:
        assert (job.result, job.error, job.served) == (None, None, None)
    if job.status is S.COMPLETED:
        assert job.result is not None


# -- two connections ----------------------------------------------------------------------------------------------


def test_of_a_thousand_cancels_that_race_a_finish_each_has_one_winner_and_the_books_balance(
    database: Database,
) -> None:
    """A finish is an answer, a failure, or a job that is given back: the last must never escape its cancel."""
    ends: list[Ending | Return] = [
        Ending(S.COMPLETED, result='{"text":"x"}', served=Served("first", "First", "m")),
        Ending(S.FAILED, error=Failure(FailureKind.TIMEOUT, "silent")),
        Return(),
    ]
    held, rows = _running(database, RACES)
    told: dict[str, JobStatus] = {}
    moved: dict[str, bool] = {}
    start = threading.Barrier(2, timeout=60)
    faults: list[BaseException] = []

    def people() -> None:
        for job in held:
            start.wait(30)
            time.sleep(0.002 * clock.draw())
            with database.write() as conn:
                status = jobs.cancel(conn, PROJECT, job.id)
            assert status is not None
            told[job.id] = status

    def worker() -> None:
        for n, job in enumerate(held):
            to = ends[n % len(ends)]
            over = _answered(rows[job.id])
            move = Settle(job.id, job.claim_id, to, calls=1, rows=1, usage=USAGE, cost_nano=COST)
            start.wait(30)
            time.sleep(0.002 * clock.draw())
            with database.write() as conn:
                (held_still,) = store(conn, [Entry(job.id, job.claim_id, close=[over], settle=move)])
            moved[job.id] = held_still is True

    threads = [threading.Thread(target=_kept, args=(side, faults, start)) for side in (people, worker)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert faults == []
    ids = [job.id for job in held]
    with database.read() as conn:
        found = views.many(conn, PROJECT, ids)
        calls = attempts.of_jobs(conn, ids)
    outcomes: Counter[tuple[int, JobStatus]] = Counter()
    for n, job_id in enumerate(ids):
        job, to = found[job_id], ends[n % len(ends)]
        kind = n % len(ends)
        outcomes[kind, job.status] += 1
        assert moved[job_id], "the claim was never lost"
        balanced(job, calls[job_id])
        if told[job_id] in {S.CANCELLING, S.CANCELLED}:
            assert job.status is S.CANCELLED, "who was told that it stops finds it stopped"
        else:
            assert isinstance(to, Ending)
            assert told[job_id] is job.status is to.status
            assert job.version == 3
    assert outcomes[2, S.CANCELLED] == len(range(2, RACES, 3)), "no job that was given back escaped"
    for kind, other in ((0, S.COMPLETED), (1, S.FAILED)):
        assert outcomes[kind, S.CANCELLED] > 10, f"both must win now and then: {outcomes}"
        assert outcomes[kind, other] > 10, f"both must win now and then: {outcomes}"


def _running(database: Database, n: int) -> tuple[list[Claimed], dict[str, AttemptRow]]:
    """Claimed jobs with one open call each."""
    new = [
        NewJob(clock.new_id("job"), PROJECT, "completion", Lane.INTERACTIVE, ("default",), {"prompt": "x"})
        for _ in range(n)
    ]
    with database.write() as conn:
        new_jobs.insert(conn, new)
        held = claims.claim(conn, [job.id for job in new], worker_id="wrk_1", claim_id=clock.new_id("clm"))
        rows = {
            job.id: AttemptRow(clock.new_id("att"), job.id, job.claim_id, 1, AttemptState.SENT, "a/m", "a", "m")
            for job in held
        }
        attempts.begin(conn, list(rows.values()))
    return held, rows


def _answered(row: AttemptRow) -> AttemptRow:
    return replace(row, state=AttemptState.ANSWERED, usage=USAGE, cost_nano=COST)


def _kept(side: object, faults: list[BaseException], start: threading.Barrier) -> None:
    try:
        side()  # type: ignore[operator]
    except BaseException as fault:  # noqa: BLE001 - told by the test's own thread
        faults.append(fault)
        start.abort()


@pytest.mark.postgres
def test_a_cancel_waits_for_a_job_that_is_just_given_back_and_ends_it(postgres_url: str) -> None:
    """Step by step what the races do by chance: the row is locked by its return to the queue."""
    with closing(Database(postgres_url)) as database:
        (job,), _ = _running(database, 1)
        told: list[JobStatus | None] = []

        def people() -> None:
            with database.write() as conn:
                told.append(jobs.cancel(conn, PROJECT, job.id))

        with database.write() as conn:
            settling.settle(conn, [Settle(job.id, job.claim_id, Return(60.0))])
            thread = threading.Thread(target=people)
            thread.start()
            wait_until(lambda: _waiting(database), "the cancel to wait for the row")
        thread.join(10)
        assert told == [S.CANCELLED]


def _waiting(database: Database) -> bool:
    with database.read() as conn:
        found = conn.execute(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one()
    return bool(found)


# -- the look-out -------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_the_look_out_is_one_probe_of_an_index_whatever_the_size_of_the_table(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        _, _ = _running(database, 50)
        with database.write() as conn:
            conn.exec_driver_sql(
                "INSERT INTO job (id, project_id, kind, lane, status, version, priority, models, created_at, queued_at,"
                " run_at, ended_at, attempts, rows, losses, on_interruption, cost_complete) SELECT 'job_' || n, 'p',"
                " 'completion', 'batch', CASE WHEN n > 10000 THEN 'queued' ELSE 'completed' END, 1, 0, '[]', now(),"
                " now(), now(), now(), 1, 1, 0, 'retry', true FROM generate_series(1, 20000) n"
            )
        with database.write() as conn:
            conn.exec_driver_sql("ANALYZE job")
            conn.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            seen: list[str] = []
            sa.event.listen(conn, "before_execute", lambda _c, statement, *_: seen.append(str(statement)))
            jobs.cancelling(conn, "wrk_1")
            (statement,) = seen
            conn.exec_driver_sql(f"PREPARE look(text) AS {statement.replace(':worker_id_1', '$1')}")
            plan = "\n".join(conn.exec_driver_sql("EXPLAIN EXECUTE look('wrk_1')").scalars())
    assert "ix_job_claimed" in plan
    assert "Seq Scan" not in plan


def test_a_line_in_hand_that_has_not_begun_is_cancelled_though_every_place_is_taken(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    held = provider.hold(script.chat("slow"))
    with closing(Station(database_url, provider, tmp_path, SLOTS="1")) as station, station.worker():
        ids = station.submit(3, lane=Lane.BATCH)
        provider.wait_for(1)
        wait_until(lambda: all(job.status is S.IN_PROGRESS for job in station.jobs(ids)), "all three to be claimed")
        (waiting, *_) = [job_id for job_id in ids if not station.attempts(job_id)]
        cancel(station.deps, station.project_id, waiting)
        (job,) = station.ended([waiting], within_s=3.0)
        assert (job.status, job.attempts) == (S.CANCELLED, 0)
        held.release()
        others = station.ended([job_id for job_id in ids if job_id != waiting])
        assert {job.status for job in others} == {S.COMPLETED}
    assert len(provider.requests) == 2


def test_a_job_that_waits_for_a_place_of_its_provider_hears_of_its_cancel(
    sqlite_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    held = provider.hold(script.chat("slow"))
    limits = "[providers.first.limits]\nconcurrency = 1\n"
    with closing(Station(sqlite_url, provider, tmp_path, more=limits)) as station, station.worker():
        first = station.one(models=("first/m",))
        provider.wait_for(1)
        second = station.one(models=("first/m",))
        wait_until(lambda: station.job(second).status is S.IN_PROGRESS, "the claim")
        cancel(station.deps, station.project_id, second)
        (job,) = station.ended([second], within_s=2.0)
        assert (job.status, job.attempts) == (S.CANCELLED, 0)
        held.release()
        assert station.ended([first])[0].status is S.COMPLETED
        assert station.run(models=("first/m",)).status is S.COMPLETED, "the place is free again"


# -- the open call ------------------------------------------------------------------------------------------------


def test_an_answer_within_the_grace_is_kept_with_its_cost_and_is_not_the_result(
    station: Station, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.chat("late", tokens=(100, 50)))
    job_id = station.one()
    provider.wait_for(1)
    cancel(station.deps, station.project_id, job_id)
    held.release()
    (job,) = station.ended([job_id])
    assert (job.status, job.version, job.cost_nano, job.cost_complete) == (S.CANCELLED, 4, COST, True)
    balanced(job, station.attempts(job_id))


def test_a_failure_within_the_grace_is_on_its_attempt_and_starts_nothing(
    station: Station, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.error(400, "what?"))
    job_id = station.one()
    provider.wait_for(1)
    cancel(station.deps, station.project_id, job_id)
    held.release()
    (job,) = station.ended([job_id])
    assert station.course(job_id) == ["first:failed:bad_request"]
    assert job.status is S.CANCELLED
    balanced(job, station.attempts(job_id))


def test_after_the_grace_the_call_is_hung_up_and_its_cost_is_unknown(
    station: Station, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HANG_UP_S", 0.2)
    provider.always(script.hang())
    job_id = station.one()
    provider.wait_for(1)
    cancel(station.deps, station.project_id, job_id)
    (job,) = station.ended([job_id], within_s=5.0)
    (attempt,) = station.attempts(job_id)
    assert job.status is S.CANCELLED
    assert (attempt.row.state, attempt.row.kind) == (AttemptState.CANCELLED, FailureKind.CANCELLED)
    assert attempt.row.total_s is not None
    assert (attempt.row.cost_nano, job.cost_complete) == (None, False)
    provider.wait_open(0)


def test_a_cancel_during_a_drain_hangs_up_after_the_grace_and_not_at_the_end_of_the_drain(
    sqlite_url: str, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HANG_UP_S", 0.2)
    provider.always(script.hang())
    with closing(Station(sqlite_url, provider, tmp_path, DRAIN_S="30")) as station:
        with station.worker() as worker:
            job_id = station.one(on_interruption="fail")
            provider.wait_for(1)
            began = time.monotonic()
            draining = threading.Thread(target=worker.stop)
            draining.start()
            cancel(station.deps, station.project_id, job_id)
            draining.join(20)
            assert time.monotonic() - began < 10.0
        job = station.job(job_id)
        assert job.status is S.CANCELLED
        assert station.course(job_id) == ["first:cancelled:cancelled"]


def test_two_hundred_cancels_through_the_engine_end_each_job_once_with_its_books_in_order(
    station: Station, provider: ScriptedProvider
) -> None:
    provider.always(lambda _: script.chat("fine", tokens=(100, 50), delay_s=0.05 * clock.draw()))
    ids = station.submit(200)
    told = {}
    for job_id in ids:
        view = cancel(station.deps, station.project_id, job_id)
        assert view is not None
        told[job_id] = view.status
    found = station.ended(ids)
    asked = Counter(r.json["messages"][0]["content"] for r in provider.requests)
    for n, job in enumerate(found):
        assert job.status in {S.COMPLETED, S.CANCELLED}
        if told[job.id] is not S.COMPLETED:
            assert job.status is S.CANCELLED
        balanced(job, station.attempts(job.id))
        assert asked[f"hello {n}"] == job.attempts <= 1
