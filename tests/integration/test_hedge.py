"""A slow call joined by one of the next target: who wins, what the other call leaves behind, and how it all ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Hold, Received, Script, ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import clock
from worker.domain.answer import Outcome
from worker.domain.failure import Lane
from worker.domain.job import STARTS_MAX, AttemptRow, Claimed, JobView, NewJob
from worker.domain.money import Usage
from worker.domain.state import AttemptState, JobStatus
from worker.engine import engine
from worker.engine.writer import Entry, Spooled, Writer
from worker.providers.transport import Reply
from worker.services import call, race
from worker.services.call import Letter
from worker.services.cancel import cancel
from worker.services.course import Course
from worker.services.submit import JobRequest, submit
from worker.store import attempts, claims, jobs, keys, new_jobs, orphans, views
from worker.store.database import Database

S = AttemptState
AFTER_S: Final = 0.1
PRICES: Final = """
[providers.first.models.m]
price = { input = 1, output = 10 }
[providers.second.models.m]
price = { input = 1, output = 10 }
"""
ANSWER: Final = script.chat("second", tokens=(100, 50))
COST: Final = 600_000  # nano-dollars of ANSWER

Make = Callable[..., Station]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


@pytest.fixture
def make(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Make]:
    with _maker(database_url, provider, tmp_path) as made:
        yield made


@pytest.fixture
def make_one(sqlite_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Make]:
    """On one database: for what is decided before anything is written."""
    with _maker(sqlite_url, provider, tmp_path) as made:
        yield made


@contextmanager
def _maker(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Make]:
    """A station whose route is hedged, with a worker; `bounds` and `tables` go below the route and the rest."""
    with ExitStack() as stack:

        def made(bounds: str = "", tables: str = PRICES, *, worker: bool = True, **env: str) -> Station:
            more = f"hedge_after_s = {AFTER_S}\n{bounds}\n{tables}"
            station = stack.enter_context(closing(Station(database_url, provider, tmp_path, more=more, **env)))
            if worker:
                stack.enter_context(station.worker())
            return station

        yield made


def by_target(
    first: Script | Callable[[], Script], second: Script | Callable[[], Script]
) -> Callable[[Received], Script]:
    def answer(received: Received) -> Script:
        chosen = first if received.path.startswith("/first") else second
        return chosen() if callable(chosen) else chosen

    return answer


def held(answer: Script) -> tuple[Hold, Script]:
    hold = Hold()
    return hold, replace(answer, hold=hold)


def balanced(station: Station, job: JobView) -> None:
    """The sums of the job are those of its attempts, and its calls those that the provider saw."""
    rows = [a.row for a in station.attempts(job.id)]
    usage, costs = Usage(None, None), [row.cost_nano for row in rows if row.cost_nano is not None]
    for row in rows:
        usage = usage + row.usage
    assert job.usage == usage
    assert job.cost_nano == (sum(costs) if costs else None)
    assert job.attempts == sum(row.state is not S.SKIPPED for row in rows)


# -- who wins -----------------------------------------------------------------------------------------------------


def test_a_call_that_ends_in_time_is_not_joined(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(script.chat("first"))
    station = make_one()
    job = station.run()
    assert job.result["text"] == "first"
    assert station.course(job.id) == ["first:answered"]
    assert len(provider.requests) == 1


def test_the_second_target_wins_and_the_first_is_hung_up_recorded_and_costed_as_unknown(
    make: Make, provider: ScriptedProvider
) -> None:
    provider.always(by_target(script.hang(), ANSWER))
    station = make()
    began = time.monotonic()
    job = station.run()
    assert time.monotonic() - began < 5.0
    assert job.status is JobStatus.COMPLETED
    assert job.result["text"] == "second"
    assert job.served is not None
    assert job.served.provider == "second"
    assert station.course(job.id) == ["first:cancelled:cancelled", "second:answered"]
    loser, winner = station.attempts(job.id)
    assert loser.row.reason == "lost the race: second/m answered first"
    assert loser.row.total_s is not None
    assert AFTER_S <= loser.row.total_s < 5.0
    assert loser.row.cost_nano is None
    assert winner.sent_at is not None
    assert loser.ended_at is not None
    assert winner.sent_at < loser.ended_at
    assert (job.cost_nano, job.cost_complete) == (COST, False), "what the loser cost nobody knows"
    balanced(station, job)
    provider.wait_open(1)


def test_the_first_target_may_win_after_all(make: Make, provider: ScriptedProvider) -> None:
    hold, first = held(script.chat("first"))
    provider.always(by_target(first, script.hang()))
    station = make()
    job_id = station.one()
    provider.wait_for(2)
    hold.release()
    (job,) = station.ended([job_id])
    assert job.result["text"] == "first"
    assert station.course(job_id) == ["first:answered", "second:cancelled:cancelled"]
    assert station.attempts(job_id)[1].row.reason == "lost the race: first/m answered first"
    balanced(station, job)


def test_two_answers_at_once_are_both_paid_and_one_is_the_result(
    make: Make, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are there before the loop looks: held back until then, for real sockets never agree so well."""
    looked = race._ended

    async def late(calls: list[Any], within_s: float | None = None) -> bool:
        if within_s is None:
            await asyncio.wait([one.task for one in calls])
        return await looked(calls, within_s)

    monkeypatch.setattr(race, "_ended", late)
    provider.always(by_target(script.chat("first", delay_s=3 * AFTER_S, tokens=(7, 3)), ANSWER))
    station = make()
    job = station.run()
    assert job.result["text"] == "first"
    assert station.course(job.id) == ["first:answered", "second:superseded"]
    late_one = station.attempts(job.id)[1].row
    assert late_one.reason == "lost the race: first/m answered first"
    assert (late_one.cost_nano, late_one.usage.input_tokens) == (COST, 100)
    assert job.cost_complete, "both are known"
    assert job.cost_nano == COST + 7_000 + 30_000
    balanced(station, job)


