"""Lines that make no call: twins of a line that asks the same, and lines that were answered before."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import openai
import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.batches import CHAT, both, jsonl, line, made, until, uploaded
from tests.support.priced_batches import COST, a_client, a_provider, a_site, echo  # noqa: F401 - fixtures
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web
from worker import clock
from worker.domain.batch import NewBatch
from worker.domain.failure import Lane
from worker.domain.job import Ending, NewJob
from worker.domain.state import JobStatus
from worker.services.batches import shared as shared_lines
from worker.services.batches import take_in
from worker.store import batches, claims, jobs, lines, new_jobs, open_lines, settling, shared, tallies, tending, views
from worker.store.batch_tables import batch as batch_table
from worker.store.batch_tables import batch_line
from worker.store.database import Database
from worker.store.moment import later
from worker.store.settling import Settle
from worker.store.tables import attempt, job, job_result

DEDUPE: Final = {"dedupe": True}
CACHE: Final = {"cache": {"max_age": "7d"}}


def _results(site: Web, batch_id: str) -> list[dict[str, Any]]:
    """All of them, by line, each as a reader of the running batch gets it."""
    found: list[dict[str, Any]] = []
    after = "start"
    while True:
        page = site.get(f"/v1/batches/{batch_id}/results?limit=7&wait=20&after={after}").json
        found += page["data"]
        after = page["next"]
        if page["over"]:
            assert len({one["custom_id"] for one in found}) == len(found), "each line once"
            return sorted(found, key=lambda one: int(one["completar"]["line"]))


def _said(answered: dict[str, Any]) -> str:
    return str(answered["response"]["body"]["choices"][0]["message"]["content"])


def _books(site: Web, batch: Any, calls: int) -> None:
    """What the batch says it came to is what its lines, its jobs and its calls came to."""
    assert batch.completar["cost"] == {"amount": pytest.approx(calls * COST), "currency": "USD", "complete": True}
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (100 * calls, 50 * calls)
    told = [one["completar"] for one in _results(site, batch.id)]
    assert sum(one["cost"]["amount"] for one in told) == pytest.approx(calls * COST)
    assert sum(one["usage"]["input_tokens"] for one in told) == 100 * calls
    assert sum(one["attempts"] for one in told) == calls
    mine = job.c.batch_id == batch.id
    with site.deps.database.read() as conn:
        spent = sa.select(sa.func.count(), sa.func.sum(attempt.c.cost_nano)).join(job, job.c.id == attempt.c.job_id)
        assert conn.execute(spent.where(mine)).one() == (calls, round(calls * COST * 1e9)) or calls == 0
        counted = tallies.of(conn, [batch.id])[batch.id]
        awaited = conn.execute(sa.select(batch_table.c.awaited).where(batch_table.c.id == batch.id)).scalar_one()
    assert (counted.completed, counted.failed) == (batch.request_counts.completed, batch.request_counts.failed)
    assert counted.ended == batch.request_counts.total
    assert counted.cost_nano == round(calls * COST * 1e9)
    assert awaited == 0


# -- twins -------------------------------------------------------------------------------------------------------


def test_lines_that_ask_the_same_make_one_call(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_in, "FIRST", 4)  # a twin may come in the page of its leader, or long after that
    monkeypatch.setattr(take_in, "PAGE", 7)
    content = [line(k, prompt=f"q {k % 5}", metadata={"row": str(k)}) for k in range(40)]
    batch = made(client, jsonl(content), extra_body=DEDUPE)
    assert (batch.completar["dedupe"], batch.completar["cache"], batch.completar["twins"]) == (True, None, 0)
    with site.working():
        done = until(client, batch.id)
    assert len(provider.requests) == 5
    assert (done.status, done.completar["twins"], done.completar["cached"]) == ("completed", 35, 0)
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (40, 40, 0)
    output, errors = both(client, done)
    assert errors == []
    assert [(one["custom_id"], _said(one)) for one in output] == [(f"request-{k}", f"re: q {k % 5}") for k in range(40)]
    assert [one.get("completar") for one in output] == [
        None if k < 5 else {"twin_of": f"request-{k % 5}"} for k in range(40)
    ]
    assert len({one["id"] for one in output}) == len({one["response"]["body"]["id"] for one in output}) == 40
    assert sum(one["response"]["body"]["usage"]["total_tokens"] for one in output) == 5 * 150
    _books(site, done, 5)
    told = _results(site, done.id)
    assert [one["completar"]["twin_of"] for one in told] == [None] * 5 + [f"request-{k % 5}" for k in range(5, 40)]
    twin = site.get(f"/v1/jobs/{told[-1]['completar']['job']}").json
    assert (twin["status"], twin["attempts"], twin["metadata"]) == ("completed", 0, {"row": "39"})
    usage = site.get("/v1/usage").json
    assert usage["total"]["calls"] == 5
    assert usage["total"]["cost"]["amount"] == pytest.approx(5 * COST)


def test_nobody_shares_or_pays_for_it_who_did_not_ask(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, names in ((shared_lines, ["digest", "_share"]), (shared, ["leaders", "answered", "ended_leaders"])):
        for name in names:
            monkeypatch.delattr(module, name)  # whoever looks for it breaks
    with site.working():
        done = until(client, made(client, jsonl(line(k, prompt="same") for k in range(6))).id)
    assert len(provider.requests) == 6
    assert (done.completar["dedupe"], done.completar["twins"]) == (False, 0)
    with site.deps.database.read() as conn:
        noted = sa.select(sa.func.count(batch_line.c.digest), sa.func.count(batch_line.c.shared))
        assert conn.execute(noted).one() == (0, 0)


def test_a_twin_has_its_answer_while_others_still_run(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    held = script.Hold()
    late = replace(script.chat("late", tokens=(100, 50)), hold=held)
    provider.always(lambda r: late if b"slow" in r.body else echo(r))
    prompts = ["slow", "quick", "slow", "quick", "quick"]
    with site.working():
        batch = made(client, jsonl(line(k, prompt=text) for k, text in enumerate(prompts)), extra_body=DEDUPE)
        wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 3, "the quick ones")
        page = site.get(f"/v1/batches/{batch.id}/results").json
        assert sorted(one["completar"]["line"] for one in page["data"]) == [2, 4, 5]
        with site.deps.database.read() as conn:
            assert conn.execute(sa.select(batch_table.c.awaited)).scalar_one() == 1
        held.release()
        done = until(client, batch.id)
    assert [_said(one) for one in both(client, done)[0]] == ["late", "re: quick", "late", "re: quick", "re: quick"]
    _books(site, done, 2)


def test_twins_that_wait_hold_nobody_up(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FIRST", 5), ("PAGE", 5), ("AHEAD", 10)):
        monkeypatch.setattr(take_in, name, value)
    held = script.Hold()
    late = replace(script.chat("late", tokens=(100, 50)), hold=held)
    provider.always(lambda r: late if b"slow" in r.body else echo(r))
    prompts = ["slow"] * 40 + ["quick"] * 3
    with site.working():
        batch = made(client, jsonl(line(k, prompt=text) for k, text in enumerate(prompts)), extra_body=DEDUPE)
        wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 3, "lines behind the twins")
        held.release()
        done = until(client, batch.id)
    _books(site, done, 2)


def test_large_answers_are_copied_a_few_at_a_time(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.always(script.chat("x" * 40_000, tokens=(100, 50)))
    monkeypatch.setattr(shared_lines, "COPIED", 200_000)
    share, pages = shared.share, list[int]()

    def counting(conn: Any, batch_id: str, ended: Any, most: int) -> int:
        pages.append(share(conn, batch_id, ended, most))
        return pages[-1]

    monkeypatch.setattr(shared, "share", counting)
    with site.working():
        done = until(client, made(client, jsonl(line(k, prompt="same") for k in range(8)), extra_body=DEDUPE).id)
    assert (sum(pages), max(pages)) == (7, 2)
    assert {len(_said(one)) for one in both(client, done)[0]} == {40_000}
    _books(site, done, 1)


def test_a_failure_is_shared_and_a_retry_makes_one_call(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    prompts = ["fail", "well", "fail", "fail", "well"]
    with site.working():
        first = until(
            client, made(client, jsonl(line(k, prompt=p) for k, p in enumerate(prompts)), extra_body=DEDUPE).id
        )
        assert (first.request_counts.completed, first.request_counts.failed) == (2, 3)
        assert len(provider.requests) == 2
        errors = both(client, first)[1]
        assert [one["custom_id"] for one in errors] == ["request-0", "request-2", "request-3"]
        assert [one.get("completar") for one in errors] == [None, *[{"twin_of": "request-0"}] * 2]
        assert len({json.dumps(one["response"]["body"]) for one in errors}) == 1
        assert site.get("/v1/dead_letters").json["data"] == []
        provider.always(script.chat("now", tokens=(100, 50)))
        answer = site.post(f"/v1/batches/{first.id}/retry").json
        again = until(client, answer["id"])
        assert again.completar["dedupe"] is True
        assert (again.request_counts.total, again.request_counts.completed) == (3, 3)
        assert len(provider.requests) == 3
        output = both(client, again)[0]
    assert [one["custom_id"] for one in output] == ["request-0", "request-2", "request-3"]
    _books(site, again, 1)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_twins_end_as_their_leaders_end(site: Web, client: openai.OpenAI, provider: ScriptedProvider, how: str) -> None:
    late = script.error(429, "later", headers={"retry-after": "600"})
    provider.always(lambda r: late if b"late" in r.body else echo(r))
    prompts = ["quick", "late", "quick", "late", "late"]
    with site.working():
        batch = made(client, jsonl(line(k, prompt=p) for k, p in enumerate(prompts)), extra_body=DEDUPE)
        wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed == 2, "the quick ones")
        provider.wait_for(2)
        if how == "cancelled":
            client.batches.cancel(batch.id)
        else:
            with site.deps.database.write() as conn:  # the window is over
                conn.execute(batch_table.update().values(expires_at=later(-0.1)))
                conn.execute(job.update().values(deadline_at=later(0.0)))
        over = until(client, batch.id, how)
    output, errors = both(client, over)
    assert [one["custom_id"] for one in output] == ["request-0", "request-2"]
    assert [(one["custom_id"], one["error"]["code"]) for one in errors] == [
        (f"request-{k}", f"batch_{how}") for k in (1, 3, 4)
    ]
    assert [one.get("completar") for one in errors] == [None, *[{"twin_of": "request-1"}] * 2]
    assert (over.request_counts.total, over.request_counts.completed, over.request_counts.failed) == (5, 2, 0)
    assert len(_results(site, batch.id)) == 5


def test_a_paused_batch_of_twins_rests_and_goes_on(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    held = provider.hold(script.chat("held", tokens=(100, 50)))
    with site.working():
        batch = made(client, jsonl(line(k, prompt="same") for k in range(6)), extra_body=DEDUPE)
        provider.wait_for(1)
        assert site.post(f"/v1/batches/{batch.id}/pause").status_code == 200
        held.release()  # an open call may answer, and what it says costs nothing more
        wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1, "the open call")
        assert site.post(f"/v1/batches/{batch.id}/resume").status_code == 200
        done = until(client, batch.id)
    assert len(provider.requests) == 1
    assert done.request_counts.completed == 6
    _books(site, done, 1)


def test_a_twin_takes_nothing_of_a_bound(site: Web, client: openai.OpenAI, provider: ScriptedProvider) -> None:
    # Some 170 tokens in and 50 out are held for a line: of $0.0013 one call and a bit fit, and then a second one.
    texts = ["x" * 600, "x" * 600, "y" * 600] + ["x" * 600] * 30 + ["y" * 600] * 7
    content = jsonl(line(k, prompt=text, max_tokens=50) for k, text in enumerate(texts))
    with site.working():
        done = until(client, made(client, content, extra_body={**DEDUPE, "max_cost": 0.0013}).id)
    assert (done.status, done.request_counts.completed) == ("completed", 40)
    assert len(provider.requests) == 2
    _books(site, done, 2)


def test_twins_of_embeddings_come_in_the_shape_each_line_asked_for(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    url = "/v1/embeddings"
    bodies = [{"model": "default", "input": ["a"]}, {"model": "default", "input": ["a"], "encoding_format": "base64"}]
    content = jsonl({"custom_id": str(k), "method": "POST", "url": url, "body": b} for k, b in enumerate(bodies))
    with site.working():
        done = until(client, made(client, content, endpoint=url, extra_body=DEDUPE).id)
    assert len(provider.requests) == 1
    shapes = [one["response"]["body"]["data"][0]["embedding"] for one in both(client, done)[0]]
    assert (shapes[0], type(shapes[1])) == ([0.5, -0.5], str)


def test_two_batches_of_the_same_bodies_keep_their_own_books(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    content = jsonl(line(k, prompt=f"q {k % 4}") for k in range(60))
    both_at_once = [made(client, content, extra_body={**DEDUPE, **CACHE}).id for _ in range(2)]
    with site.working():
        done = [until(client, batch_id) for batch_id in both_at_once]
    calls = [one.request_counts.total - one.completar["twins"] - one.completar["cached"] for one in done]
    assert len(provider.requests) == sum(calls)
    assert all(0 <= one <= 4 for one in calls)
    for batch, made_calls in zip(done, calls, strict=True):
        assert batch.request_counts.completed == 60
        assert batch.completar["cost"]["amount"] == pytest.approx(made_calls * COST)
        assert [_said(one) for one in both(client, batch)[0]] == [f"re: q {k % 4}" for k in range(60)]


# -- answered before ---------------------------------------------------------------------------------------------


def test_what_was_answered_before_is_not_asked_again(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    content = jsonl(line(k, prompt="fail" if k == 2 else f"q {k}") for k in range(5))
    with site.working():
        first = until(client, made(client, content, extra_body=CACHE).id)
        assert (len(provider.requests), first.completar["cached"]) == (5, 0)
        again = until(client, made(client, content, extra_body=CACHE).id)
        assert len(provider.requests) == 6, "a failure is no answer"
        third = until(client, made(client, content, extra_body=CACHE).id)
        assert len(provider.requests) == 7
        until(client, made(client, content).id)
        assert len(provider.requests) == 12, "who does not ask for it gets no old answer"
    assert again.completar["cache"] == {"max_age": "7d"}
    assert (again.completar["cached"], again.completar["twins"]) == (4, 0)
    assert (again.request_counts.completed, again.request_counts.failed) == (4, 1)
    assert again.completar["cost"] == {"amount": 0, "currency": "USD", "complete": True}
    sources = {one["custom_id"]: one["completar"]["job"] for one in _results(site, first.id)}
    for batch in (again, third):  # an answer from the cache is as old as the call was
        told = _results(site, batch.id)
        assert [one["completar"]["cached_from"] for one in told] == [
            None if k == 2 else sources[f"request-{k}"] for k in range(5)
        ]
        output = both(client, batch)[0]
        assert [_said(one) for one in output] == [f"re: q {k}" for k in (0, 1, 3, 4)]
        assert [one["completar"] for one in output] == [{"cached_from": sources[one["custom_id"]]} for one in output]
    with site.deps.database.read() as conn:
        mine = sa.select(job.c.id).where(job.c.batch_id == again.id)
        assert conn.execute(sa.select(sa.func.count()).where(attempt.c.job_id.in_(mine))).scalar_one() == 1


def test_an_old_a_forgotten_or_a_foreign_answer_is_not_taken(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    content = jsonl([line(1)])
    hour = {"cache": {"max_age": "1h"}}

    def calls_of(one: openai.OpenAI, body: dict[str, Any]) -> int:
        before = len(provider.requests)
        assert until(one, made(one, content, extra_body=body).id).request_counts.completed == 1
        return len(provider.requests) - before

    with site.working():
        assert calls_of(client, hour) == 1
        _, secret = site.new_key(project="another")
        with openai.OpenAI(base_url=str(client.base_url), api_key=secret) as other:
            assert calls_of(other, hour) == 1
        assert calls_of(client, hour) == 0
        with site.deps.database.write() as conn:
            conn.execute(job.update().values(ended_at=later(-3601.0)))
        assert calls_of(client, hour) == 1
        with site.deps.database.write() as conn:
            conn.execute(job.update().where(job.c.attempts == 1).values(ended_at=later(-1000.0)))
            assert jobs.purge(conn, 500.0) > 0
        assert calls_of(client, hour) == 1


def test_an_answer_that_is_forgotten_at_the_last_moment_is_asked_for(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = jsonl(line(k) for k in range(3))
    serve = shared.serve

    def forgetting(conn: Any, batch_id: str, served: Any) -> bool:
        jobs.purge(conn, -1.0)
        monkeypatch.setattr(shared, "serve", serve)
        return serve(conn, batch_id, served)

    with site.working():
        until(client, made(client, content, extra_body=CACHE).id)
        monkeypatch.setattr(shared, "serve", forgetting)
        again = until(client, made(client, content, extra_body=CACHE).id)
    assert (again.request_counts.completed, again.completar["cached"]) == (3, 3), "it was rolled back, and taken anew"
    assert len(provider.requests) == 3


def test_the_cache_and_twins_go_together(site: Web, client: openai.OpenAI, provider: ScriptedProvider) -> None:
    with site.working():
        until(client, made(client, jsonl([line(1, prompt="known", max_tokens=50)]), extra_body=CACHE).id)
        prompts = ["known", "new", "known", "new"]
        content = jsonl(line(k, prompt=p, max_tokens=50) for k, p in enumerate(prompts))
        done = until(client, made(client, content, extra_body={**DEDUPE, **CACHE, "max_cost": 0.002}).id)
    assert len(provider.requests) == 2
    assert (done.completar["twins"], done.completar["cached"]) == (1, 2)
    assert [_said(one) for one in both(client, done)[0]] == [f"re: {p}" for p in prompts]
    _books(site, done, 1)


# -- as it is asked for ------------------------------------------------------------------------------------------


def test_a_bad_wish_is_refused_by_name(site: Web) -> None:
    for change, param, said in (
        ({"dedupe": "yes"}, "dedupe", "true or false"),
        ({"cache": True}, "cache", "must be a JSON object. Send"),
        ({"cache": {}}, "cache.max_age", "is missing"),
        ({"cache": {"max_age": "soon"}}, "cache.max_age", "Send 7d, or such as 30m or 12h."),
        ({"cache": {"max_age": 60}}, "cache.max_age", "Send a string."),
        ({"cache": {"max_age": "7d", "ttl": 1}}, "cache.ttl", "known here: max_age"),
    ):
        asked = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **change}
        answer = site.post("/v1/batches", asked)
        assert answer.status_code == 400, answer.text
        assert answer.json["error"]["param"] == param
        assert said in answer.json["error"]["message"]


def test_an_estimate_counts_twins_once(site: Web, client: openai.OpenAI) -> None:
    file_id = uploaded(client, jsonl(line(k, prompt=f"q {k % 2}", max_tokens=50) for k in range(10)))
    ask = {"input_file_id": file_id, "endpoint": CHAT}
    whole, once = (site.post("/v1/batches/estimate", {**ask, **more}).json for more in ({}, DEDUPE))
    assert (whole["lines"], whole["twins"], whole["output_tokens"]) == (10, 0, 500)
    assert (once["lines"], once["twins"], once["output_tokens"]) == (10, 8, 100)
    assert once["cost"]["amount"] == pytest.approx(whole["cost"]["amount"] / 5, rel=0.05)
    assert once["models"][0]["lines"] == 2


# -- in SQL ------------------------------------------------------------------------------------------------------


def _awaiting(database: Database, twins: int) -> tuple[str, str]:
    """A batch whose one leader has ended, and twins that wait for its end."""
    batch_id, leader = clock.new_id("batch"), clock.new_id("job")
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400, dedupe=True, priority=1))
        tending.take(conn, "wrk_1", 60.0, 1)
        assert batches.begin(conn, batch_id, "wrk_1", total=twins + 1, model=None)
        n = twins + 1
        assert batches.took(conn, batch_id, "wrk_1", after=0, line=n, n=n, twins=twins)
        one = NewJob(leader, "proj_a", "completion", Lane.BATCH, ("default",), {}, batch_id=batch_id)
        new_jobs.insert(conn, [one])
        rows = [lines.Line(1, leader, '"1"', digest="d" * 40)]
        twin = lines.Line(0, "", "", shared="awaited", source_id=leader)
        rows += [replace(twin, number=k, job_id=clock.new_id("job"), custom_id=f'"{k}"') for k in range(2, n + 1)]
        lines.insert(conn, batch_id, rows)
    return batch_id, leader


def _end(database: Database, status: JobStatus) -> None:
    with database.write() as conn:
        (claim,) = claims.claim_block(conn, Lane.BATCH, 5, worker_id="w", claim_id="c")
        ending = Ending(status, result='{"text":"ok"}')  # type: ignore[arg-type]
        settling.settle(conn, [Settle(claim.id, "c", ending, calls=1, cost_nano=7)])


def test_twins_are_born_once_whoever_believes_to_own_the_batch(database: Database) -> None:
    batch_id, leader = _awaiting(database, 50)
    with database.write() as conn:
        assert shared.ended_leaders(conn, batch_id, 10) == [], "nothing is shared before it is there"
        assert open_lines.any_left(conn, batch_id)
    _end(database, JobStatus.COMPLETED)
    shared_by: list[int] = []

    def keeper() -> None:
        while True:
            with database.write() as conn:
                n = shared.share(conn, batch_id, [leader], 7)
            shared_by.append(n)
            if n == 0:
                return

    threads = [threading.Thread(target=keeper) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(shared_by) == 50
    with database.read() as conn:
        counted = tallies.of(conn, [batch_id])[batch_id]
        assert (counted.completed, counted.rest, counted.cost_nano) == (51, 0, 7)
        ended = tallies.ended_after(conn, batch_id, {}, 1000)
        assert len({job_id for _, job_id in ended}) == len(ended) == 51
        found = views.many(conn, "proj_a", [job_id for _, job_id in ended])
        assert {one.result["text"] for one in found.values()} == {"ok"}
        born = [one for one in found.values() if one.id != leader]
        assert {(one.attempts, one.cost_nano, one.priority) for one in born} == {(0, 0, 1)}
        assert conn.execute(sa.select(sa.func.count()).select_from(job_result)).scalar_one() == 51
        batch = conn.execute(sa.select(batch_table.c.awaited, batch_table.c.twins)).one()
    assert batch == (0, 50)


def test_a_step_that_is_rolled_back_leaves_the_twins_waiting(database: Database) -> None:
    batch_id, leader = _awaiting(database, 3)
    _end(database, JobStatus.COMPLETED)
    with pytest.raises(ZeroDivisionError), database.write() as conn:
        1 / (3 - shared.share(conn, batch_id, [leader], 10))
    with database.write() as conn:
        assert shared.ended_leaders(conn, batch_id, 10) == [leader]
        assert tallies.of(conn, [batch_id])[batch_id].completed == 1
        assert shared.share(conn, batch_id, [leader], 10) == 3
        assert tallies.of(conn, [batch_id])[batch_id].completed == 4
        assert shared.ended_leaders(conn, batch_id, 10) == []


@pytest.mark.postgres
def test_statements_on_twins_go_by_their_indexes(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        batch_id, leader = _awaiting(database, 5)
        with database.write() as conn:
            conn.execute(
                sa.text("""
                INSERT INTO batch_line (batch_id, line, job_id, custom_id, digest, shared, source_id)
                SELECT 'batch_' || n % 10, n, 'job_' || lpad(n::text, 26, '0'), '"x"',
                       CASE WHEN n % 2 = 0 THEN md5(n::text) END, CASE WHEN n % 2 = 1 THEN 'awaited' END,
                       'job_' || n % 7
                FROM generate_series(1, 20000) n""")
            )
        _end(database, JobStatus.COMPLETED)
        plans: list[str] = []
        with database.write() as conn:

            @sa.event.listens_for(conn, "before_cursor_execute", retval=True)
            def explained(_conn, cursor, statement, parameters, _context, _many):  # type: ignore[no-untyped-def]
                cursor.execute("EXPLAIN " + statement, parameters)
                plans.append("\n".join(row[0] for row in cursor.fetchall()))
                return statement, parameters

            for analyzed in (False, True):  # a table that has just grown is not known to the planner
                if analyzed:
                    sa.event.remove(conn, "before_cursor_execute", explained)
                    conn.execute(sa.text("ANALYZE"))
                    sa.event.listen(conn, "before_cursor_execute", explained, retval=True)
                plans.clear()
                shared.leaders(conn, batch_id, ["d" * 40])
                shared.answered(conn, "proj_a", ["d" * 40], 3600.0)
                shared.ended_leaders(conn, batch_id, 10)
                assert shared.share(conn, batch_id, [leader], 2) == 2
                for plan, index in zip(plans, ("digest", "digest", "awaited"), strict=False):
                    assert f"ix_batch_line_{index}" in plan, plan
                    assert "Seq Scan on batch_line" not in plan, plan
                assert plans[1].index("ix_batch_line_digest") < plans[1].index(" on job "), "from lines to jobs"
                assert "Sort" not in plans[3], "a leader's twins are not sorted for each page"
