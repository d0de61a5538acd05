"""Jobs through the real engine, a real database and a real socket: what each failure leads to, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker import events
from worker.domain.failure import FailureKind, Lane
from worker.domain.state import AttemptState, JobStatus
from worker.services.cancel import cancel
from worker.settings import load


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path)) as made, made.worker():
        yield made


def test_a_job_completes_with_result_usage_and_one_attempt(station: Station) -> None:
    job = station.run()
    assert job.status is JobStatus.COMPLETED
    assert job.result["text"] == "fine"
    assert job.result["message"] == {"role": "assistant", "content": "fine"}
    assert job.served is not None
    assert (job.served.provider, job.served.label) == ("first", "First")
    assert job.attempts == 1
    (attempt,) = station.attempts(job.id)
    assert attempt.row.state is AttemptState.ANSWERED
    assert attempt.row.http_status == 200
    assert attempt.sent_at is not None
    assert attempt.ended_at is not None
    assert attempt.sent_at <= attempt.ended_at
    assert attempt.row.usage == job.usage
    assert (job.cost_nano, job.cost_complete) == (None, False), "no price is known for this target"


@pytest.mark.parametrize(
    ("answer", "course"),
    [
        (script.error(503, "busy"), ["first:failed:overloaded"] * 3),
        (script.error(500, "oops"), ["first:failed:server_error"] * 2),
        (script.error(401, "no", code="invalid_api_key"), ["first:failed:auth"]),
        (script.error(404, "no model", code="model_not_found"), ["first:failed:model_not_found"]),
        (script.reply(404, body="Not Found"), ["first:failed:bad_request"]),
        (script.reset(), ["first:failed:connection"] * 2),
        (script.reply(200, body="<html>gateway</html>"), ["first:failed:server_error"] * 2),
        (script.reply(200, body=""), ["first:failed:server_error"] * 2),
        (script.chat(""), ["first:failed:empty_output"]),
    ],
)
def test_a_failing_target_is_left_for_the_next(station: Station, answer: Any, course: list[str]) -> None:
    station.provider.always(lambda r: answer if r.path.startswith("/first") else script.chat("second"))
    job = station.run()
    assert job.status is JobStatus.COMPLETED
    assert station.course(job.id) == [*course, "second:answered"]
    assert job.attempts == len(course) + 1 == len(station.provider.requests)


def test_a_silent_target_is_not_asked_twice(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> None:
    provider.always(lambda r: script.hang() if r.path.startswith("/first") else script.chat("second"))
    with closing(Station(database_url, provider, tmp_path, more="attempt_timeout_s = 0.3")) as station:
        with station.worker():
            job = station.run()
        assert station.course(job.id) == ["first:failed:timeout", "second:answered"]
        assert not job.cost_complete, "the silent one may have billed"


def test_a_target_that_says_not_to_ask_again_is_asked_once(station: Station) -> None:
    final = script.error(500, "oops", headers={"x-should-retry": "false"})
    station.provider.always(lambda r: final if r.path.startswith("/first") else script.chat("second"))
    assert station.course(station.run().id) == ["first:failed:server_error", "second:answered"]
    job = station.run(models=("first/m",))
    assert job.status is JobStatus.FAILED
    assert station.course(job.id) == ["first:failed:server_error"]


LACKS = "Unsupported value: 'temperature' does not support 0.2 with this model."


def test_a_parameter_that_one_model_lacks_sends_the_job_to_the_next(station: Station) -> None:
    """Which model answers is not the caller's to know: a route whose first target was busy failed by its second."""
    lacks = script.error(400, LACKS, code="unsupported_value")
    station.provider.always(lambda r: lacks if r.path.startswith("/first") else script.chat("second"))
    job = station.run()
    assert job.status is JobStatus.COMPLETED
    assert station.course(job.id) == ["first:failed:bad_request", "second:answered"]
    alone = station.run(models=("first/m",))
    assert (alone.status, alone.error["kind"]) == (JobStatus.FAILED, "bad_request")
    assert LACKS in alone.error["message"]


