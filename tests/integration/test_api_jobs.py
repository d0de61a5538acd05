"""Jobs over HTTP on both databases: made once, watched, stopped, run again, forgotten."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.job import AttemptBody, JobBody
from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import SECRET, Web, web
from worker.store import jobs
from worker.store.tables import job as job_table

Json = Any
HI = {"input": {"prompt": "hi"}}
WAIT = {"Prefer": "wait=20"}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        yield started


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    """Nothing works yet: `site.working()` is a worker."""
    with web(database_url, tmp_path, provider, COMPLETAR_POLL_S="0.2") as made:
        yield made


def _is_as_documented(job: Json) -> None:
    JobBody.model_validate_json(json.dumps(job))


def _status(site: Web, job: Json) -> str:
    return str(site.get(job["urls"]["self"]).json["status"])


# -- made ---------------------------------------------------------------------------------------------------------


def test_a_job_is_stored_before_the_answer(site: Web) -> None:
    asked = {
        "model": "stub/m",
        "input": {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 5.0},
        "output_schema": {"type": "object"},
        "metadata": {"ticket": "42"},
        "priority": -1,
        "deadline_s": 900,
        "on_interruption": "fail",
        "lane": "batch",
    }
    answer = site.post("/v1/jobs", asked)
    assert answer.status_code == 202
    job = answer.json
    _is_as_documented(job)
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["ETag"] == f'"{job["id"]}.1"'
    assert "Preference-Applied" not in answer.headers
    assert {
        name: job[name] for name in ("model", "metadata", "priority", "on_interruption", "lane", "kind", "status")
    } == {
        "model": "stub/m",
        "metadata": {"ticket": "42"},
        "priority": -1,
        "on_interruption": "fail",
        "lane": "batch",
        "kind": "completion",
        "status": "queued",
    }
    assert job["created_at"].endswith("Z")
    assert len(job["created_at"]) == len("2026-01-01T00:00:00.000Z")
    assert site.get(answer.headers["Location"]).json == job


def test_a_job_is_waited_for(site: Web, provider: ScriptedProvider) -> None:
    provider.chat("Hello there", tokens=(7, 3))
    with site.working():
        answer = site.post("/v1/jobs", {**HI, "input": {"prompt": "hi", "max_tokens": 5.0, "top_p": None}}, WAIT)
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert "Retry-After" not in answer.headers
    job = answer.json
    _is_as_documented(job)
    assert job["status"] == "completed"
    assert job["result"]["text"] == "Hello there"
    assert job["usage"]["input_tokens"] == 7
    assert job["served_by"] == {"provider": "stub", "label": "Stub Provider", "model": "scripted-model"}
    assert job["attempts"] == 1
    sent = json.loads(provider.requests[0].body)
    assert sent == {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    assert isinstance(sent["max_tokens"], int)


def test_a_wait_that_is_over_is_a_202_and_the_job_goes_on(site: Web, provider: ScriptedProvider) -> None:
    held = provider.hold(script.chat("late"))
    with site.working():
        answer = site.post("/v1/jobs", HI, {"Prefer": "respond-async, wait=1"})
        assert answer.status_code == 202
        assert answer.headers["Preference-Applied"] == "wait=1"
        assert answer.json["status"] == "in_progress"
        held.release()
        wait_until(lambda: _status(site, answer.json) == "completed", "the job's end")


def test_a_failed_job_is_a_good_answer(site: Web, provider: ScriptedProvider) -> None:
    provider.error(400, "the prompt is odd", code="odd")
    with site.working():
        answer = site.post("/v1/jobs", HI, WAIT)
    assert answer.status_code == 200
    _is_as_documented(answer.json)
    assert answer.json["status"] == "failed"
    error = answer.json["error"]
    assert (error["kind"], error["code"], error["retryable"]) == ("bad_request", "odd", False)


def test_an_embedding(site: Web, provider: ScriptedProvider) -> None:
    provider.embeddings([[0.5, 0.25]])
    with site.working():
        answer = site.post("/v1/jobs", {"kind": "embedding", "input": {"input": [1.0, 2]}}, WAIT)
    _is_as_documented(answer.json)
    assert answer.json["result"] == {"embeddings": [[0.5, 0.25]]}
    assert json.loads(provider.requests[0].body)["input"] == [1, 2]


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "\U0001f600", "ñ\u2028", "\ufeff"])
def test_any_text_goes_through(site: Web, provider: ScriptedProvider, text: str) -> None:
    provider.always(script.chat(text if text.isprintable() else "ok"))
    with site.working():
        answer = site.post("/v1/jobs", data=json.dumps({"input": {"prompt": text}}), headers=WAIT)
    assert answer.status_code == 200
    assert answer.json["status"] == "completed"
    assert json.loads(provider.requests[0].body)["messages"][0]["content"] in {text, text.replace("\ud800", "\ufffd")}


def test_over_the_bound_of_waiters_the_answer_comes_at_once(
    database_url: str, tmp_path: Path, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.chat("x"))
    with web(database_url, tmp_path, provider, COMPLETAR_WAITERS="1") as site, site.working():
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(site.post("/v1/jobs", HI, WAIT)))
        thread.start()
        provider.wait_for(1)
        answer = site.post("/v1/jobs", HI, WAIT)
        assert answer.status_code == 202
        assert "Preference-Applied" not in answer.headers
        provider.chat("y")
        held.release()
        thread.join(20)
        assert first[0].status_code == 200


# -- once ---------------------------------------------------------------------------------------------------------


def test_an_idempotency_key_makes_one_job(site: Web) -> None:
    key = {"Idempotency-Key": "7d0c"}
    body = {"input": {"prompt": "hi", "temperature": 1}, "metadata": {"a": "1", "b": "2"}}
    first = site.post("/v1/jobs", body, key)
    turned = {"metadata": {"b": "2", "a": "1"}, "input": {"temperature": 1, "prompt": "hi"}}
    second = site.post("/v1/jobs", turned, key)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json == second.json
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    other = site.post("/v1/jobs", {"input": {"prompt": "else"}}, key)
    assert other.status_code == 422
    assert other.json["errors"][0]["field"] == "Idempotency-Key"
    assert "7d0c" not in other.get_data(as_text=True)
    assert len(site.get("/v1/jobs").json["data"]) == 1


def test_fifty_in_parallel_make_one_job(site: Web) -> None:
    ready = threading.Barrier(50, timeout=60)

    def post(_n: int) -> Any:
        ready.wait()
        return site.post("/v1/jobs", HI, {"Idempotency-Key": "same"})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(post, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in answers) == {None: 1, "true": 49}
    with site.deps.database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(job_table)).scalar_one() == 1


def test_a_key_is_of_one_route(site: Web) -> None:
    key = {"Idempotency-Key": "k"}
    one = site.post("/v1/jobs", HI, key)
    many = site.post("/v1/jobs/bulk", {"jobs": [HI]}, key)
    assert one.json["id"] != many.json["data"][0]["id"]
    again = site.post("/v1/jobs/bulk", {"jobs": [HI]}, key)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [job["id"] for job in again.json["data"]] == [job["id"] for job in many.json["data"]]


# -- many ---------------------------------------------------------------------------------------------------------


def _line(n: int) -> str:
    return json.dumps({"input": {"prompt": f"línea {n}"}, "metadata": {"n": str(n)}}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("encoding", "end"),
    [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-16-le", "\n"), ("utf-16-be", "\r\n")],
)
@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl"])
def test_lines_as_any_shell_writes_them(site: Web, encoding: str, end: str, kind: str) -> None:
    text = end.join(["", *(_line(n) for n in range(3)), "", ""])
    if encoding.startswith("utf-16"):
        text = text.removeprefix(end)  # without a mark the first character tells the encoding
    answer = site.post("/v1/jobs/bulk", data=text.encode(encoding), headers={"Content-Type": kind})
    assert answer.status_code == 202
    assert [job["metadata"]["n"] for job in answer.json["data"]] == ["0", "1", "2"]
    for job in answer.json["data"]:
        _is_as_documented(job)
        assert (job["status"], job["lane"]) == ("queued", "batch")


def test_a_thousand_jobs_in_order_in_one_transaction(site: Web) -> None:
    wanted = [{"input": {"prompt": str(n)}, "metadata": {"n": str(n)}} for n in range(1000)]
    wanted[7]["lane"] = "interactive"
    answer = site.post("/v1/jobs/bulk", {"jobs": wanted})
    assert answer.status_code == 202
    made = answer.json["data"]
    assert [job["metadata"]["n"] for job in made] == [str(n) for n in range(1000)]
    assert [n for n, job in enumerate(made) if job["lane"] == "interactive"] == [7]
    with site.deps.database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(job_table)).scalar_one() == 1000


def test_a_bulk_is_worked_off(site: Web, provider: ScriptedProvider) -> None:
    provider.always(script.chat("ok"))
    with site.working():
        made = site.post("/v1/jobs/bulk", {"jobs": [HI] * 20}).json["data"]
        wait_until(lambda: all(_status(site, job) == "completed" for job in made), "the end of all")


# -- watched ------------------------------------------------------------------------------------------------------


def test_an_unchanged_job_is_a_304(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    path, etag = job["urls"]["self"], f'"{job["id"]}.1"'
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = site.get(path, {"If-None-Match": known})
        assert answer.status_code == 304, known
        assert answer.headers["ETag"] == etag
        assert answer.get_data() == b""
    assert site.get(path, {"If-None-Match": '"other"'}).status_code == 200
    site.post(job["urls"]["cancel"])
    answer = site.get(path, {"If-None-Match": etag})
    assert answer.status_code == 200
    assert answer.headers["ETag"] == f'"{job["id"]}.2"'
    assert "Retry-After" not in answer.headers


def test_a_look_can_wait_for_the_next_change(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    path = job["urls"]["self"]
    threading.Timer(0.3, lambda: site.post(job["urls"]["cancel"])).start()
    before = time.monotonic()
    answer = site.get(f"{path}?wait=20")
    assert 0.2 < time.monotonic() - before < 5
    assert (answer.json["status"], answer.json["version"]) == ("cancelled", 2)
    before = time.monotonic()
    assert site.get(f"{path}?wait=20").json["version"] == 2
    assert time.monotonic() - before < 2  # final: nothing more will change


def test_a_look_with_an_old_etag_does_not_wait(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    before = time.monotonic()
    assert site.get(f"{job['urls']['self']}?wait=20", {"If-None-Match": f'"{job["id"]}.0"'}).status_code == 200
    assert time.monotonic() - before < 2
    assert site.get(f"{job['urls']['self']}?wait=1", {"If-None-Match": f'"{job["id"]}.1"'}).status_code == 304


def test_a_parked_job_says_when_to_look_again(site: Web, provider: ScriptedProvider) -> None:
    provider.always(script.error(429, "wait", code="rate_limit_exceeded", headers={"retry-after": "30"}))
    with site.working():
        job = site.post("/v1/jobs", {**HI, "lane": "batch"}).json
        wait_until(lambda: provider.requests and _status(site, job) == "queued", "the job's parking")
        answer = site.get(job["urls"]["self"])
    assert 20 <= int(answer.headers["Retry-After"]) <= 40
    assert answer.json["run_at"] > answer.json["queued_at"]


def test_lists_are_paged_newest_first_and_filtered(site: Web) -> None:
    made = [site.post("/v1/jobs", {**HI, "metadata": {"n": str(n)}}).json for n in range(5)]
    embedding = site.post("/v1/jobs", {"kind": "embedding", "input": {"input": "x"}}).json
    site.post(made[2]["urls"]["cancel"])
    newest_first = [embedding["id"], *(job["id"] for job in reversed(made))]

    found: list[str] = []
    after = ""
    while True:
        page = site.get(f"/v1/jobs?limit=4{after}").json
        found += [job["id"] for job in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert found == newest_first

    def ids(query: str) -> list[str]:
        return [job["id"] for job in site.get(f"/v1/jobs?{query}").json["data"]]

    assert ids("status=cancelled") == [made[2]["id"]]
    assert ids("kind=embedding") == [embedding["id"]]
    assert ids("batch_id=batch_00000000000000000000000000") == []
    assert ids("created_after=0001-01-01T00:00:00Z") == newest_first
    assert ids("created_after=9999-12-31T23:59:59Z") == []
    assert ids("created_after=2000-01-01T00:00:00+02:00") == newest_first  # a bare + means a blank, and is meant
    empty = site.get("/v1/jobs?status=expired").json
    assert (empty["data"], empty["has_more"], empty["first_id"], empty["last_id"]) == ([], False, None, None)


def test_one_project_does_not_take_every_place_to_wait(database_url: str, tmp_path: Path) -> None:
    with web(database_url, tmp_path, COMPLETAR_WAITERS="4") as site, ThreadPoolExecutor(4) as pool:
        assert "Preference-Applied" in site.post("/v1/jobs", HI, {"Prefer": "wait=1"}).headers
        greedy = {"Authorization": f"Bearer {site.new_key(project='greedy')[1]}"}
        waiting = [pool.submit(site.post, "/v1/jobs", HI, {**greedy, "Prefer": "wait=8"}) for _ in range(4)]
        wait_until(lambda: any(one.done() for one in waiting), "one of them not to be seated")
        assert "Preference-Applied" in site.post("/v1/jobs", HI, {"Prefer": "wait=1"}).headers
        assert sum("Preference-Applied" in one.result().headers for one in waiting) == 3


def test_a_key_that_a_provider_repeats_is_told_nobody(site: Web, provider: ScriptedProvider) -> None:
    """It looks like no key of the great providers: it is that of a server of one's own."""
    provider.error(400, f"{SECRET} is not on the list")
    provider.queue(script.Script(body=f'{{"whoami": "{SECRET}"}}'.encode()))
    with site.working():
        jobs_ = [site.post("/v1/jobs", {**HI, "max_attempts": 1}, WAIT).json for _ in range(2)]
    assert provider.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    for job in jobs_:
        told = json.dumps([job, site.get(job["urls"]["attempts"]).json])
        assert job["status"] == "failed"
        assert SECRET not in told
        assert "***" in told


