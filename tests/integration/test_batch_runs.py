"""What Completar adds to batches: results while they run, retries of what failed, estimates, bounds of cost, pauses."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

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
from worker.domain.batch import BatchStatus, NewBatch
from worker.domain.batch_cursor import Cursor
from worker.domain.failure import Lane
from worker.domain.job import Ending, NewJob, Return
from worker.domain.money import NANO
from worker.domain.state import JobStatus
from worker.services.batches import take_in
from worker.services.batches.create import BatchRequest, NotRetriable, create
from worker.services.batches.desk import Desk
from worker.services.batches.ledger import Ledger
from worker.services.batches.source import Marks
from worker.services.batches.watch import watch
from worker.store import (
    batch_views,
    batches,
    claims,
    jobs,
    lines,
    new_jobs,
    open_lines,
    parked,
    settling,
    tallies,
    tending,
)
from worker.store.batch_tables import batch as batch_table
from worker.store.database import Database
from worker.store.moment import db_now, later
from worker.store.settling import Settle
from worker.store.tables import attempt, job


def _page(site: Web, batch_id: str, after: str | None = None, **query: int) -> dict[str, Any]:
    given = {"after": after, **query}
    answer = site.get(
        f"/v1/batches/{batch_id}/results?" + "&".join(f"{k}={v}" for k, v in given.items() if v is not None)
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def _all(site: Web, batch_id: str, limit: int = 7) -> list[dict[str, Any]]:
    """Everything there is, from the first page to the one that says that nothing will come."""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = _page(site, batch_id, after, limit=limit, wait=20)
        found += page["data"]
        after = page["next"]
        if page["over"]:
            return found


def _post(site: Web, batch_id: str, verb: str, status: int = 200) -> dict[str, Any]:
    answer = site.post(f"/v1/batches/{batch_id}/{verb}")
    assert answer.status_code == status, answer.text
    return dict(answer.json)


# -- results while it runs ---------------------------------------------------------------------------------------


def test_who_follows_has_each_line_once_and_as_it_is_in_the_files(site: Web, client: openai.OpenAI) -> None:
    n = 60
    batch = made(client, jsonl(line(k, prompt=f"fail {k}" if k % 10 == 3 else None) for k in range(n)))
    with site.working():
        found = _all(site, batch.id)
    done = until(client, batch.id)
    ledgers = [one.pop("completar") for one in found]
    output, errors = both(client, done)
    assert sorted(found, key=lambda one: str(one["id"])) == sorted(output + errors, key=lambda one: str(one["id"]))
    assert len(errors) == 6
    assert sorted(one["line"] for one in ledgers) == list(range(1, n + 1))
    assert sum(one["usage"]["input_tokens"] or 0 for one in ledgers) == done.usage.input_tokens == 54 * 100
    assert sum(one["usage"]["output_tokens"] or 0 for one in ledgers) == done.usage.output_tokens == 54 * 50
    total = sum(one["cost"]["amount"] or 0 for one in ledgers)
    assert total == pytest.approx(54 * COST)
    assert done.completar["cost"] == {"amount": pytest.approx(54 * COST), "currency": "USD", "complete": True}
    assert {one["provider"] for one in ledgers if one["status"] == "completed"} == {"stub"}


def test_results_come_before_the_batch_has_ended(site: Web, client: openai.OpenAI, provider: ScriptedProvider) -> None:
    held = provider.hold(script.chat("late"))
    with site.working():
        batch = made(client, jsonl(line(k) for k in range(5)))
        first = _page(site, batch.id, wait=20)
        found = list(first["data"])
        while len(found) < 4:
            first = _page(site, batch.id, first["next"], wait=20)
            found += first["data"]
        assert (first["over"], first["status"]) == (False, "in_progress")
        assert _page(site, batch.id, first["next"], wait=0)["data"] == []
        held.release()
        while not first["over"]:
            first = _page(site, batch.id, first["next"], wait=20)
            found += first["data"]
    assert sorted(one["custom_id"] for one in found) == [f"request-{k}" for k in range(5)]


def test_lines_that_never_became_jobs_come_last(site: Web, client: openai.OpenAI) -> None:
    batch = made(client, jsonl(line(k) for k in range(1200)))
    with site.deps.database.write() as conn:
        tending.take(conn, "wrk_x", 60.0, 10)
        assert batches.begin(conn, batch.id, "wrk_x", total=1200, model=None)
        conn.execute(batch_table.update().values(expires_at=later(-1.0)))
        tending.release(conn, "wrk_x")
    with site.working():
        found = _all(site, batch.id, limit=500)
    assert [one["completar"]["line"] for one in found] == list(range(1, 1201))
    assert {one["error"]["code"] for one in found} == {"batch_expired"}
    assert {one["completar"]["status"] for one in found} == {"expired"}


@pytest.mark.parametrize("wish", [{}, {"dedupe": True}, {"max_cost": 1}])
def test_a_line_that_no_longer_reads_fails_on_its_own(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, wish: dict[str, Any]
) -> None:
    """It was good for the release that read the file."""
    lines = [line(0), line(1, temperature="hot"), line(2), line(3, temperature="hot"), "no JSON", line(5)]
    batch = made(client, jsonl(lines), extra_body=wish)
    with site.deps.database.write() as conn:
        tending.take(conn, "wrk_x", 60.0, 10)
        assert batches.begin(conn, batch.id, "wrk_x", total=6, model=None)
        tending.release(conn, "wrk_x")
    with site.working():
        done = until(client, batch.id)
        assert len(_all(site, batch.id)) == 6
    counts = done.request_counts
    assert (done.status, counts.total, counts.completed, counts.failed) == ("completed", 6, 3, 3)
    assert len(provider.requests) == 3
    _, errors = both(client, done)
    assert [one["custom_id"] for one in errors] == ["request-1", "request-3", None]
    for one in errors:
        assert one["response"]["status_code"] == 400
        assert "cannot be asked any more" in one["response"]["body"]["error"]["message"]
    assert "temperature" in errors[0]["response"]["body"]["error"]["message"]


def test_a_faulty_file_has_no_results(site: Web, client: openai.OpenAI) -> None:
    batch = made(client, b"{}\n")
    with site.working():
        assert _all(site, batch.id) == []
    assert site.get(f"/v1/batches/{batch.id}/results?after=x").status_code == 400
    assert site.get("/v1/batches/batch_00000000000000000000000000/results").status_code == 404


def test_what_is_forgotten_is_said_to_be(site: Web, client: openai.OpenAI) -> None:
    batch = made(client, jsonl([line(1)]))
    with site.working():
        until(client, batch.id)
    with site.deps.database.write() as conn:
        while batches.prune(conn, -1.0):
            pass
    assert site.get(f"/v1/batches/{batch.id}/results").status_code == 410
    assert "no longer kept" in _post(site, batch.id, "retry", 409)["error"]["message"]


def test_a_reader_misses_no_commit_however_they_cross(database: Database) -> None:
    n = 200
    batch_id = clock.new_id("batch")
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400))
        new = [
            NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("default",), {}, batch_id=batch_id)
            for _ in range(n)
        ]
        new_jobs.insert(conn, new)
    with database.write() as conn:
        held = [(c.id, c.claim_id) for c in claims.claim_block(conn, Lane.BATCH, n, worker_id="w", claim_id="c")]
    assert len(held) == n
    read: list[str] = []
    writing = threading.Event()

    def settle(part: list[tuple[str, str]]) -> None:
        for at in range(0, len(part), 3):
            moves = [Settle(i, c, Ending(JobStatus.COMPLETED, result="{}")) for i, c in part[at : at + 3]]
            with database.write() as conn:
                settling.settle(conn, moves)

    def follow() -> None:
        slots: dict[int, int] = {}
        while len(read) < n and not (writing.is_set() and not _ended(slots)):
            for slot, job_id in _ended(slots):
                slots[slot] = slots.get(slot, 0) + 1
                read.append(job_id)

    def _ended(slots: dict[int, int]) -> list[tuple[int, str]]:
        with database.read() as conn:
            return tallies.ended_after(conn, batch_id, slots, 5)

    writers = [threading.Thread(target=settle, args=(held[k::5],)) for k in range(5)]
    reader = threading.Thread(target=follow)
    for thread in [reader, *writers]:
        thread.start()
    for thread in writers:
        thread.join(30)
    writing.set()
    reader.join(30)
    assert sorted(read) == sorted(job_id for job_id, _ in held)


def test_lines_that_nobody_noted_are_read_all_the_same(database: Database) -> None:
    batch_id = clock.new_id("batch")
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400))
        tending.take(conn, "wrk_1", 60.0, 1)
        assert batches.begin(conn, batch_id, "wrk_1", total=6, model=None)
        new = [
            NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("default",), {}, batch_id=batch_id)
            for _ in range(6)
        ]
        new_jobs.insert(conn, new)
        lines.insert(conn, batch_id, [lines.Line(k, one.id, f'"{k}"') for k, one in enumerate(new, 1)])
        assert batches.took(conn, batch_id, "wrk_1", after=0, line=6, n=6)
        jobs.cancel(conn, "proj_a", new[0].id)
        conn.execute(job.update().where(job.c.status == "queued").values(status="completed", ended_at=db_now()))
        (first,) = tallies.ended_after(conn, batch_id, {}, 10)
    desk: Any = Desk(SimpleNamespace(database=database), "wrk_1", lambda: None)  # type: ignore[arg-type]
    assert list(watch(desk, desk.look(batch_id))) == []
    with database.read() as conn:
        rest = tallies.ended_after(conn, batch_id, {first[0]: 1}, 10)
    assert sorted([first[1], *(job_id for _, job_id in rest)]) == sorted(one.id for one in new)


def test_a_cursor_is_read_as_it_was_written() -> None:
    for text in ("start", "0.12", "0.12-3.4", "0.12~1.5", "~2.7"):
        assert str(Cursor.parse(text)) == text
    for text in ("", "0", "0.1-", "a.b", "0.1~", "0.-1", "1.2\n"):
        with pytest.raises(ValueError, match="no cursor"):
            Cursor.parse(text)


# -- retry -------------------------------------------------------------------------------------------------------


def test_a_retry_asks_what_was_not_answered_and_nothing_else(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    failing = set(range(5, 1000, 27))
    assert len(failing) == 37
    content = jsonl(line(k, prompt=f"fail {k}" if k in failing else None) for k in range(1000))
    with site.working():
        batch = until(client, made(client, content, metadata={"run": "7"}).id)
        assert (batch.request_counts.completed, batch.request_counts.failed) == (963, 37)
        before = len(provider.requests)
        provider.always(lambda request: script.chat(f"now: {request.json['messages'][-1]['content']}"))
        again = _post(site, batch.id, "retry")
        assert again["completar"]["retry_of"] == batch.id
        assert again["metadata"] == {"run": "7"}
        done = until(client, again["id"])
        assert len(provider.requests) - before == 37
        assert (done.request_counts.total, done.request_counts.completed) == (37, 37)
        output, errors = both(client, done)
        assert errors == []
        assert [one["custom_id"] for one in output] == [f"request-{k}" for k in sorted(failing)]
        assert [one["completar"]["line"] for one in _all(site, again["id"])] != []
        for batch_id in (batch.id, again["id"]):  # between them they have answered all
            assert "has been answered" in _post(site, batch_id, "retry", 409)["error"]["message"]
        assert len(provider.requests) - before == 37


def test_a_retry_of_a_retry_goes_back_to_the_same_file(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    content = jsonl([line(0), line(1, prompt="fail once"), line(2, prompt="fail twice")])
    with site.working():
        first = until(client, made(client, content).id)
        provider.always(lambda r: echo(r) if b"twice" in r.body else script.chat("now"))
        second = until(client, _post(site, first.id, "retry")["id"])
        assert (second.request_counts.total, second.request_counts.failed) == (2, 1)
        provider.always(script.chat("at last"))
        third = until(client, _post(site, first.id, "retry")["id"])  # of the first, and yet one line is left
        assert (third.request_counts.total, third.request_counts.completed) == (1, 1)
        assert both(client, third)[0][0]["custom_id"] == "request-2"


def test_a_batch_that_runs_is_not_retried_and_one_retry_runs_at_a_time(site: Web, client: openai.OpenAI) -> None:
    batch = made(client, jsonl([line(1, prompt="fail")]))
    assert "only one that has ended" in _post(site, batch.id, "retry", 409)["error"]["message"]
    with site.working():
        until(client, batch.id)
    sent = {"Idempotency-Key": "again"}
    first = site.post(f"/v1/batches/{batch.id}/retry", headers=sent).json
    assert site.post(f"/v1/batches/{batch.id}/retry", headers=sent).json["id"] == first["id"]
    assert "runs lines of the same file" in _post(site, batch.id, "retry", 409)["error"]["message"]


def test_a_batch_that_is_being_forgotten_is_not_retried(
    site: Web, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines that are gone would be taken for lines that nobody has answered."""
    monkeypatch.setattr(batches, "_AT_ONCE", 2)
    with site.working():
        batch = until(client, made(client, jsonl(line(k) for k in range(5))).id)
    with site.deps.database.write() as conn:
        assert batches.prune(conn, -1.0) == 2
    assert "no longer kept" in _post(site, batch.id, "retry", 409)["error"]["message"]
    late = BatchRequest(CHAT, batch.input_file_id, "24h", 86_400, retry_of=batch.id, origin_id=batch.id)
    with site.deps.database.read() as conn:
        project_id = conn.execute(sa.select(batch_table.c.project_id)).scalar_one()
    with pytest.raises(NotRetriable, match="no longer kept"):
        create(site.deps, project_id, late)
    assert site.get(f"/v1/batches/{batch.id}/results").status_code == 410