def test_what_one_model_lacks_is_remembered_over_a_park(station: Station) -> None:
    lacks = script.error(400, LACKS, code="unsupported_value")
    busy = script.error(429, "slow down", headers={"retry-after": "6"})
    station.provider.always(lambda r: lacks if r.path.startswith("/first") else busy)
    job_id = station.one(lane=Lane.BATCH)
    wait_until(lambda: station.job(job_id).status is JobStatus.QUEUED and len(station.attempts(job_id)) == 2, "a park")
    station.provider.always(lambda r: lacks if r.path.startswith("/first") else script.chat("second"))
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.COMPLETED
    assert station.course(job_id) == ["first:failed:bad_request", "second:failed:rate_limit", "second:answered"]


def test_a_gateway_that_ran_out_of_time_once_does_not_end_the_job_of_a_single_target(station: Station) -> None:
    station.provider.queue(script.reply(504, body="<html><h1>504 Gateway Time-out</h1></html>"))
    job = station.run(models=("first/m",))
    assert job.status is JobStatus.COMPLETED
    assert station.course(job.id) == ["first:failed:timeout", "first:answered"]


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe not utf-8",
        b'{"choices": [{"message": {"content": "a\\u0000b"}}]}',
        b"[" * 50_000,
        b"null",
        b'{"a":NaN}',
    ],
)
def test_whatever_bytes_come_the_job_ends(station: Station, body: bytes) -> None:
    station.provider.always(script.reply(200, body=body))
    job = station.run(max_attempts=2)
    assert job.status in {JobStatus.COMPLETED, JobStatus.FAILED}
    assert station.attempts(job.id)[0].row.state in {AttemptState.ANSWERED, AttemptState.FAILED}