def test_a_route_that_does_not_ask_for_it_pays_nothing_for_it(
    sqlite_url: str, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task of its own for a call, and no timer: the call is awaited by the job's own task."""
    tasks: list[str] = []

    async def send(course: Course, letter: Letter) -> tuple[Outcome, Reply | None]:
        task = asyncio.current_task()
        assert task is not None
        tasks.append("the job's" if task is course.control.task else "one more")
        return await call.send(course, letter)

    monkeypatch.setattr("worker.services.run.send", send)
    monkeypatch.setattr("worker.services.race.send", send)
    provider.always(script.chat("fine"))
    with closing(Station(sqlite_url, provider, tmp_path)) as station, station.worker():
        station.run()
    assert tasks == ["the job's"]


# -- failures beside an open call ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [script.error(500, "oops"), script.error(400, "what?"), script.reset()])
def test_the_first_fails_while_the_second_is_open_and_no_third_starts(
    make: Make, provider: ScriptedProvider, fault: Script
) -> None:
    hold, first = held(fault)
    answer, second = held(ANSWER)
    provider.always(by_target(first, second))
    station = make()
    job_id = station.one()
    provider.wait_for(2)
    hold.release()
    wait_until(lambda: station.attempts(job_id)[0].row.state is S.FAILED, "the failure on record beside the open call")
    assert station.job(job_id).status is JobStatus.IN_PROGRESS
    assert len(provider.requests) == 2
    answer.release()
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.COMPLETED
    assert station.course(job_id)[1] == "second:answered"
    assert len(provider.requests) == 2
    balanced(station, job)


def test_a_failure_that_went_to_disk_leaves_the_open_call_alone(
    make_one: Make, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away for a while: the other call was given up, and its job held by nobody who knew of it."""
    write, spooled = Writer.write, threading.Event()

    def away(writer: Writer, entry: Entry, *, urgent: bool) -> asyncio.Future[bool]:
        future = write(writer, entry, urgent=urgent)
        if entry.close and not entry.begin and entry.settle is None:
            told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            told.set_exception(Spooled("on disk"))
            spooled.set()
            return told
        return future

    monkeypatch.setattr(Writer, "write", away)
    hold, first = held(script.error(500, "oops"))
    answer, second = held(ANSWER)
    provider.always(by_target(first, second))
    station = make_one()
    job_id = station.one()
    provider.wait_for(2)
    hold.release()
    assert spooled.wait(5.0)
    answer.release()
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.COMPLETED
    balanced(station, job)


def test_the_second_fails_and_the_first_still_answers(make: Make, provider: ScriptedProvider) -> None:
    hold, first = held(script.chat("first"))
    provider.always(by_target(first, script.error(400, "not of mine")))
    station = make()
    job_id = station.one()
    provider.wait_for(2)
    wait_until(lambda: "second:failed:bad_request" in station.course(job_id), "the failure on record")
    hold.release()
    (job,) = station.ended([job_id])
    assert (job.status, job.result["text"]) == (JobStatus.COMPLETED, "first")
    assert len(provider.requests) == 2


def test_both_fail_and_the_walk_goes_on_within_max_attempts_with_one_call_at_a_time(
    make: Make, provider: ScriptedProvider
) -> None:
    provider.always(script.error(500, "oops", delay_s=2 * AFTER_S))
    station = make("max_attempts = 4")
    job = station.run()
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "server_error"
    assert job.attempts == 4 == len(provider.requests)
    rows = station.attempts(job.id)
    beside = [b for a, b in pairwise(rows) if a.ended_at and b.sent_at and b.sent_at < a.ended_at]
    assert len(beside) == 1, "one extra call for a job, no more"
    balanced(station, job)


def test_max_attempts_leaves_no_room_for_a_second_call(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_target(script.chat("first", delay_s=3 * AFTER_S), ANSWER))
    station = make_one()
    job = station.run(max_attempts=1)
    assert station.course(job.id) == ["first:answered"]


def test_a_batch_line_is_never_hedged(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_target(script.chat("first", delay_s=3 * AFTER_S), ANSWER))
    station = make_one()
    job = station.run(lane=Lane.BATCH)
    assert station.course(job.id) == ["first:answered"]
    assert len(provider.requests) == 1


def test_a_provider_without_a_free_place_is_not_asked_and_places_come_back(
    make_one: Make, provider: ScriptedProvider
) -> None:
    provider.always(by_target(script.chat("first", delay_s=3 * AFTER_S), ANSWER))
    station = make_one(tables="[providers.second.limits]\nconcurrency = 1\n[providers.first.limits]\nconcurrency = 5\n")
    jobs = station.ended(station.submit(5))
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    seconds = [r for r in provider.requests if r.path.startswith("/second")]
    assert 1 <= len(seconds) <= 5
    for _ in range(3):  # every place that was taken is free again
        assert station.run().status is JobStatus.COMPLETED


# -- budgets ------------------------------------------------------------------------------------------------------


def asked(station: Station, key_id: str | None = None, **more: Any) -> str:
    request = JobRequest("completion", ("default",), {"prompt": "hello", "max_tokens": 50}, **more)
    return submit(station.deps, station.project_id, [request], key_id=key_id).ids[0]


ESTIMATE: Final = 500_000 + 15 * 1_000  # 50 tokens out, and about as many in as the stored request has letters / 4


def test_a_job_whose_budget_has_no_room_for_both_is_not_hedged(make: Make, provider: ScriptedProvider) -> None:
    provider.always(by_target(script.chat("first", delay_s=3 * AFTER_S), ANSWER))
    station = make()
    tight = station.ended([asked(station, max_cost_nano=int(1.5 * ESTIMATE))])[0]
    assert station.course(tight.id) == ["first:answered"]
    roomy = station.ended([asked(station, max_cost_nano=3 * ESTIMATE)])[0]
    assert station.course(roomy.id) == ["first:cancelled:cancelled", "second:answered"]


@pytest.mark.parametrize("room", [1.5, 3.0])
def test_a_key_holds_for_both_calls_and_is_charged_for_both(
    make: Make, provider: ScriptedProvider, room: float
) -> None:
    hold, first = held(ANSWER)
    provider.always(by_target(first, script.hang()))
    station = make()
    with station.deps.database.write() as conn:
        key = keys.create(conn, station.project_id, "a test", budget_nano=int(room * ESTIMATE))[0]

    def books() -> tuple[int, int]:
        with station.deps.database.read() as conn:
            (found,) = [one for one in keys.listed(conn) if one.id == key.id]
        return found.spent_nano, found.held_nano

    job_id = asked(station, key.id)
    if room > 2:
        provider.wait_for(2)
    else:
        provider.wait_for(1)
        time.sleep(3 * AFTER_S)  # nothing happens then: there is no event to wait for
    both = books()[1]
    estimates = [a.row.held_nano or 0 for a in station.attempts(job_id)]
    assert both == sum(estimates)
    assert len(estimates) == (2 if room > 2 else 1)
    hold.release()
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.COMPLETED
    unknown = sum(estimates[1:])
    assert books() == (COST + unknown, 0), "the answer's cost, and for the one hung up what was held"


# -- how it all ends ----------------------------------------------------------------------------------------------


def test_cancelled_with_two_calls_open_keeps_the_late_usage_and_hangs_the_other_up(
    make: Make, provider: ScriptedProvider
) -> None:
    hold, second = held(ANSWER)
    provider.always(by_target(script.hang(), second))
    station = make()
    job_id = station.one()
    provider.wait_for(2)
    cancel(station.deps, station.project_id, job_id)
    hold.release()
    (job,) = station.ended([job_id])
    assert (job.status, job.result, job.error, job.served) == (JobStatus.CANCELLED, None, None, None)
    assert station.course(job_id) == ["first:cancelled:cancelled", "second:answered"]
    assert (job.usage.input_tokens, job.cost_nano, job.cost_complete) == (100, COST, False)
    assert len(provider.requests) == 2
    balanced(station, job)


def test_cancelled_with_two_silent_calls_open_both_are_hung_up(
    make: Make, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "HANG_UP_S", 0.2)
    provider.always(script.hang())
    station = make()
    job_id = station.one()
    provider.wait_for(2)
    cancel(station.deps, station.project_id, job_id)
    (job,) = station.ended([job_id], within_s=5.0)
    assert job.status is JobStatus.CANCELLED
    assert station.course(job_id) == ["first:cancelled:cancelled", "second:cancelled:cancelled"]
    assert [a.row.reason for a in station.attempts(job_id)] == ["hung up: the job was cancelled"] * 2
    assert not job.cost_complete
    provider.wait_open(0)


def test_cancelled_before_the_delay_is_over_no_second_call_starts(make_one: Make, provider: ScriptedProvider) -> None:
    hold, first = held(script.chat("first"))
    provider.always(by_target(first, ANSWER))
    station = make_one("attempt_timeout_s = 5")
    job_id = station.one()
    provider.wait_for(1)
    cancel(station.deps, station.project_id, job_id)
    time.sleep(3 * AFTER_S)  # nothing happens then: there is no event to wait for
    assert len(provider.requests) == 1
    hold.release()
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.CANCELLED
    assert station.course(job_id) == ["first:answered"]
    assert job.attempts == 1


@pytest.mark.parametrize(("policy", "status"), [("retry", JobStatus.QUEUED), ("fail", JobStatus.FAILED)])
def test_a_drain_with_two_calls_open_hangs_up_both_and_gives_the_job_back(
    make: Make, provider: ScriptedProvider, policy: Any, status: JobStatus
) -> None:
    provider.always(script.hang())
    station = make(worker=False, DRAIN_S="1.2")
    with station.worker():
        job_id = station.one(on_interruption=policy)
        provider.wait_for(2)
    job = station.job(job_id)
    assert job.status is status
    assert station.course(job_id) == ["first:cancelled:interrupted", "second:cancelled:interrupted"]
    assert (job.attempts, job.cost_complete) == (2, False)
    if status is JobStatus.QUEUED:
        provider.always(by_target(script.chat("again", delay_s=3 * AFTER_S), ANSWER))
        with station.worker():
            (done,) = station.ended([job_id])
        assert done.status is JobStatus.COMPLETED
        assert station.course(job_id)[2:] == ["first:answered"], "it was hedged once, whoever runs it now"


def test_a_claim_lost_with_two_calls_open_changes_nothing_of_the_newer_fate(
    make: Make, provider: ScriptedProvider
) -> None:
    hold, first = held(script.chat("late"))
    provider.queue(first)
    provider.always(script.hang())
    station = make(worker=False)
    with station.worker() as worker:
        job_id = station.one()
        provider.wait_for(2)
        with station.deps.database.write() as conn:
            back = orphans.take_back(conn, worker.id)  # as a sweep that takes this worker for dead
            assert back.queued == 1
            jobs.cancel(conn, station.project_id, job_id)
        assert station.course(job_id) == ["first:lost:interrupted", "second:lost:interrupted"]
        before = station.job(job_id)
        assert before.status is JobStatus.CANCELLED
        hold.release()
        wait_until(lambda: station.attempts(job_id)[0].row.state is S.SUPERSEDED, "the late answer on record")
    after = station.job(job_id)
    assert (after.status, after.version, after.result) == (JobStatus.CANCELLED, before.version, None)
    assert station.course(job_id) == ["first:superseded", "second:cancelled:cancelled"]


def test_a_worker_that_died_with_two_calls_open_has_died_once(database: Database) -> None:
    (job_id,) = _stored(database)
    for death in range(1, STARTS_MAX + 1):
        with database.write() as conn:
            job = _claimed(conn, job_id)
            assert job.losses == death - 1
            attempts.begin(conn, [_sent(job, 2 * death - 1, "a"), _sent(job, 2 * death, "b")])
            back = orphans.take_back(conn, "wrk_1")
        assert (back.queued, back.failed) == ((0, 1) if death == STARTS_MAX else (1, 0))
    with database.read() as conn:
        rows = attempts.of_jobs(conn, [job_id])[job_id]
        view = views.get(conn, "proj_a", job_id)
    assert {row.row.state for row in rows} == {S.LOST}
    assert view is not None
    assert (view.attempts, view.cost_complete) == (2 * STARTS_MAX, False)
    assert f"died {STARTS_MAX} times" in view.error["message"]


def _claimed(conn: sa.Connection, job_id: str) -> Claimed:
    found = claims.claim(conn, [job_id], worker_id="wrk_1", claim_id=clock.new_id("clm"))
    job = found[0] if found else claims.claim_suspect(conn, list(Lane), worker_id="wrk_1", claim_id=clock.new_id("clm"))
    assert job is not None
    return job


def _stored(database: Database) -> list[str]:
    new = NewJob(clock.new_id("job"), "proj_a", "completion", Lane.INTERACTIVE, ("default",), {"prompt": "x"})
    with database.write() as conn:
        new_jobs.insert(conn, [new])
    return [new.id]


def _sent(job: Claimed, number: int, provider: str) -> AttemptRow:
    return AttemptRow(clock.new_id("att"), job.id, job.claim_id, number, S.SENT, f"{provider}/m", provider, "m")