def test_a_retry_of_what_was_cancelled_unread_asks_every_line_once(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    batch = made(client, jsonl(line(k, prompt="fail once" if k == 1 else None) for k in range(3)))
    client.batches.cancel(batch.id)
    with site.working():
        assert until(client, batch.id).request_counts.total == 0
        first = until(client, _post(site, batch.id, "retry")["id"])
        assert (first.request_counts.total, first.request_counts.completed) == (3, 2)
        provider.always(script.chat("now"))
        second = until(client, _post(site, batch.id, "retry")["id"])
        assert (second.request_counts.total, second.request_counts.completed) == (1, 1)
        assert "has been answered" in _post(site, batch.id, "retry", 409)["error"]["message"]
    assert len(provider.requests) == 4


def test_a_faulty_file_is_not_retried(site: Web, client: openai.OpenAI) -> None:
    batch = made(client, b"{}\n")
    with site.working():
        until(client, batch.id)
    assert "was not taken" in _post(site, batch.id, "retry", 409)["error"]["message"]


def test_marks_hold_what_was_added() -> None:
    marks = Marks()
    for number in (0, 7, 8, 1_000_000, 8):
        marks.add(number)
    assert marks.count == 4
    assert [number for number in (0, 1, 7, 8, 9, 999_999, 1_000_000, 9_999_999) if number in marks] == [
        0,
        7,
        8,
        1_000_000,
    ]


# -- estimate, bound, priority -----------------------------------------------------------------------------------


def test_an_estimate_calls_nobody_and_stores_nothing(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    good = [line(k, max_tokens=50) for k in range(20)] + [line(20, model="stub/other")]
    file_id = uploaded(client, jsonl([*good, line(21, model="nobody")]))
    with site.working():
        told = site.post("/v1/batches/estimate", {"input_file_id": file_id, "endpoint": CHAT}).json
    assert provider.requests == []
    assert list(client.batches.list()) == []
    assert (told["lines"], told["read"], told["faulty"]) == (22, 22, 1)
    assert told["errors"]["data"][0]["code"] == "model_not_found"
    first, other = told["models"]
    assert (first["model"], first["target"], first["lines"]) == ("default", "stub/scripted", 20)
    assert first["output_tokens"] == 20 * 50
    assert first["cost"]["amount"] == pytest.approx((first["input_tokens"] + 10 * first["output_tokens"]) / 1e6)
    assert (other["lines"], other["cost"]["amount"]) == (1, None)
    assert told["cost"]["complete"] is False
    assert site.post("/v1/batches/estimate", {"input_file_id": "file-x"}).status_code == 404


def test_an_estimate_finds_a_name_that_is_used_twice_as_the_batch_would(site: Web, client: openai.OpenAI) -> None:
    file_id = uploaded(client, jsonl([line(1), line(2), line(1)]))
    told = site.post("/v1/batches/estimate", {"input_file_id": file_id, "endpoint": CHAT}).json
    assert [(one["code"], one["line"]) for one in told["errors"]["data"]] == [("duplicate_custom_id", 3)]
    assert (told["faulty"], told["models"][0]["lines"]) == (1, 2)


def test_an_estimate_tells_the_time_by_what_calls_took_of_late(site: Web, client: openai.OpenAI) -> None:
    file_id = uploaded(client, jsonl(line(k) for k in range(3)))
    ask = {"input_file_id": file_id, "endpoint": CHAT}
    assert site.post("/v1/batches/estimate", ask).json["seconds"] is None
    with site.working():
        until(client, made(client, jsonl([line(9)])).id)
    with site.deps.database.write() as conn:
        conn.execute(attempt.update().values(total_s=2.5))
    assert site.post("/v1/batches/estimate", ask).json["seconds"] == pytest.approx(2.5)


def test_a_batch_stops_before_it_passes_its_bound(site: Web, client: openai.OpenAI, provider: ScriptedProvider) -> None:
    # Some 170 tokens in and 50 out are held for a line that takes 100 and 50: of $0.005 seven or eight fit.
    content = jsonl(line(k, prompt="x" * 600, max_tokens=50) for k in range(40))
    bound = {"max_cost": 0.005, "priority": 1}
    with site.working():
        done = until(client, made(client, content, extra_body=bound).id)
        assert (done.status, done.completar["stopped_for"]) == ("cancelled", "max_cost")
        assert done.completar["max_cost"] == 0.005
        assert 6 <= done.request_counts.completed <= 8
        assert len(provider.requests) == done.request_counts.completed
        assert done.completar["cost"]["amount"] == pytest.approx(done.request_counts.completed * COST)
        assert done.completar["cost"]["amount"] <= 0.005
        output, errors = both(client, done)
        assert len(output) + len(errors) == 40
        assert {one["error"]["code"] for one in errors} == {"max_cost_reached"}
        assert len(_all(site, done.id)) == 40
        more = until(client, _post(site, done.id, "retry?max_cost=1")["id"])
        assert (more.status, more.request_counts.completed) == ("completed", 40 - done.request_counts.completed)
    with site.deps.database.read() as conn:
        assert set(conn.execute(sa.select(job.c.priority)).scalars()) == {1}


def test_no_bound_is_kept_where_a_price_is_not_known(site: Web, client: openai.OpenAI) -> None:
    content = jsonl([line(1), line(2, model="stub/other")])
    with site.working():
        done = until(client, made(client, content, extra_body={"max_cost": 1}).id)
    assert done.status == "failed"
    (error,) = done.errors.data
    assert (error.line, error.param) == (2, "body.model")
    assert "stub/other is not known" in error.message


def test_a_ledger_knows_what_is_spent_and_what_may_be(database: Database) -> None:
    batch_id = clock.new_id("batch")
    with database.write() as conn:
        new = NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400, max_cost_nano=NANO)
        batches.insert(conn, new)
        tending.take(conn, "wrk_1", 60.0, 1)
        made_jobs = [
            NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("default",), {}, batch_id=batch_id)
            for _ in range(3)
        ]
        new_jobs.insert(conn, made_jobs)
        held = [lines.Line(k, one.id, f'"{k}"', None, 300) for k, one in enumerate(made_jobs, 1)]
        lines.insert(conn, batch_id, held)
    with database.write() as conn:
        held = claims.claim_block(conn, Lane.BATCH, 2, worker_id="w", claim_id="c")
        ending = Ending(JobStatus.COMPLETED, result="{}")
        known = Settle(held[0].id, "c", ending, calls=1, cost_nano=100)
        unknown = Settle(held[1].id, "c", ending, calls=1, cost_complete=False)
        settling.settle(conn, [known, unknown])
    desk: Any = Desk(SimpleNamespace(database=database), "wrk_1", lambda: None)  # type: ignore[arg-type]
    ledger = Ledger.of(desk, desk.look(batch_id))
    assert ledger is not None
    assert (ledger.spent_nano, ledger.held_nano) == (400, 300), "what is not known counts as what was held"
    assert ledger.room_for(NANO - 700)
    assert not ledger.room_for(NANO - 699)


