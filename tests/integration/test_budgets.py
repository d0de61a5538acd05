"""Budgets of jobs and of API keys through the real engine: held before a call, settled after, never passed by much."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import clock
from worker.domain.budget import charged
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Ending, JobView, NewJob, Return
from worker.domain.money import NANO, Usage, nano_of
from worker.domain.question import AnswerSpec
from worker.domain.state import AttemptState, JobStatus
from worker.engine.entry import Entry
from worker.engine.writer import OverBudget, store
from worker.services.ask import Asked, panel_of
from worker.services.cancel import cancel
from worker.services.submit import JobRequest, submit
from worker.store import attempts, claims, keys, new_jobs, orphans
from worker.store.database import Database
from worker.store.keys import ApiKey
from worker.store.settling import Settle

K, S = FailureKind, AttemptState
# $1 a million tokens in, $10 a million out: an answer of 100 and 50 tokens costs $0.0006.
IN_NANO, OUT_NANO = 1_000, 10_000
COST: Final = 100 * IN_NANO + 50 * OUT_NANO
PRICES: Final = """
[providers.first.models.m]
price = { input = 1, output = 10 }
[providers.second.models.m]
price = { input = 1, output = 10 }
"""
ANSWER: Final = script.chat("fine", tokens=(100, 50))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(ANSWER)
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path, more=PRICES)) as made, made.worker():
        yield made


def estimate(ceiling: int = 50, prompt: str = "hello 0") -> int:
    """Nano-dollars held for a job of `asked`."""
    body = f'{{"input":{{"prompt":"{prompt}","max_tokens":{ceiling}}},"output_schema":null}}'
    return -(-len(body) // 4) * IN_NANO + ceiling * OUT_NANO


def asked(station: Station, n: int = 1, *, key: ApiKey | None = None, ceiling: int = 50, **more: Any) -> list[str]:
    """Jobs that may cost `estimate` each (their number has one digit, or the prompts differ in length)."""
    made = [
        JobRequest("completion", ("default",), {"prompt": f"hello {i % 10}", "max_tokens": ceiling}, **more)
        for i in range(n)
    ]
    return list(submit(station.deps, station.project_id, made, key_id=None if key is None else key.id).ids)


def ran(station: Station, **more: Any) -> JobView:
    return station.ended(asked(station, **more))[0]


def budgeted(station: Station, nano: int | None) -> ApiKey:
    with station.deps.database.write() as conn:
        return keys.create(conn, station.project_id, "a test", budget_nano=nano)[0]


def books(database: Database, key: ApiKey) -> tuple[int, int]:
    """Spent and held, nano-dollars."""
    with database.read() as conn:
        (found,) = [one for one in keys.listed(conn) if one.id == key.id]
    return found.spent_nano, found.held_nano


# -- a job's --------------------------------------------------------------------------------------------------------


def test_a_call_that_could_pass_max_cost_is_not_made(station: Station) -> None:
    job = ran(station, max_cost_nano=estimate() - 1)
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "budget"
    assert job.error["retryable"] is False
    assert "a call of first/m may cost $0.000517" in job.error["message"]
    assert station.provider.requests == []
    assert station.course(job.id) == []
    assert (job.attempts, job.cost_nano, job.cost_complete, job.max_cost_nano) == (0, None, True, estimate() - 1)


def test_a_call_that_fits_exactly_is_made_and_costs_what_it_costs(station: Station) -> None:
    job = ran(station, max_cost_nano=estimate())
    assert job.status is JobStatus.COMPLETED
    assert (job.cost_nano, job.cost_complete) == (COST, True)
    assert station.attempts(job.id)[0].row.held_nano == estimate()


def test_without_a_ceiling_1024_tokens_are_held(station: Station) -> None:
    (job_id,) = station.submit(max_cost_nano=1_024 * OUT_NANO)
    (job,) = station.ended([job_id])
    assert job.error["kind"] == "budget", "the input is not free"
    (job_id,) = station.submit(max_cost_nano=1_024 * OUT_NANO + 100 * IN_NANO)
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.COMPLETED


def test_what_earlier_calls_cost_counts_and_stays_on_record(station: Station) -> None:
    schema = {"type": "object", "required": ["n"]}
    job = ran(station, output_schema=schema, max_cost_nano=COST + estimate() - 1)
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "budget"
    assert station.course(job.id) == ["first:failed:schema_mismatch"]
    assert len(station.provider.requests) == 1
    assert job.cost_nano == COST


def test_calls_that_nobody_bills_use_up_nothing(station: Station) -> None:
    station.provider.always(lambda r: script.error(503, "busy") if r.path.startswith("/first") else ANSWER)
    job = ran(station, max_cost_nano=estimate())
    assert job.status is JobStatus.COMPLETED
    assert station.course(job.id) == ["first:failed:overloaded"] * 3 + ["second:answered"]


def test_a_call_of_unknown_cost_uses_up_what_was_held_for_it(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(lambda r: script.hang() if r.path.startswith("/first") else ANSWER)
    with closing(Station(database_url, provider, tmp_path, more=f"attempt_timeout_s = 0.3\n{PRICES}")) as station:
        with station.worker():
            tight, wide = station.ended(
                asked(station, max_cost_nano=2 * estimate() - 1) + asked(station, max_cost_nano=2 * estimate())
            )
        assert tight.error["kind"] == "budget"
        assert station.course(tight.id) == ["first:failed:timeout"]
        assert (tight.cost_nano, tight.cost_complete) == (None, False), "what was held is no cost"
        assert station.course(wide.id) == ["first:failed:timeout", "second:answered"]


def test_tokens_that_were_not_told_are_not_free(station: Station, provider: ScriptedProvider) -> None:
    said = [{"message": {"role": "assistant", "content": "long"}, "finish_reason": "stop"}]
    provider.always(script.reply(json_body={"choices": said, "usage": {"prompt_tokens": 10}}))
    key = budgeted(station, NANO)
    job = ran(station, key=key)
    assert (job.status, job.usage) == (JobStatus.COMPLETED, Usage(10))
    assert (job.cost_nano, job.cost_complete) == (None, False)
    assert books(station.deps.database, key) == (estimate(), 0)


def test_an_embedding_has_no_tokens_to_be_told_of(station: Station, provider: ScriptedProvider) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
    provider.always(script.reply(json_body={"data": [vector], "usage": {"prompt_tokens": 10, "total_tokens": 10}}))
    (job,) = station.ended(station.submit(kind="embedding"))
    assert (job.status, job.cost_nano, job.cost_complete) == (JobStatus.COMPLETED, 10 * IN_NANO, True)


BROKEN: Final = {
    "a cut body": script.reply(body='{"choices": [{"message": {"content": "a long and paid ans'),
    "no json": script.reply(body="<html>"),
    "a reset after the request": script.reset(),
    "a connection that closes without a reply": script.drop(),
}


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_broke_on_its_way_may_have_been_billed(
    station: Station, provider: ScriptedProvider, how: script.Script
) -> None:
    provider.always(lambda r: how if r.path.startswith("/first") else script.error(400, "no"))
    key = budgeted(station, NANO)
    job = ran(station, key=key)
    broken = [one.row for one in station.attempts(job.id) if one.row.target == "first/m"]
    assert {row.kind for row in broken} <= {K.SERVER_ERROR, K.CONNECTION, K.BAD_OUTPUT}
    assert (job.cost_nano, job.cost_complete) == (None, False)
    assert books(station.deps.database, key) == (len(broken) * estimate(), 0)


def test_a_call_that_never_left_costs_nothing_and_that_is_known(station: Station, provider: ScriptedProvider) -> None:
    provider.stop()
    key = budgeted(station, NANO)
    job = ran(station, key=key, max_attempts=1)
    assert station.course(job.id) == ["first:failed:connection"]
    assert (job.cost_nano, job.cost_complete) == (0, True)
    assert books(station.deps.database, key) == (0, 0)


def test_a_fault_of_ours_leaves_no_call_open_and_no_money_held(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    key = budgeted(station, NANO)
    with monkeypatch.context() as patch:
        patch.setattr("worker.services.call.judge", broken)
        job = ran(station, key=key)
    assert (job.status, job.error["kind"]) == (JobStatus.FAILED, "internal")
    (call,) = [one.row for one in station.attempts(job.id)]
    assert (call.state, call.kind) == (S.LOST, K.INTERNAL)
    assert (job.attempts, job.cost_nano, job.cost_complete) == (1, None, False)
    assert books(station.deps.database, key) == (estimate(), 0), "nobody knows what it cost: the hold is charged"


def test_a_panel_that_a_fault_of_ours_ends_holds_no_money_either(
    station: Station, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    key = budgeted(station, NANO)
    panel = panel_of({}, Asked("Will it rain?", AnswerSpec("boolean"), model="first/m", samples=3))
    request = JobRequest("prediction", panel.models, panel.stored())
    with monkeypatch.context() as patch:
        patch.setattr("worker.services.call.judge", broken)
        (job_id,) = submit(station.deps, station.project_id, [request], key_id=key.id).ids
        (job,) = station.ended([job_id])
    wait_until(lambda: books(station.deps.database, key)[1] == 0, "nothing is held")
    calls = [one.row for one in station.attempts(job.id)]
    assert {row.state for row in calls} <= {S.LOST, S.CANCELLED, S.ANSWERED, S.FAILED}
    assert books(station.deps.database, key) == (sum(map(charged, calls)), 0)


def test_a_target_of_unknown_price_is_passed_over_with_the_reason(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    priced = "\n[providers.second.models.m]\nprice = { input = 1, output = 10 }\n"
    with closing(Station(database_url, provider, tmp_path, more=priced)) as station:
        with station.worker():
            job = ran(station, max_cost_nano=NANO)
            by_key = ran(station, key=budgeted(station, NANO))
            free = ran(station, key=budgeted(station, None))
        for one in (job, by_key):
            assert station.course(one.id) == ["first:skipped:budget", "second:answered"]
            skip = station.attempts(one.id)[0].row
            assert skip.reason == "the price of first/m is not known, and the job has a budget"
        assert station.course(free.id) == ["first:answered"]


def test_where_no_price_is_known_a_job_with_a_budget_makes_no_call(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    with closing(Station(database_url, provider, tmp_path)) as station:
        with station.worker():
            job = ran(station, max_cost_nano=NANO)
        assert job.error["kind"] == "budget"
        assert "the price of first/m is not known" in job.error["message"]
        assert station.course(job.id) == ["first:skipped:budget", "second:skipped:budget"]
        assert provider.requests == []


def test_a_call_that_died_with_its_worker_still_counts(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    with closing(Station(database_url, provider, tmp_path, more=PRICES)) as station:
        (job_id,) = asked(station, max_cost_nano=2 * estimate() - 1)
        database = station.deps.database
        with database.write() as conn:
            (job,) = claims.claim(conn, [job_id], worker_id="wrk_dead", claim_id=clock.new_id("clm"))
            attempts.begin(conn, [call(job, estimate())])
            orphans.take_back(conn, "wrk_dead")
        with station.worker():
            (ended,) = station.ended([job_id])
        assert ended.error["kind"] == "budget"
        assert provider.requests == []
        assert ended.attempts == 1


# -- a key's --------------------------------------------------------------------------------------------------------


def test_a_key_is_charged_what_its_calls_cost_and_nothing_stays_held(station: Station) -> None:
    key = budgeted(station, NANO)
    job = ran(station, key=key)
    assert job.status is JobStatus.COMPLETED
    assert books(station.deps.database, key) == (COST, 0)


def test_a_spent_key_makes_no_more_calls_and_its_jobs_say_why(station: Station) -> None:
    key = budgeted(station, COST + estimate() - 1)
    first, second = ran(station, key=key), ran(station, key=key)
    assert first.status is JobStatus.COMPLETED
    assert second.status is JobStatus.FAILED
    assert second.error["kind"] == "budget"
    assert second.error["message"] == (
        "the key's budget is $0.001116999: $0.0006 is spent, $0 is held for open calls, "
        "and this call may cost $0.000517"
    )
    assert station.course(second.id) == []
    assert second.attempts == 0
    assert len(station.provider.requests) == 1
    assert books(station.deps.database, key) == (COST, 0)


def test_a_cancelled_call_costs_the_key_what_it_cost(station: Station) -> None:
    key = budgeted(station, NANO)
    held = station.provider.hold(ANSWER)
    (job_id,) = asked(station, key=key)
    station.provider.wait_for(1)
    assert books(station.deps.database, key) == (0, estimate())
    cancel(station.deps, station.project_id, job_id)
    held.release()
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.CANCELLED
    assert books(station.deps.database, key) == (COST, 0)


def test_a_call_hung_up_on_at_the_end_of_a_drain_costs_what_was_held(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(script.hang())
    with closing(Station(database_url, provider, tmp_path, more=PRICES, DRAIN_S="1")) as station:
        key = budgeted(station, NANO)
        with station.worker():
            (job_id,) = asked(station, key=key)
            provider.wait_for(1)
        assert station.course(job_id) == ["first:cancelled:interrupted"]
        assert books(station.deps.database, key) == (estimate(), 0)


@pytest.mark.postgres
@pytest.mark.parametrize("lane", list(Lane))
def test_of_a_hundred_jobs_at_once_only_those_the_budget_has_room_for_make_calls(
    postgres_url: str, provider: ScriptedProvider, tmp_path: Path, lane: Lane
) -> None:
    """All ten are open together, and each answer costs more than what was held for it."""
    with closing(Station(postgres_url, provider, tmp_path, more=PRICES)) as station:
        key = budgeted(station, 11 * estimate() - 1)
        held_back = [provider.hold(ANSWER) for _ in range(10)]
        with station.worker():
            ids = asked(station, 100, key=key, lane=lane)
            wait_until(lambda: sum(job.status is JobStatus.FAILED for job in station.jobs(ids)) == 90, "90 refusals")
            assert books(station.deps.database, key) == (0, 10 * estimate())
            for one in held_back:
                one.release()
            ended = station.ended(ids)
        done = [job for job in ended if job.status is JobStatus.COMPLETED]
        refused = [job for job in ended if job.status is JobStatus.FAILED]
        assert (len(done), len(refused)) == (10, 90)
        assert len(provider.requests) == 10
        assert {job.error["kind"] for job in refused} == {"budget"}
        assert all(station.course(job.id) == [] for job in refused)
        spent, held = books(station.deps.database, key)
        assert (spent, held) == (10 * COST, 0) == (sum(job.cost_nano or 0 for job in ended), 0)
        assert spent - (11 * estimate() - 1) <= estimate(), "though each answer cost more than what was held for it"


@pytest.mark.postgres
def test_two_workers_and_many_rounds_overspend_by_less_than_one_reservation(
    postgres_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    """Answers cost at most what was held, as with a ceiling they do: then the budget holds to the nano-dollar."""
    cheap = script.chat("fine", tokens=(10, 50))
    provider.always(replace(cheap, delay_s=0.02))
    with closing(Station(postgres_url, provider, tmp_path, more=PRICES)) as station:
        key = budgeted(station, nano_of(0.02))
        with station.worker(), station.worker():
            ended = station.ended(asked(station, 100, key=key, lane=Lane.BATCH))
        spent, held = books(station.deps.database, key)
        assert held == 0
        assert spent <= nano_of(0.02)
        assert spent == sum(job.cost_nano or 0 for job in ended)
        assert nano_of(0.02) - spent < estimate() + 100 * (estimate() - 10 * IN_NANO - 50 * OUT_NANO)
        assert len(provider.requests) == sum(job.status is JobStatus.COMPLETED for job in ended)


# -- the books ------------------------------------------------------------------------------------------------------


def made(database: Database, n: int, key: ApiKey | None) -> list[str]:
    new = [
        NewJob(
            *(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("m",), {}),
            key_id=None if key is None else key.id,
        )
        for _ in range(n)
    ]
    with database.write() as conn:
        new_jobs.insert(conn, new)
    return [job.id for job in new]


def claimed(database: Database, ids: list[str], worker_id: str = "wrk_1") -> list[Claimed]:
    with database.write() as conn:
        return claims.claim(conn, ids, worker_id=worker_id, claim_id=clock.new_id("clm"))


def new_key(database: Database, nano: int | None) -> ApiKey:
    with database.write() as conn:
        return keys.create(conn, "proj_a", "a test", budget_nano=nano)[0]


def call(job: Claimed, held_nano: int | None, **more: Any) -> AttemptRow:
    fields: dict[str, Any] = {"state": S.SENT, "target": "a/m", "provider": "a", "model": "m", **more}
    return AttemptRow(clock.new_id("att"), job.id, job.claim_id, 1, held_nano=held_nano, **fields)


def begins(job: Claimed, *rows: AttemptRow, close: tuple[AttemptRow, ...] = ()) -> Entry:
    return Entry(job.id, job.claim_id, begin=rows, close=close, budget_key=job.budget_key)


def closes(job: Claimed, row: AttemptRow) -> Entry:
    move = Settle(job.id, job.claim_id, Return(), calls=1)
    return Entry(job.id, job.claim_id, close=[row], settle=move, budget_key=job.budget_key)


def stored(database: Database, *entries: Entry, again: bool = False) -> list[bool | Exception]:
    with database.write() as conn:
        return store(conn, entries, again=again)


def test_a_group_that_does_not_fit_is_held_one_by_one_in_order(database: Database) -> None:
    key, other = new_key(database, 100), new_key(database, 5)
    held = claimed(database, made(database, 5, key))
    (apart,) = claimed(database, made(database, 1, other))
    skip = call(held[1], None, state=S.SKIPPED, kind=K.BUDGET)
    found = stored(
        database,
        begins(held[0], call(held[0], 60)),
        begins(held[1], skip, call(held[1], 50)),
        begins(apart, call(apart, 5)),
        begins(held[2], call(held[2], 30)),
        begins(held[3], call(held[3], 11)),
        begins(held[4], call(held[4], 10)),
    )
    assert [isinstance(one, OverBudget) for one in found] == [False, True, False, False, True, False]
    assert isinstance(found[4], OverBudget)
    assert found[4].failure.message.startswith("the key's budget is $0.0000001: $0 is spent, $0.00000009 is held")
    assert books(database, key) == (0, 100)
    assert books(database, other) == (0, 5)
    with database.read() as conn:
        rows = attempts.of_jobs(conn, [job.id for job in held])
    assert [[one.row.state for one in rows[job.id]] for job in held] == [[S.SENT], [S.SKIPPED], [S.SENT], [], [S.SENT]]


def test_what_closes_in_a_flush_makes_room_for_what_begins_in_it(database: Database) -> None:
    key = new_key(database, 100)
    first, second = claimed(database, made(database, 2, key))
    row = call(first, 100)
    assert stored(database, begins(first, row)) == [True]
    again = call(first, 40)
    cheap = replace(row, state=S.FAILED, kind=K.BAD_OUTPUT, cost_nano=20)
    assert stored(database, begins(second, call(second, 40)), begins(first, again, close=(cheap,))) == [True, True]
    assert books(database, key) == (20, 80)


def test_a_claim_that_was_lost_holds_nothing(database: Database) -> None:
    key = new_key(database, 100)
    (job,) = claimed(database, made(database, 1, key))
    with database.write() as conn:
        orphans.take_back(conn, "wrk_1")
    assert stored(database, begins(job, call(job, 60))) == [False]
    assert books(database, key) == (0, 0)


def test_calls_of_a_dead_worker_are_charged_what_was_held_until_their_answer_comes_after_all(
    database: Database,
) -> None:
    key, free = new_key(database, 100), new_key(database, None)
    first, second = claimed(database, made(database, 2, key))
    (bounded,) = claimed(database, made(database, 1, free))
    rows = [call(first, 60), call(second, 30)]
    stored(database, begins(first, rows[0]), begins(second, rows[1]), begins(bounded, call(bounded, 7)))
    with database.write() as conn:
        orphans.take_back(conn, "wrk_1")
    assert books(database, key) == (90, 0)
    assert books(database, free) == (0, 0), "it has no budget; the hold was the job's own"
    late = replace(rows[0], state=S.ANSWERED, cost_nano=10, usage=Usage(1, 1))
    move = Settle(first.id, first.claim_id, Ending(JobStatus.COMPLETED, result="{}"), calls=1)
    entry = Entry(first.id, first.claim_id, close=[late], settle=move, budget_key=first.budget_key)
    assert stored(database, entry) == [True], "nobody has asked again: it is the result"
    assert books(database, key) == (40, 0)
    assert stored(database, entry, again=True) == [True], "as after a commit whose answer got lost"
    assert books(database, key) == (40, 0)


def test_without_a_budget_no_statement_is_added(database: Database) -> None:
    seen: list[str] = []
    (job,) = claimed(database, made(database, 1, new_key(database, None)))
    assert job.budget_key is None
    event.listen(database._engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    row = call(job, None)
    stored(database, begins(job, row))
    assert len(seen) - seen.count("BEGIN IMMEDIATE") == 1, "the mark, with the fence in it"
    seen.clear()
    stored(database, closes(job, replace(row, state=S.ANSWERED)))
    assert len(seen) - seen.count("BEGIN IMMEDIATE") == 2, "the move and the outcome"
    assert not any("api_key" in statement for statement in seen)


OUTCOMES: Final = (
    {"state": S.ANSWERED, "cost_nano": 0},
    {"state": S.ANSWERED, "cost_nano": 35},
    {"state": S.ANSWERED},
    {"state": S.FAILED, "kind": K.AUTH},
    {"state": S.FAILED, "kind": K.TIMEOUT},
    {"state": S.CANCELLED, "kind": K.CANCELLED},
    {"state": S.CANCELLED},
)
STEP: Final = st.one_of(
    st.tuples(st.just("begin"), st.lists(st.integers(0, 60), min_size=1, max_size=4)),
    st.tuples(st.just("close"), st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=3)),
    st.tuples(st.just("again"), st.just(None)),
    st.tuples(st.just("die"), st.just(None)),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(0, 200), steps=st.lists(STEP, max_size=12))
def test_the_books_balance_whatever_happens(database: Database, budget: int, steps: list[tuple[str, Any]]) -> None:
    """Spent is what calls took that are over, held is what is held for open ones, and no hold passes the budget."""
    key, worker = new_key(database, budget), clock.new_id("wrk")
    open_calls: list[tuple[Claimed, AttemptRow]] = []
    last: list[Entry] = []
    everything: list[str] = []
    for what, with_ in steps:
        before = sum(books(database, key))
        match what:
            case "begin":
                ids = made(database, len(with_), key)
                everything += ids
                new = list(zip(claimed(database, ids, worker), with_, strict=True))
                rows = [(job, call(job, nano)) for job, nano in new]
                found = stored(database, *(begins(job, row) for job, row in rows))
                open_calls += [one for one, result in zip(rows, found, strict=True) if result is True]
                room = budget - before
                assert sum(row.held_nano or 0 for _, row in rows) > room or all(one is True for one in found)
                assert sum(books(database, key)) <= max(budget, before)
            case "close":
                over, open_calls = open_calls[: len(with_)], open_calls[len(with_) :]
                last = [closes(job, replace(row, **how)) for (job, row), how in zip(over, with_, strict=False)]
                stored(database, *last)
            case "again":
                stored(database, *last)
            case "die":  # its calls may still be closed: then it was not dead
                with database.write() as conn:
                    orphans.take_back(conn, worker)
        with database.read() as conn:
            rows = [one.row for found in attempts.of_jobs(conn, everything).values() for one in found]
        still = sum(row.held_nano or 0 for row in rows if row.state is S.SENT)
        assert books(database, key) == (sum(charged(row) for row in rows if row.state is not S.SENT), still)


@pytest.mark.postgres
@pytest.mark.parametrize("first", ["close", "take_back"])
def test_a_close_and_a_burial_at_once_charge_once(postgres_url: str, first: str) -> None:
    with closing(Database(postgres_url)) as database:
        key = new_key(database, 100)
        (job,) = claimed(database, made(database, 1, key))
        row = call(job, 60)
        stored(database, begins(job, row))
        closing_entry = closes(job, replace(row, state=S.ANSWERED, cost_nano=10))
        moves: dict[str, Callable[[sa.Connection], object]] = {
            "close": lambda conn: store(conn, [closing_entry]),
            "take_back": lambda conn: orphans.take_back(conn, "wrk_1"),
        }
        second = moves.pop("take_back" if first == "close" else "close")

        def late() -> None:
            with database.write() as conn:
                second(conn)

        thread = threading.Thread(target=late)
        with database.write() as conn:
            moves[first](conn)
            thread.start()
            wait_until(lambda: _waits(database), "the second to wait for the first")
        thread.join()
        assert books(database, key) == (10, 0)


def _waits(database: Database) -> bool:
    with database.read() as conn:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(conn.exec_driver_sql(waiting).scalar_one())