def test_an_answer_over_the_cap_is_a_failure_kind(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(script.Script(body=b"x" * 65_536, endless=True, framing="chunked"))
    with closing(Station(database_url, provider, tmp_path, COMPLETAR_MAX_ANSWER_BYTES="100000")) as station:
        with station.worker():
            job = station.run()
        assert job.status is JobStatus.FAILED
        assert job.error["kind"] == "bad_output"


def test_nul_and_lone_surrogates_in_a_prompt_travel_and_in_an_answer_are_kept(station: Station) -> None:
    station.provider.always(script.chat("nul \x00 and emoji \U0001f600"))
    job = station.run(prompt="nul \x00 lone \ud800 ñ")
    assert job.status is JobStatus.COMPLETED
    assert job.result["text"] == "nul \x00 and emoji \U0001f600"


def test_a_caller_fault_fails_at_once_and_names_the_provider_message(station: Station) -> None:
    station.provider.always(script.error(400, "max_tokens must be positive", code="invalid_value"))
    job = station.run()
    assert job.status is JobStatus.FAILED
    assert (job.error["kind"], job.error["provider"]) == ("bad_request", "first")
    assert "max_tokens must be positive" in job.error["message"]
    assert job.error["retryable"] is False
    assert len(station.provider.requests) == 1


def test_attempts_never_exceed_the_cap(station: Station) -> None:
    station.provider.always(script.error(503, "busy"))
    job = station.run(max_attempts=4)
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == "overloaded"
    assert job.attempts == 4 == len(station.provider.requests)


@pytest.mark.parametrize("status", [409, 500, 503, 529])
def test_a_failing_target_that_names_a_long_wait_is_left_for_the_next(station: Station, status: int) -> None:
    later = script.error(status, "maintenance", headers={"retry-after": "3600"})
    station.provider.always(lambda r: later if r.path.startswith("/first") else script.chat("second"))
    job = station.run()
    assert job.status is JobStatus.COMPLETED
    assert [step.split(":")[:2] for step in station.course(job.id)] == [["first", "failed"], ["second", "answered"]]


def test_a_long_rate_limit_parks_a_batch_line_without_using_an_attempt(station: Station) -> None:
    station.provider.queue(script.error(429, "slow down", code="rate_limit_exceeded", headers={"retry-after": "60"}))
    job_id = station.one(lane=Lane.BATCH)
    wait_until(lambda: station.job(job_id).status is JobStatus.QUEUED and station.job(job_id).attempts, "the park")
    job = station.job(job_id)
    assert 55 < (job.run_at - job.queued_at).total_seconds() < 75
    assert station.course(job_id) == ["first:failed:rate_limit"]
    assert cancel(station.deps, station.project_id, job_id) is not None
    assert station.job(job_id).status is JobStatus.CANCELLED


def test_a_job_whose_deadline_has_passed_makes_no_call(database_url: str, tmp_path: Path) -> None:
    with ScriptedProvider() as provider, closing(Station(database_url, provider, tmp_path)) as station:
        provider.always(script.chat("late"))
        job_id = station.one(deadline_s=0.05)
        wait_until(lambda: _passed(station, job_id), "its deadline")
        with station.worker():
            (job,) = station.ended([job_id])
        assert job.status is JobStatus.EXPIRED
        assert job.error["kind"] == "deadline"
        assert provider.requests == []


def _passed(station: Station, job_id: str) -> bool:
    from worker import clock

    deadline = station.job(job_id).deadline_at
    return deadline is not None and clock.now() > deadline


def test_a_deadline_cuts_the_open_call(station: Station) -> None:
    station.provider.always(script.hang())
    job = station.run(deadline_s=0.4)
    assert job.status is JobStatus.EXPIRED
    assert len(station.provider.requests) == 1


def test_cancel_while_a_call_is_open_starts_no_further_one_and_keeps_its_usage(station: Station) -> None:
    held = station.provider.hold(script.chat("too late"))
    job_id = station.one()
    station.provider.wait_for(1)
    view = cancel(station.deps, station.project_id, job_id)
    assert view is not None
    assert view.status is JobStatus.CANCELLING
    held.release()
    (job,) = station.ended([job_id])
    assert job.status is JobStatus.CANCELLED
    assert job.result is None
    assert job.usage.input_tokens is not None
    assert station.course(job_id) == ["first:answered"]
    assert len(station.provider.requests) == 1


def test_cancel_stops_a_wait_in_place(station: Station) -> None:
    station.provider.always(script.error(429, "slow", code="rate_limit_exceeded", headers={"retry-after": "4"}))
    job_id = station.one()
    station.provider.wait_for(1)
    wait_until(lambda: station.attempts(job_id)[0].row.state is AttemptState.SENT, "the call on record")
    cancel(station.deps, station.project_id, job_id)
    (job,) = station.ended([job_id], within_s=2.0)
    assert job.status is JobStatus.CANCELLED
    assert len(station.provider.requests) == 1


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def test_an_answer_that_does_not_fit_the_schema_gets_one_repair_turn(station: Station) -> None:
    station.provider.queue(script.chat('{"n": "three"}'), script.chat('{"n": 3}'))
    job = station.run(output_schema=SCHEMA)
    assert job.status is JobStatus.COMPLETED
    assert job.result["json"] == {"n": 3}
    assert station.course(job.id) == ["first:failed:schema_mismatch", "first:answered"]
    second = station.provider.requests[1].json
    assert second["messages"][1] == {"role": "assistant", "content": '{"n": "three"}'}
    assert "does not fit the schema" in second["messages"][2]["content"]


def test_a_forced_call_of_a_tool_is_no_answer_of_the_wrong_shape(station: Station) -> None:
    """OpenAI and vLLM end it with `stop`: it was paid three times, and failed."""
    call = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    station.provider.always(script.chat(None, tool_calls=[call], finish="stop"))
    job = station.run(output_schema=SCHEMA)
    assert job.status is JobStatus.COMPLETED
    assert station.course(job.id) == ["first:answered"]
    assert [one["name"] for one in job.result["tool_calls"]] == ["find"]


def test_the_repair_turn_is_one_and_then_the_next_target_is_asked(station: Station) -> None:
    station.provider.always(lambda r: script.chat("no json" if r.path.startswith("/first") else '{"n": 1}'))
    job = station.run(output_schema=SCHEMA)
    assert station.course(job.id) == ["first:failed:schema_mismatch"] * 2 + ["second:answered"]
    assert job.status is JobStatus.COMPLETED


def test_an_open_breaker_sends_jobs_past_a_dead_target(station: Station) -> None:
    station.provider.always(lambda r: script.error(503, "x") if r.path.startswith("/first") else script.chat("ok"))
    for _ in range(4):
        assert station.run().status is JobStatus.COMPLETED
    before = sum(r.path.startswith("/first") for r in station.provider.requests)
    late = station.run()
    assert station.course(late.id) == ["first:skipped:overloaded", "second:answered"]
    assert sum(r.path.startswith("/first") for r in station.provider.requests) == before


def test_many_batch_lines_each_end_once_with_one_call(station: Station) -> None:
    ids = station.submit(600, lane=Lane.BATCH)
    jobs = station.ended(ids)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    prompts = [r.json["messages"][0]["content"] for r in station.provider.requests]
    assert len(prompts) == len(set(prompts)) == 600


def test_projects_share_a_lane_fairly(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> None:
    from worker.store import projects

    with closing(Station(database_url, provider, tmp_path, SLOTS="5")) as station:
        crowd = station.submit(400, lane=Lane.BATCH)
        with station.deps.database.write() as conn:
            other = projects.ensure(conn, "other")
        station.project_id, mine = other, station.project_id
        few = station.submit(10, lane=Lane.BATCH)
        with station.worker():
            few_jobs = station.ended(few)
            station.project_id = mine
            done = station.ended(crowd)
        last_few = max(job.ended_at for job in few_jobs if job.ended_at)
        assert sum(job.ended_at < last_few for job in done if job.ended_at) < 300


def test_an_unknown_model_in_a_stored_job_is_a_visible_end(station: Station) -> None:
    from worker.domain.job import NewJob
    from worker.store import new_jobs

    row = NewJob("job_gone", station.project_id, "completion", Lane.INTERACTIVE, ("nobody/x",), {"prompt": "hi"})
    with station.deps.database.write() as conn:
        new_jobs.insert(conn, [row])
    (job,) = station.ended(["job_gone"])
    assert job.status is JobStatus.FAILED
    assert job.error["kind"] == FailureKind.NO_TARGET


def test_the_request_on_the_wire_has_only_what_the_caller_set(station: Station) -> None:
    station.run(prompt="only this")
    (request,) = station.provider.requests
    assert isinstance(request, Received)
    assert request.json == {"model": "m", "messages": [{"role": "user", "content": "only this 0"}]}


def test_a_target_whose_wire_form_cannot_say_it_is_passed_over_with_the_reason(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    provider.always(script.embeddings([[1.0, 0.0]]))
    with closing(Station(database_url, provider, tmp_path, first_format="anthropic")) as station:
        with station.worker():
            job = station.run(kind="embedding")
        assert job.result == {"embeddings": [[1.0, 0.0]]}
        assert station.course(job.id) == ["first:skipped", "second:answered"]
        assert station.attempts(job.id)[0].row.reason == "format anthropic has no embeddings"
        assert job.attempts == 1 == len(provider.requests)


def test_of_ten_keys_with_nine_dead_the_living_one_answers_and_the_dead_are_not_asked_again(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    names = [f"POOL_KEY_{n}" for n in range(10)]
    keys = {name: f"k-{n}-0123456789" for n, name in enumerate(names)}
    config = tmp_path / "pool.toml"
    config.write_text(
        f'[providers.pool]\nformat = "openai"\nbase_url = "{provider.base_url}"\napi_keys = {names}\n'
        '[routes.default]\ntargets = ["pool/m"]\n'
    )
    alive = f"Bearer {keys[names[7]]}"
    refused = script.error(401, "Incorrect API key provided", code="invalid_api_key")
    provider.always(lambda r: script.chat("alive") if r.headers["authorization"] == alive else refused)
    with closing(Station(database_url, provider, tmp_path, COMPLETAR_CONFIG=str(config), **keys)) as station:
        with station.worker():
            first = station.run(max_attempts=1)
            asked = len(provider.requests)
            second = station.run()
        assert (first.status, second.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
        assert station.course(first.id) == ["pool:failed:auth"] * 7 + ["pool:answered"]
        assert station.attempts(first.id)[-1].row.key_name == names[7]
        assert asked == 8
        assert len(provider.requests) == 9, "the dead ones are not asked again for the next job"
        recorded = str([station.attempts(job.id) for job in (first, second)]) + str(first) + str(second)
        assert not any(secret in recorded for secret in keys.values())


@pytest.mark.parametrize(
    "told",
    [
        lambda key: script.error(401, f"the token {key} is not known here", kind=key, code=key),
        lambda key: script.error(400, f"no account for {key}{key}", code=f"no_{key}"),
        lambda key: script.reply(200, json_body={"unheard": {"caller": key}}),
        lambda key: script.reply(200, json_body={"error": {"message": f"quota of {key}", "request_id": key}}),
        lambda key: script.reply(502, body="-" * 490 + key),
    ],
)
def test_a_key_of_no_known_form_is_masked_wherever_its_provider_repeats_it(
    database_url: str, provider: ScriptedProvider, tmp_path: Path, told: Any
) -> None:
    """A proxy or a server of one's own gives out keys in any form: what was sent is what must not be seen."""
    key = "Zebra.77/quite=ordinary"
    config = tmp_path / "own.toml"
    config.write_text(
        f'[providers.own]\nformat = "openai"\nbase_url = "{provider.base_url}"\napi_keys = ["OWN_KEY"]\n'
        '[routes.default]\ntargets = ["own/m"]\nbackoff = { base_s = 0.01, cap_s = 0.05 }\n'
    )
    provider.always(told(key))
    with closing(Station(database_url, provider, tmp_path, COMPLETAR_CONFIG=str(config), OWN_KEY=key)) as station:
        with station.worker():
            job = station.run(max_attempts=1)
        assert provider.requests[0].headers["authorization"] == f"Bearer {key}"
        recorded = str(station.attempts(job.id)) + str(job)
    assert job.status is JobStatus.FAILED
    assert "Zebra" not in recorded
    assert "***" in recorded or job.error["kind"] == "server_error"


def test_a_model_whose_day_is_spent_gives_way_to_another_of_the_same_account(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    """Google counts a day by model: one that was spent had closed all its others, for every worker."""
    config = tmp_path / "google.toml"
    config.write_text(
        f'[providers.google]\nformat = "gemini"\nbase_url = "{provider.url}/v1beta"\napi_keys = ["GOOGLE_KEY"]\n'
        '[routes.default]\ntargets = ["google/large", "google/small"]\n'
    )
    violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}]
    error = {"code": 429, "message": "You exceeded your current quota.", "status": "RESOURCE_EXHAUSTED"}
    spent = script.reply(429, json_body={"error": {**error, "details": details}})
    candidate = {"content": {"role": "model", "parts": [{"text": "fine"}]}, "finishReason": "STOP", "index": 0}
    good = script.reply(json_body={"candidates": [candidate]})
    provider.always(lambda r: spent if "/large:" in r.path else good)
    env = {"COMPLETAR_CONFIG": str(config), "GOOGLE_KEY": "g-0123456789"}
    with closing(Station(database_url, provider, tmp_path, **env)) as station:
        with station.worker():
            jobs = [station.run(max_attempts=1), station.run()]
        assert [job.status for job in jobs] == [JobStatus.COMPLETED] * 2
        assert station.course(jobs[0].id) == ["google:failed:quota", "google:answered"]
        assert station.course(jobs[1].id) == ["google:skipped:quota", "google:answered"]
        assert len(provider.requests) == 3, "the model whose day is spent is not asked for the next job"


@pytest.mark.parametrize("lane", list(Lane))
def test_a_key_that_is_asked_to_wait_is_replaced_by_that_of_another_account(
    database_url: str, provider: ScriptedProvider, tmp_path: Path, lane: Lane
) -> None:
    """It was asked for its six attempts, and the two that would have answered were not asked at all."""
    keys = {f"POOL_KEY_{n}": f"k-{n}-0123456789" for n in range(3)}
    accounts = '{ POOL_KEY_1 = "two", POOL_KEY_2 = "three" }'
    config = tmp_path / "pool.toml"
    config.write_text(
        f'[providers.pool]\nformat = "openai"\nbase_url = "{provider.base_url}"\napi_keys = {list(keys)}\n'
        f'accounts = {accounts}\n[routes.default]\ntargets = ["pool/m"]\n'
    )
    busy = script.error(429, "slow down", code="rate_limit_exceeded", headers={"retry-after": "30"})
    free = f"Bearer {keys['POOL_KEY_2']}"
    provider.always(lambda r: script.chat("fine") if r.headers["authorization"] == free else busy)
    with closing(Station(database_url, provider, tmp_path, COMPLETAR_CONFIG=str(config), **keys)) as station:
        with station.worker():
            (job,) = station.ended([station.one(lane=lane)], within_s=10.0)
        assert job.status is JobStatus.COMPLETED
        assert [past.row.key_name for past in station.attempts(job.id)] == list(keys)


def test_a_worker_that_could_ask_nobody_says_so_and_calls_no_host_that_does_not_exist(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    with closing(Station(database_url, provider, tmp_path)) as station:
        job_id = station.one()
        station.settings = load({"DATABASE_URL": database_url, "COMPLETAR_DATA_DIR": str(tmp_path / "data")})
        with station.worker():
            (job,) = station.ended([job_id])
    assert (job.status, job.error["kind"], job.attempts) == (JobStatus.FAILED, "no_target", 0)
    assert "set one of GROQ_API_KEY" in job.error["message"]


def test_a_task_goes_to_a_server_of_that_task_and_past_one_that_chats(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    from worker.services.submit import JobRequest, submit

    ranking = [{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}]
    provider.always(script.reply(json_body=ranking, headers={"x-compute-tokens": "7"}))
    with closing(Station(database_url, provider, tmp_path, first_format="tei")) as station:
        asked = {"query": "rivers", "texts": ["a lake", "the Amazon"]}
        request = JobRequest("completion", ("second/m", "first/m"), asked)
        with station.worker():
            (job,) = station.ended(list(submit(station.deps, station.project_id, [request]).ids))
    assert job.status is JobStatus.COMPLETED
    assert job.result["json"] == ranking
    assert [r.path for r in provider.requests] == ["/first/v1/rerank"]


def test_a_batch_wakes_a_sleeping_endpoint_once_and_then_runs(
    database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    awake = False
    provider.always(lambda _: script.chat("awake") if awake else script.error(503, "starting"))
    with closing(Station(database_url, provider, tmp_path, first_format="hf-openai")) as station, station.worker():
        ids = station.submit(60, lane=Lane.BATCH, models=("first/m",))
        wait_until(lambda: station.course(ids[0]) or len(provider.requests), "the first call")
        wait_until(lambda: all(job.status is JobStatus.QUEUED for job in station.jobs(ids)), "all lines to wait", 20.0)
        assert len(provider.requests) <= 3, "not one call for each line"
        awake = True
        jobs = station.ended(ids, within_s=40.0)
    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert len(provider.requests) <= 60 + 4


def test_a_fault_of_our_own_ends_the_job_visibly_and_not_the_others(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a piece of the prompt")

    monkeypatch.setattr("worker.services.call.judge", broken)
    monkeypatch.setattr(events, "emit", lambda event, **fields: told.append(f"{event} {fields}"))
    job = station.run()
    wait_until(lambda: any(entry.startswith("job.broken") for entry in told), "the log")
    assert not any("a piece of the prompt" in entry for entry in told)
    assert any("ZeroDivisionError" in entry and "test_run.py" in entry for entry in told), "its type and place"
    assert job.status is JobStatus.FAILED
    assert (job.error["kind"], job.cost_complete) == ("internal", False)
    assert "ZeroDivisionError" in job.error["message"]
    monkeypatch.undo()
    assert station.run().status is JobStatus.COMPLETED


def test_a_fault_of_the_worker_is_logged_without_what_was_asked(
    sqlite_url: str, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    def broken(*_: Any) -> Any:
        raise ValueError("a piece of the prompt")

    monkeypatch.setattr("worker.services.worker.replay", broken)  # before the first claim
    monkeypatch.setattr("worker.services.worker.sweeping.sweep", broken)  # each few seconds
    monkeypatch.setattr(events, "emit", lambda event, **fields: told.append((event, fields)))

    def faults() -> set[str]:
        return {fields["work"] for event, fields in told if event == "worker.fault"}

    with closing(Station(sqlite_url, provider, tmp_path)) as station, station.worker():
        wait_until(lambda: len(faults()) >= 2, "both", 10.0)
    assert "replay" in faults()
    assert "a piece of the prompt" not in str(told)
    assert all(fields["error"] == "ValueError" for event, fields in told if event == "worker.fault")