def test_an_answer_that_does_not_fit_its_schema_is_an_error_of_its_line(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    provider.always(lambda request: script.chat('{"n": "many"}' if b"bad" in request.body else '{"n": 3}'))
    content = jsonl([line(1, response_format=wanted), line(2, prompt="bad", response_format=wanted)])
    with site.working():
        output, errors = both(client, until(client, made(client, content).id))
    assert [one["custom_id"] for one in output] == ["request-1"]
    assert [one["custom_id"] for one in errors] == ["request-2"]
    assert "does not fit output_schema" in errors[0]["response"]["body"]["error"]["message"]


# -- pause -------------------------------------------------------------------------------------------------------


def test_no_line_of_a_paused_batch_is_started(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_in, "AHEAD", 100)
    monkeypatch.setattr(take_in, "FIRST", 50)
    monkeypatch.setattr(take_in, "PAGE", 50)
    batch = made(client, jsonl(line(k) for k in range(300)))
    told = _post(site, batch.id, "pause")
    assert told["completar"]["paused_at"] is not None
    assert _post(site, batch.id, "pause")["completar"]["paused_at"] == told["completar"]["paused_at"]
    with site.working():
        assert until(client, batch.id, "in_progress").request_counts.completed == 0
        other = until(client, made(client, jsonl([line(1, prompt="another batch")])).id)
        assert other.request_counts.completed == 1
        assert len(provider.requests) == 1
        assert client.batches.retrieve(batch.id).status == "in_progress"
        assert _post(site, batch.id, "resume")["completar"]["paused_at"] is None
        done = until(client, batch.id)
        assert done.request_counts.completed == 300
    for verb in ("pause", "resume"):
        assert _post(site, batch.id, verb, 409)["error"]["message"].startswith(f"Cannot {verb}")


def test_a_pause_amid_a_batch_keeps_what_is_done_and_goes_on_from_there(
    site: Web, client: openai.OpenAI, provider: ScriptedProvider
) -> None:
    n = 30  # a target that never answered gets no more calls at once
    held = [provider.hold(script.error(429, "slow down", headers={"retry-after": "1"})) for _ in range(n)]
    batch = made(client, jsonl(line(k) for k in range(n)))
    with site.working():
        provider.wait_for(n)
        _post(site, batch.id, "pause")
        for one in held[: n // 2]:  # these lines come back into the queue, for another try
            one.release()
        wait_until(lambda: _due(site, batch.id) == 0 and _running(site, batch.id) <= n // 2, "lines to rest")
        for one in held:
            one.release()
        wait_until(lambda: _running(site, batch.id) == 0 and _due(site, batch.id) == 0, "all lines to rest")
        seen = client.batches.retrieve(batch.id)
        assert seen.status == "in_progress"
        _post(site, batch.id, "resume")
        assert until(client, batch.id).request_counts.completed == n


def _running(site: Web, batch_id: str) -> int:
    return _count(site, job.c.batch_id == batch_id, job.c.status == "in_progress")


def _due(site: Web, batch_id: str) -> int:
    return _count(site, job.c.batch_id == batch_id, job.c.status == "queued", job.c.run_at < later(3600.0))


def _count(site: Web, *where: Any) -> int:
    with site.deps.database.read() as conn:
        return conn.execute(sa.select(sa.func.count()).select_from(job).where(*where)).scalar_one()


def test_a_paused_batch_can_be_cancelled_and_its_window_goes_on(site: Web, client: openai.OpenAI) -> None:
    with site.working():
        for end in ("cancelled", "expired"):
            batch = made(client, jsonl(line(k) for k in range(5)))
            _post(site, batch.id, "pause")
            until(client, batch.id, "in_progress")
            if end == "cancelled":
                client.batches.cancel(batch.id)
            else:
                with site.deps.database.write() as conn:
                    conn.execute(batch_table.update().where(batch_table.c.id == batch.id).values(expires_at=later(-1)))
            done = until(client, batch.id)
            assert (done.status, len(both(client, done)[1])) == (end, 5)


def test_parking_moves_what_waits_and_nothing_else(database: Database) -> None:
    batch_id = clock.new_id("batch")
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400))
        new = [
            NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("default",), {}, batch_id=bid)
            for bid in (batch_id, batch_id, batch_id, None)
        ]
        new_jobs.insert(conn, new)
    with database.write() as conn:
        assert claims.claim(conn, [new[0].id], worker_id="w", claim_id="c")
        assert open_lines.park(conn, batch_id, 1) == 1
        assert open_lines.park(conn, batch_id, 10) == 1
        assert open_lines.park(conn, batch_id, 10) == 0
        free = claims.claim_block(conn, Lane.BATCH, 10, worker_id="w", claim_id="d")
        assert [one.id for one in free] == [new[3].id]
        assert open_lines.unpark(conn, batch_id, 10) == 2
    with database.write() as conn:
        assert len(claims.claim_block(conn, Lane.BATCH, 10, worker_id="w", claim_id="e")) == 2
        assert batch_views.get(conn, "proj_a", batch_id).status is BatchStatus.VALIDATING  # type: ignore[union-attr]


