"""Predictions through the real engine: votes, failures of every kind, early stops, fallbacks, and all the ways out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import scripted_provider as script
from tests.support.panel import COST, PANEL, SPARE, asked, by_name, calls, held, in_turn, put, says, station_for
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.answer import Json
from worker.domain.failure import Lane
from worker.domain.job import JobView
from worker.domain.panel import Place
from worker.domain.pause import Scope, ids_in
from worker.domain.question import AnswerSpec
from worker.domain.state import AttemptState, JobStatus
from worker.services.cancel import cancel
from worker.services.outcomes import record_outcome, scores_of
from worker.services.predict import CLOSED
from worker.store import parked, pauses

S = AttemptState
ALL: Final = {"early_stop": False}
Make = Callable[..., Station]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def _maker(stack: ExitStack, database_url: str, provider: ScriptedProvider, folder: Path) -> Make:
    def made(more: str = "", *, worker: bool = True, **env: str) -> Station:
        station = station_for(stack, database_url, provider, folder, more, **env)
        if worker:
            stack.enter_context(station.worker())
        return station

    return made


@pytest.fixture
def make(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Make]:
    with ExitStack() as stack:
        yield _maker(stack, database_url, provider, tmp_path)


@pytest.fixture
def make_one(sqlite_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Make]:
    """On one database: for what is decided before anything is written."""
    with ExitStack() as stack:
        yield _maker(stack, sqlite_url, provider, tmp_path)


def ran(station: Station, one: Any, **rest: Any) -> JobView:
    return station.ended([put(station, one, **rest)])[0]


def votes(job: JobView) -> dict[str, Json]:
    return {vote["member"].partition("/")[0]: vote for vote in job.result["votes"]}


def balanced(station: Station, job: JobView) -> None:
    """The sums of the job are those of its attempts, every call names its member, and none is left open."""
    rows = [one.row for one in station.attempts(job.id)]
    costs = [row.cost_nano for row in rows if row.cost_nano is not None]
    assert job.cost_nano == (sum(costs) if costs else None)
    unsent = [row for row in rows if row.state is S.CANCELLED and row.kind is None]
    assert job.attempts == sum(row.state is not S.SKIPPED for row in rows) - len(unsent)
    assert all(row.member for row in rows)
    assert all(row.state is not S.SENT for row in rows)
    assert len({row.number for row in rows}) == len(rows)


# -- votes --------------------------------------------------------------------------------------------------------


def test_five_members_are_asked_at_once_and_their_votes_are_one_answer(make: Make, provider: ScriptedProvider) -> None:
    holds = {name: held(says(name != "c", 0.8)) for name in "abcde"}
    provider.always(by_name({name: one for name, (_, one) in holds.items()}))
    station = make()
    job_id = put(station, asked(consensus=ALL, parameters={"temperature": 0.7}))
    provider.wait_for(5)
    for hold, _ in holds.values():
        hold.release()
    (job,) = station.ended([job_id])
    result = job.result
    assert (job.kind, job.status) == ("prediction", JobStatus.COMPLETED)
    assert (result["answer"], result["consensus"], result["agreement"]) == (True, True, 0.8)
    assert (result["requested"], result["usable"], result["failed"]) == (5, 5, 0)
    assert result["dissent"] == [PANEL[2]]
    assert [vote["member"] for vote in result["votes"]] == list(PANEL), "in the order of the panel, not of arrival"
    assert votes(job)["c"]["answer"] is False
    assert votes(job)["a"]["rationale"] == "because True"
    assert votes(job)["a"]["latency_s"] > 0
    assert votes(job)["a"]["cost"] == {"amount": COST / 1e9, "currency": "USD", "complete": True}
    assert result["cost"] == {"amount": 5 * COST / 1e9, "currency": "USD", "complete": True}
    sent = provider.requests[0].json
    assert sent["messages"][-1] == {"role": "user", "content": "Will it rain in Lima tomorrow?"}
    assert sent["temperature"] == 0.7
    assert "max_tokens" not in sent
    assert sent["response_format"]["json_schema"]["schema"]["required"][0] == "rationale"
    balanced(station, job)


def test_the_rest_is_hung_up_on_as_soon_as_it_cannot_change_the_answer(make: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"d": script.hang(), "e": script.hang()}, says(True)))
    station = make()
    began = time.monotonic()
    job = ran(station, asked())
    assert time.monotonic() - began < 5.0
    assert job.result["answer"] is True
    assert votes(job)["d"]["reason"] == CLOSED
    cut = [one.row for one in station.attempts(job.id) if one.row.state is S.CANCELLED]
    assert sorted(row.member or "" for row in cut) == [PANEL[3], PANEL[4]]
    assert {row.kind.value if row.kind else None for row in cut} == {"cancelled"}
    assert {row.reason for row in cut} == {CLOSED}
    assert not job.cost_complete, "what a call cost that was hung up on nobody knows"
    assert job.result["cost"]["complete"] is False
    balanced(station, job)
    wait_until(lambda: provider.open <= 3, "the two calls to be hung up on")


def test_no_consensus_is_a_result(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": says(True), "b": says(True), "c": says(False), "d": says(False)}))
    station = make_one()
    job = ran(station, asked(panel=PANEL[:4]))
    assert job.status is JobStatus.COMPLETED
    assert (job.result["answer"], job.result["consensus"]) == (None, False)
    assert job.result["reason"]


def test_an_abstention_is_no_vote_and_no_failure(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": says(None, abstain=True)}, says(True)))
    station = make_one()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL))
    assert votes(job)["a"]["reason"] == "it abstained"
    assert (job.result["usable"], job.result["answer"]) == (2, True)
    assert len(provider.requests) == 3, "nobody is asked again for it"


def test_text_is_read_strictly_where_a_target_takes_no_schema(make_one: Make, provider: ScriptedProvider) -> None:
    station = make_one(
        "[providers.plain]\nformat = 'openai'\nbase_url = '" + provider.url + "/plain/v1'\ntakes = ['completion']\n"
    )
    provider.always(by_name({"plain": script.chat("yes"), "a": says(True)}))
    job = ran(station, asked(panel=["plain/model-p", PANEL[0]], consensus=ALL))
    assert "response_format" not in next(r for r in provider.requests if "/plain/" in r.path).json
    assert votes(job)["plain"]["answer"] is True
    assert {one.row.state for one in station.attempts(job.id)} == {S.ANSWERED}, "nothing was passed over"


def test_what_cannot_be_read_is_asked_for_once_more_and_then_is_no_vote(make: Make, provider: ScriptedProvider) -> None:
    provider.always(
        by_name({"a": script.chat("It depends."), "b": in_turn(script.chat("Hm."), says(False))}, says(True))
    )
    station = make()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL))
    assert votes(job)["a"]["usable"] is False
    assert votes(job)["a"]["kind"] == "schema_mismatch"
    assert votes(job)["b"]["answer"] is False
    assert sorted(calls(provider)) == ["a", "a", "b", "b", "c"]
    balanced(station, job)


def test_samples_of_one_route_are_a_panel(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": in_turn(says(False), says(True), says(True))}))
    station = make_one()
    job = ran(station, asked(panel=None, model=PANEL[0], samples=3, consensus=ALL))
    assert [vote["member"] for vote in job.result["votes"]] == [f"{PANEL[0]}#{n}" for n in (1, 2, 3)]
    assert (job.result["answer"], job.result["usable"]) == (True, 3)


# -- members that fail --------------------------------------------------------------------------------------------

FAULTS: Final = {
    "rate_limit": script.error(429, "slow down", headers={"retry-after": "30"}),
    "quota": script.error(429, "no money", kind="insufficient_quota", code="insufficient_quota"),
    "permission": script.error(403, "not with this key"),
    "model_not_found": script.error(404, "no such model", code="model_not_found"),
    "gone": script.error(410, "was shut down"),
    "context_length": script.error(400, "too long", code="context_length_exceeded"),
    "content_filter": script.chat("", finish="content_filter"),
    "bad_request": script.error(400, "what?"),
    "connection": script.reset(),
    "overloaded": script.error(503, "busy"),
    "server_error": script.error(500, "oops"),
    "empty_output": script.chat(""),
    "truncated": script.chat("half", cut_after=20)
    if False
    else script.Script(body=b"{", framing="length", cut_after=1),
    "schema_mismatch": script.chat("perhaps"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_member_that_fails_in_any_way_does_not_take_the_others_with_it(
    make_one: Make, provider: ScriptedProvider, kind: str
) -> None:
    provider.always(by_name({"c": FAULTS[kind]}, says(True)))
    station = make_one()
    job = ran(station, asked(consensus=ALL))
    assert job.status is JobStatus.COMPLETED
    assert (job.result["answer"], job.result["usable"], job.result["failed"]) == (True, 4, 1)
    assert votes(job)["c"]["reason"]
    assert not votes(job)["c"]["usable"]
    assert sorted(name for name in calls(provider) if name != "c") == ["a", "b", "d", "e"]
    balanced(station, job)


def test_every_failure_in_turn_and_one_vote_is_no_quorum(make: Make, provider: ScriptedProvider) -> None:
    provider.always(
        by_name(
            {
                "a": script.error(401, "bad key"),
                "b": script.error(404, "no such model", code="model_not_found"),
                "c": script.chat("perhaps"),
                "d": replace(script.error(400, "what?"), delay_s=0.3),
                "e": says(True),
            }
        )
    )
    station = make()
    job = ran(station, asked())
    assert job.status is JobStatus.COMPLETED
    assert (job.result["answer"], job.result["consensus"], job.result["usable"]) == (None, False, 1)
    assert [vote["usable"] for vote in job.result["votes"]] == [False, False, False, False, True]
    balanced(station, job)


def test_who_was_not_waited_for_has_not_failed(make: Make, provider: ScriptedProvider) -> None:
    """The same panel, and the one that would have voted is slow: the end is of the same kind."""
    wrong = script.error(400, "what?")
    provider.always(by_name({**dict.fromkeys("abcd", wrong), "e": replace(says(True), delay_s=30.0)}))
    station = make()
    job = ran(station, asked())
    assert job.status is JobStatus.COMPLETED
    assert (job.result["answer"], job.result["consensus"], job.result["usable"]) == (None, False, 0)
    balanced(station, job)


def test_a_panel_of_which_nobody_answers_has_failed(make_one: Make, provider: ScriptedProvider) -> None:
    """Waited for to the last: two that failed leave no quorum, and who is slower would not be waited for."""
    slow = replace(script.error(400, "what?"), delay_s=0.3)
    provider.always(by_name({"a": slow}, script.error(404, "none", code="model_not_found")))
    station = make_one()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL))
    assert job.status is JobStatus.FAILED
    assert "no member of the panel answered" in job.error["message"]
    assert PANEL[1] in job.error["message"]


# -- fallbacks ----------------------------------------------------------------------------------------------------


def test_a_fallback_never_lands_on_a_model_of_the_panel(make: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": script.error(404, "gone", code="model_not_found")}, says(True)))
    station = make()
    first = Place(PANEL[0], (PANEL[0], PANEL[1], SPARE))
    job = ran(station, asked(panel=[first, *PANEL[1:3]], consensus=ALL))
    assert sorted(calls(provider)) == ["a", "b", "c", "spare"]
    assert votes(job)["a"]["model"] == SPARE
    skip = next(one.row for one in station.attempts(job.id) if one.row.state is S.SKIPPED)
    assert (skip.target, skip.member) == (PANEL[1], PANEL[0])
    assert skip.reason == f"{PANEL[1]} is on the panel already, as {PANEL[1]}"
    balanced(station, job)


def test_two_members_never_fall_back_to_the_same_model(make_one: Make, provider: ScriptedProvider) -> None:
    gone = script.error(404, "gone", code="model_not_found")
    provider.always(by_name({"a": gone, "b": gone}, says(True)))
    station = make_one()
    panel = [Place(one, (one, SPARE)) for one in PANEL[:2]]
    job = ran(station, asked(panel=[*panel, PANEL[2]], consensus=ALL))
    assert sorted(calls(provider)) == ["a", "b", "c", "spare"]
    assert job.result["usable"] == 2


# -- resting, deadlines, stops ------------------------------------------------------------------------------------


def test_who_has_to_rest_is_left_out_when_there_is_a_quorum(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"c": FAULTS["rate_limit"]}, says(True)))
    station = make_one()
    began = time.monotonic()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL), lane=Lane.BATCH)
    assert time.monotonic() - began < 5.0
    assert (job.result["answer"], job.result["usable"]) == (True, 2)
    assert "left out" in votes(job)["c"]["reason"]


def test_without_a_quorum_the_job_parks_and_keeps_the_votes_it_has(make: Make, provider: ScriptedProvider) -> None:
    slow = script.error(429, "slow down", headers={"retry-after": "6"})
    provider.always(by_name({"b": in_turn(slow, says(True)), "c": in_turn(slow, says(True))}, says(True)))
    station = make()
    job_id = put(station, asked(panel=PANEL[:3], consensus={"quorum": 3}), lane=Lane.BATCH)
    wait_until(lambda: station.job(job_id).status is JobStatus.QUEUED and len(provider.requests) == 3, "its park")
    assert station.job(job_id).attempts == 3
    (job,) = station.ended([job_id])
    assert job.result["usable"] == 3
    assert sorted(calls(provider)) == ["a", "b", "b", "c", "c"], "who had voted was not asked again"
    balanced(station, job)


def test_who_is_back_soon_is_waited_for(make_one: Make, provider: ScriptedProvider) -> None:
    soon = script.error(429, "slow down", headers={"retry-after": "6"})
    provider.always(by_name({"c": in_turn(soon, says(False))}, says(True)))
    station = make_one()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL), lane=Lane.BATCH)
    assert job.result["usable"] == 3
    assert sorted(calls(provider)) == ["a", "b", "c", "c"]


def test_a_panel_that_waits_for_pauses_alone_is_parked_for_all_of_them(make: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": says(True)}, in_turn(FAULTS["quota"], FAULTS["quota"], says(True))))
    station = make()
    job_id = put(station, asked(panel=PANEL[:3]))
    wait_until(lambda: station.job(job_id).waiting_for is not None, "its park")
    waiting = station.job(job_id).waiting_for
    assert waiting is not None, "what is parked stays so, though one of its pauses may not be on record yet"
    assert waiting.kind == "quota"
    with station.deps.database.write() as conn:
        marks = parked.marks(conn)
        assert [len(ids_in(mark)) for mark, _ in marks] == [2], "either of them wakes it"
        for name in PANEL[1:3]:
            pauses.end(conn, Scope("target", name.partition("/")[0], name))
    (job,) = station.ended([job_id])
    assert job.result["answer"] is True
    assert job.result["usable"] >= 2
    assert calls(provider).count("a") == 1
    balanced(station, job)


def test_at_its_deadline_a_panel_is_decided_by_a_quorum(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"c": script.hang()}, says(True)))
    station = make_one()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL), deadline_s=1.0)
    assert job.status is JobStatus.COMPLETED
    assert (job.result["answer"], job.result["usable"]) == (True, 2)
    assert votes(job)["c"]["kind"] == "deadline"


def test_without_a_quorum_it_expires(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"b": script.hang(), "c": script.hang()}, says(True)))
    station = make_one()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL), deadline_s=1.0)
    assert job.status is JobStatus.EXPIRED
    assert "1 usable vote" in job.error["message"]
    balanced(station, job)


def test_a_cancel_in_the_middle_ends_it_and_every_call_is_on_record(
    make: Make, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engine.engine.HANG_UP_S", 0.2)
    provider.always(by_name({"a": says(True)}, script.hang()))
    station = make()
    job_id = put(station, asked())
    provider.wait_for(5)
    cancel(station.deps, station.project_id, job_id)
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.CANCELLED
    states = sorted(one.row.state.value for one in station.attempts(job_id))
    assert states == ["answered", *["cancelled"] * 4]
    balanced(station, job)


def test_a_drain_in_the_middle_gives_it_back_with_the_votes_it_has(make: Make, provider: ScriptedProvider) -> None:
    provider.always(
        by_name({"d": in_turn(script.hang(), says(True)), "e": in_turn(script.hang(), says(True))}, says(True))
    )
    station = make(worker=False, DRAIN_S="1")
    with station.worker():
        job_id = put(station, asked(consensus=ALL))
        provider.wait_for(5)
        wait_until(lambda: station.course(job_id).count("a:answered") == 1, "a vote on record")
    assert station.job(job_id).status is JobStatus.QUEUED
    with station.worker():
        (job,) = station.ended([job_id])
    assert job.result["usable"] == 5
    assert sorted(calls(provider)) == ["a", "b", "c", "d", "d", "e", "e"]
    balanced(station, job)


def test_a_budget_counts_the_calls_that_are_open_beside_each_other(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({}, says(True)))
    station = make_one()
    one_call = 11_500_000  # nano-dollars held for a call without a ceiling: about 1,024 tokens of output
    job = ran(station, asked(consensus=ALL), max_cost_nano=int(2.5 * one_call))
    assert len(provider.requests) == 2
    assert sum(vote["kind"] == "budget" for vote in job.result["votes"]) == 3
    assert job.cost_nano == 2 * COST


def test_members_that_stood_in_one_line_pass_no_budget_together(make_one: Make, provider: ScriptedProvider) -> None:
    hold, first = held(says(True))
    provider.always(by_name({"a": in_turn(first, says(True))}))
    station = make_one("[providers.a.limits]\nconcurrency = 1")
    (before,) = station.submit(models=PANEL[:1])
    provider.wait_for(1)
    once = {**ALL, "quorum": 1}
    samples = asked(panel=None, model=PANEL[0], samples=4, consensus=once, parameters={"max_tokens": 50})
    job_id = put(station, samples, max_cost_nano=1_000_000)  # one call may cost 655,000, and costs 600,000
    wait_until(lambda: station.job(job_id).status is JobStatus.IN_PROGRESS, "all of them in the line")
    hold.release()
    job = station.ended([before, job_id])[1]
    made = [one.row for one in station.attempts(job_id) if one.row.held_nano is not None]
    assert (len(made), job.cost_nano) == (1, COST)
    assert sum(vote["kind"] == "budget" for vote in job.result["votes"]) == 3


# -- the judge ----------------------------------------------------------------------------------------------------


def judged(**rest: Any) -> Any:
    return asked(panel=PANEL[:4], consensus={"method": "judge", "judge": SPARE, **rest})


def test_a_judge_decides_what_the_vote_does_not(make: Make, provider: ScriptedProvider) -> None:
    def chooses() -> script.Script:
        told = provider.requests[-1].json["messages"][-1]["content"]
        label = next(line[0] for line in told.splitlines() if line.startswith(("A: false", "B: false")))
        assert "/model-" not in told, "the judge sees no names"
        return script.chat(f'{{"rationale": "clouds", "choice": "{label}"}}', tokens=(100, 50))

    provider.always(by_name({"a": says(True), "b": says(True), "spare": chooses}, says(False)))
    station = make()
    job = ran(station, judged())
    assert (job.result["answer"], job.result["consensus"]) == (False, True)
    assert job.result["judge"]["rationale"] == "clouds"
    assert calls(provider)[-1] == "spare"
    assert [one.row.member for one in station.attempts(job.id)][-1] == "judge"
    balanced(station, job)


def test_a_judge_that_fails_leaves_it_to_the_vote(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": says(True), "b": says(True), "spare": script.error(400, "no")}, says(False)))
    station = make_one()
    job = ran(station, judged(tie="first_member"))
    assert job.status is JobStatus.COMPLETED
    assert job.result["answer"] is True
    assert job.result["tie_rule_used"] == "first_member"
    assert job.result["judge"]["usable"] is False


def test_a_judge_is_not_asked_where_it_could_not_change_anything(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({}, says(True)))
    station = make_one()
    job = ran(station, judged())
    assert "spare" not in calls(provider)
    assert job.result["judge"] is None


# -- outcomes -----------------------------------------------------------------------------------------------------


def test_outcomes_score_every_model_and_can_be_corrected(make: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"c": says(False, 0.6)}, says(True, 0.9)))
    station = make()
    job = ran(station, asked(panel=PANEL[:3], consensus=ALL))
    first = record_outcome(station.deps, job, True)
    again = record_outcome(station.deps, job, True)
    assert (first, first.value, first.corrected_at) == (again, True, None)
    models, panel = scores_of(station.deps, station.project_id)
    assert {one.member: one.accuracy for one in models} == {PANEL[0]: 1.0, PANEL[1]: 1.0, PANEL[2]: 0.0}
    assert panel is not None
    assert panel.accuracy == 1.0
    corrected = record_outcome(station.deps, job, False)
    assert corrected.corrected_at is not None
    models, _ = scores_of(station.deps, station.project_id)
    assert {one.member: one.accuracy for one in models} == {PANEL[0]: 0.0, PANEL[1]: 0.0, PANEL[2]: 1.0}


def test_learned_weights_are_those_of_the_day_the_question_is_put(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"c": says(False)}, says(True)))
    station = make_one()
    for _ in range(4):
        record_outcome(station.deps, ran(station, asked(panel=PANEL[:3], consensus=ALL)), False)
    job = ran(
        station, asked(panel=PANEL[:3], consensus={"method": "weighted", "weights": "learned", "early_stop": False})
    )
    weights = {name: vote["weight"] for name, vote in votes(job).items()}
    assert weights["c"] > weights["a"] == weights["b"]


def test_numbers_and_texts_are_compared_in_canonical_form(make_one: Make, provider: ScriptedProvider) -> None:
    provider.always(by_name({"a": says(" lima "), "b": says("LIMA")}, says("Cusco")))
    station = make_one()
    spec = AnswerSpec("choice", options=("Lima", "Cusco"))
    job = ran(station, asked(answer=spec, panel=PANEL[:3], consensus=ALL))
    assert (job.result["answer"], job.result["dissent"]) == ("Lima", [PANEL[2]])