def test_attempts_tell_every_call(site: Web, provider: ScriptedProvider) -> None:
    provider.error(500, "broken")
    provider.chat("Hello", tokens=(2, 1))
    with site.working():
        job = site.post("/v1/jobs", HI, WAIT).json
    listed = site.get(job["urls"]["attempts"]).json
    assert listed["object"] == "list"
    for attempt in listed["data"]:
        AttemptBody.model_validate_json(json.dumps(attempt))
    first, second = listed["data"]
    assert (first["number"], first["state"], first["kind"], first["http_status"]) == (1, "failed", "server_error", 500)
    assert first["reason"]
    assert (second["number"], second["state"], second["kind"]) == (2, "answered", None)
    assert (second["target"], second["key_name"], second["returned_model"]) == (
        "stub/scripted",
        "STUB_KEY",
        "scripted-model",
    )
    assert second["usage"]["output_tokens"] == 1
    assert second["sent_at"] > first["sent_at"]


def test_what_is_no_longer_kept_is_a_410_with_a_tombstone(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    site.post(job["urls"]["cancel"])
    with site.deps.database.write() as conn:
        assert jobs.purge(conn, older_than_s=-60.0) == 1
    for path in (job["urls"]["self"], job["urls"]["attempts"], job["urls"]["events"]):
        answer = site.get(path)
        assert answer.status_code == 410
        tombstone = answer.json["job"]
        assert (tombstone["id"], tombstone["status"], tombstone["version"]) == (job["id"], "cancelled", 3)
        assert tombstone["ended_at"]
    assert site.post(job["urls"]["cancel"]).status_code == 410
    assert site.post(f"{job['urls']['self']}/retry").status_code == 410
    assert site.get("/v1/jobs").json["data"] == []


# -- stopped, and run again ---------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    for _ in range(2):
        answer = site.post(job["urls"]["cancel"])
        assert answer.status_code == 200
        assert (answer.json["status"], answer.json["version"]) == ("cancelled", 2)
        assert answer.headers["ETag"] == f'"{job["id"]}.2"'
        assert "Retry-After" not in answer.headers
    assert answer.json["ended_at"]


def test_a_running_job_stops_after_its_call(site: Web, provider: ScriptedProvider) -> None:
    held = provider.hold(script.chat("too late", tokens=(3, 2)))
    with site.working():
        job = site.post("/v1/jobs", HI).json
        provider.wait_for(1)
        answer = site.post(job["urls"]["cancel"])
        assert (answer.status_code, answer.json["status"]) == (202, "cancelling")
        assert "Retry-After" in answer.headers
        held.release()
        wait_until(lambda: _status(site, job) == "cancelled", "the job's end")
    ended = site.get(job["urls"]["self"]).json
    assert ended["result"] is None
    assert ended["usage"]["input_tokens"] == 3  # it was paid for
    assert len(provider.requests) == 1


def test_a_finished_job_stays_as_it_is(site: Web, provider: ScriptedProvider) -> None:
    provider.chat("done")
    with site.working():
        job = site.post("/v1/jobs", HI, WAIT).json
    answer = site.post(job["urls"]["cancel"])
    assert answer.status_code == 200
    assert answer.json == job


def test_a_failed_job_is_run_again_as_a_new_one(site: Web, provider: ScriptedProvider) -> None:
    provider.error(400, "no")
    provider.chat("yes")
    asked = {"input": {"prompt": "hi", "temperature": 0.5}, "metadata": {"a": "b"}, "priority": 1}
    with site.working():
        failed = site.post("/v1/jobs", asked, WAIT).json
        again = site.post(f"{failed['urls']['self']}/retry", headers=WAIT)
    assert again.status_code == 200
    job = again.json
    assert again.headers["Location"] == job["urls"]["self"] != failed["urls"]["self"]
    assert (job["status"], job["retry_of"], job["metadata"], job["priority"]) == (
        "completed",
        failed["id"],
        {"a": "b"},
        1,
    )
    first, second = (json.loads(request.body) for request in provider.requests)
    assert first == second
    assert site.get(failed["urls"]["self"]).json == failed


def test_a_job_run_again_keeps_its_bounds(site: Web, provider: ScriptedProvider) -> None:
    provider.always(script.error(500, "broken"))
    bounds = {"max_attempts": 1, "deadline_s": 60, "on_interruption": "fail"}
    with site.working():
        failed = site.post("/v1/jobs", {**HI, **bounds}, WAIT).json
        made = len(provider.requests)
        again = site.post(f"{failed['urls']['self']}/retry", headers=WAIT).json
    assert (made, len(provider.requests)) == (1, 2)
    for one in (failed, again):
        lasts = datetime.fromisoformat(one["deadline"]) - datetime.fromisoformat(one["created_at"])
        assert abs(lasts.total_seconds() - 60) < 0.01
    with site.deps.database.read() as conn:
        first, second = (
            conn.execute(sa.select(job_table).where(job_table.c.id == one["id"])).one() for one in (failed, again)
        )
    assert second.max_attempts == first.max_attempts == 1
    assert second.on_interruption == first.on_interruption == "fail"


def test_running_again_is_done_once_for_a_key(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    site.post(job["urls"]["cancel"])
    path = f"{job['urls']['self']}/retry"
    first, second = (site.post(path, headers={"Idempotency-Key": "r"}) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    assert second.headers["Idempotent-Replayed"] == "true"
    site.post(first.json["urls"]["cancel"])
    other = site.post(f"{first.json['urls']['self']}/retry", headers={"Idempotency-Key": "r"})
    assert other.status_code == 422


def test_an_open_or_completed_job_is_not_run_again(site: Web, provider: ScriptedProvider) -> None:
    job = site.post("/v1/jobs", HI).json
    path = f"{job['urls']['self']}/retry"
    answer = site.post(path)
    assert answer.status_code == 409
    assert "queued" in answer.json["detail"]
    provider.chat("done")
    with site.working():
        wait_until(lambda: _status(site, job) == "completed", "the job's end")
    assert site.post(path).status_code == 409


def test_heads_are_answered(site: Web) -> None:
    job = site.post("/v1/jobs", HI).json
    for path in (*job["urls"].values(), "/v1/jobs", "/docs"):
        if not path.endswith("cancel"):
            answer = site.client.head(path, headers=site.auth)
            assert (answer.status_code, answer.get_data()) == (200, b""), path