def _waiting_for(database: Database, mark: str, batch_id: str | None, n: int) -> list[str]:
    """Jobs that were claimed, and wait for a provider's pause to end."""
    new = [
        NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("default",), {}, batch_id=batch_id)
        for _ in range(n)
    ]
    with database.write() as conn:
        new_jobs.insert(conn, new)
        held = claims.claim(conn, [one.id for one in new], worker_id="w", claim_id=clock.new_id("clm"))
        settling.settle(conn, [Settle(one.id, one.claim_id, Return(3600.0, mark)) for one in held])
    return sorted(one.id for one in new)


def test_the_end_of_a_providers_pause_starts_no_line_of_a_paused_batch(database: Database) -> None:
    batch_id, mark = clock.new_id("batch"), "p" * 16
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400))
    early = _waiting_for(database, mark, batch_id, 2)
    (free,) = _waiting_for(database, mark, None, 1)
    with database.write() as conn:
        assert batches.pause(conn, "proj_a", batch_id)
        assert open_lines.park(conn, batch_id, 10) == 2
        assert open_lines.park(conn, batch_id, 10) == 0
    late = _waiting_for(database, mark, batch_id, 2)  # they were open as it was paused, and nobody has looked since

    def woken() -> list[str]:
        with database.write() as conn:
            parked.wake(conn, mark, Lane.BATCH, 10)
        with database.write() as conn:
            return sorted(one.id for one in claims.claim_block(conn, Lane.BATCH, 10, worker_id="w", claim_id="c"))

    with database.write() as conn:
        probe = parked.claim_one(conn, [mark], [Lane.BATCH], worker_id="w", claim_id="c")
        assert probe is not None
        assert probe.id == free
        assert parked.claim_one(conn, [mark], [Lane.BATCH], worker_id="w", claim_id="c") is None
    assert woken() == []
    with database.write() as conn:
        assert batches.resume(conn, "proj_a", batch_id)
        assert open_lines.unpark(conn, batch_id, 10) == 2
    with database.write() as conn:
        due = claims.claim_block(conn, Lane.BATCH, 10, worker_id="w", claim_id="c")
        assert sorted(one.id for one in due) == early, "their provider is asked anew"
    assert woken() == late, "they kept the mark of what they wait for"


def test_lines_that_an_older_worker_paused_with_their_mark_lose_it(database: Database) -> None:
    batch_id, mark = clock.new_id("batch"), "p" * 16
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, "proj_a", None, CHAT, "file-1", "24h", 86_400))
    _waiting_for(database, mark, batch_id, 2)
    with database.write() as conn:
        conn.execute(job.update().values(run_at=open_lines._FAR))
        assert open_lines.park(conn, batch_id, 10) == 2
        assert parked.marks(conn) == []
