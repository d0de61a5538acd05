"""A full queue refuses in every face of the API, stores nothing, keeps what it took, and opens again by itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web
from worker import clock
from worker.domain.failure import Lane
from worker.domain.intake import Backlog, Bounds
from worker.store import backlog, intake, projects
from worker.store.database import Database
from worker.store.intake import Intake, QueueFull

Json = Any
HI = {"input": {"prompt": "hi"}}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def site(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(intake, "FRESH_S", 0.2)
    with web(database_url, tmp_path, COMPLETAR_QUEUE_DEPTH="3", COMPLETAR_QUEUE_AGE_S="600") as made:
        yield made


def fill(site: Web, n: int = 3) -> list[Json]:
    answers = [site.post("/v1/jobs", HI, {"Idempotency-Key": f"key-{i}"}) for i in range(n)]
    assert [answer.status_code for answer in answers] == [202] * n
    return [answer.json for answer in answers]


def stored(site: Web) -> int:
    return len(site.get("/v1/jobs?limit=100").json["data"])


def lane(site: Web, name: str) -> Json:
    return next(one for one in site.get("/v1/queue").json["lanes"] if one["lane"] == name)


def test_beyond_the_bound_every_face_says_come_later_and_stores_nothing(site: Web) -> None:
    fill(site)
    native = site.post("/v1/jobs", HI)
    assert native.status_code == 429
    assert native.mimetype == "application/problem+json"
    assert native.json["type"] == "/docs#queue-full"
    assert native.json["lane"] == "interactive"
    assert native.json["retry_after_s"] == int(native.headers["Retry-After"]) > 0
    assert "3 jobs wait already, and 3 may" in native.json["detail"]
    openai = site.post("/v1/chat/completions", CHAT)
    assert openai.status_code == 429
    assert openai.json["error"]["code"] == "queue_full"
    assert int(openai.headers["Retry-After"]) > 0
    assert "x-should-retry" not in openai.headers, "OpenAI's client may come again by itself: nothing was made"
    spanish = site.post("/completar", {"prompt": "hola"})
    assert spanish.status_code == 429
    assert "La cola del proyecto está llena" in spanish.json["detail"]
    assert stored(site) == 3


def test_what_was_taken_is_answered_again_however_full_it_is(site: Web) -> None:
    first, *_ = fill(site)
    assert site.post("/v1/jobs", HI).status_code == 429
    again = site.post("/v1/jobs", HI, {"Idempotency-Key": "key-0"})
    assert again.status_code == 202
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json["id"] == first["id"]


def test_a_refused_request_leaves_its_idempotency_key_free(site: Web) -> None:
    jobs = fill(site)
    sent = {"Idempotency-Key": "later"}
    assert site.post("/v1/jobs", HI, sent).status_code == 429
    site.post(f"{jobs[0]['urls']['self']}/cancel")
    opened = wait_until(lambda: _taken(site.post("/v1/jobs", HI, sent)), "a place in the queue")
    assert "Idempotent-Replayed" not in opened.headers


def _taken(answer: Any) -> Any:
    return answer if answer.status_code == 202 else None


def test_a_bulk_is_taken_whole_or_not_at_all(site: Web) -> None:
    assert site.post("/v1/jobs/bulk", {"jobs": [HI] * 2}).status_code == 202
    refused = site.post("/v1/jobs/bulk", {"jobs": [HI] * 2})
    assert (refused.status_code, refused.json["lane"]) == (429, "batch")
    assert stored(site) == 2
    never = site.post("/v1/jobs/bulk", {"jobs": [HI] * 4})
    assert "send no more than 3 at once" in never.json["detail"]
    mixed = {"jobs": [HI, {**HI, "lane": "interactive"}]}
    assert site.post("/v1/jobs/bulk", mixed).status_code == 202, "each lane has its own room"


def test_lanes_and_projects_have_room_of_their_own(site: Web) -> None:
    fill(site)
    assert site.post("/v1/jobs", {**HI, "lane": "batch"}).status_code == 202
    _, other = site.new_key(project="other")
    assert site.post("/v1/jobs", HI, {"Authorization": f"Bearer {other}"}).status_code == 202


def test_running_a_job_again_is_a_new_job(site: Web) -> None:
    first, *_ = fill(site)
    site.post(f"{first['urls']['self']}/cancel")
    wait_until(lambda: _taken(site.post("/v1/jobs", HI)), "a place in the queue")
    assert site.post(f"{first['urls']['self']}/retry").status_code == 429


def test_a_first_job_that_waits_too_long_closes_the_interactive_lane(site: Web) -> None:
    fill(site, 1)
    assert site.post("/v1/jobs/bulk", {"jobs": [HI]}).status_code == 202
    _age(site.deps.database, 601.0)
    shown = wait_until(lambda: _full(lane(site, "interactive")), "the queue to be seen as too old")
    assert shown["oldest_s"] > 600
    full = site.post("/v1/jobs", HI)
    assert full.status_code == 429
    assert "The first job has waited for 6" in full.json["detail"]
    assert site.post("/v1/jobs/bulk", {"jobs": [HI]}).status_code == 202, "nobody waits for a batch line"


def _full(shown: Json) -> Json:
    return shown if shown["full"] else None


def _age(database: Database, seconds: float) -> None:
    with database.write() as conn:
        by = f"run_at - {int(seconds * 1e6)}" if database.dialect == "sqlite" else f"run_at - interval '{seconds} s'"
        conn.execute(sa.text(f"UPDATE job SET run_at = {by}"))


def test_a_parked_job_is_not_an_old_one(site: Web) -> None:
    fill(site, 1)
    _age(site.deps.database, -7200.0)
    assert lane(site, "interactive")["oldest_s"] == 0.0
    assert site.post("/v1/jobs", HI).status_code == 202


def test_a_project_may_have_bounds_of_its_own(site: Web) -> None:
    with site.deps.database.write() as conn:
        assert projects.limit_depth(conn, projects.DEFAULT, 1)
        assert projects.limit_age(conn, projects.DEFAULT, 0.0)
        assert not projects.limit_age(conn, "nobody", 0.0)
        (found,) = projects.listed(conn)
    assert (found.queue_depth, found.queue_age_s) == (1, 0.0)
    fill(site, 1)
    assert site.post("/v1/jobs", HI).status_code == 429
    shown = lane(site, "interactive")
    assert (shown["waiting"], shown["most"], shown["longest_s"], shown["full"]) == (1, 1, None, True)
    with site.deps.database.write() as conn:
        projects.limit_depth(conn, projects.DEFAULT, None)
    wait_until(lambda: _taken(site.post("/v1/jobs", HI)), "the usual bound to hold again")


def test_it_opens_as_the_workers_drain_it(database_url: str, tmp_path: Path) -> None:
    with ScriptedProvider() as provider, web(database_url, tmp_path, provider, COMPLETAR_QUEUE_DEPTH="40") as site:
        provider.always(script.chat("fine"))
        lines = "\n".join(json.dumps(HI) for _ in range(40))
        sent = {"Content-Type": "application/x-ndjson"}
        assert site.post("/v1/jobs/bulk", data=lines, headers=sent).status_code == 202
        assert site.post("/v1/jobs/bulk", data=lines, headers=sent).status_code == 429
        with site.working():
            wait_until(lambda: site.post("/v1/jobs/bulk", data=lines, headers=sent).status_code == 202, "room")
        assert stored(site) == 80


def test_it_is_looked_at_once_a_second_and_by_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    real = backlog.look
    monkeypatch.setattr(backlog, "look", lambda *args: (looks.append(time.monotonic()), real(*args))[1])
    keeper = _keeper(database, depth=100)

    def hand_in() -> None:
        for _ in range(20):
            keeper.admit("proj_a", {Lane.BATCH: 1})

    threads = [threading.Thread(target=hand_in) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1, "eighty posts, one look"
    with pytest.raises(QueueFull):
        keeper.admit("proj_a", {Lane.BATCH: 21})
    keeper.admit("proj_a", {Lane.BATCH: 20})


def test_a_slow_look_holds_nobody_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = _keeper(database, depth=100)
    keeper.admit("proj_a", {Lane.BATCH: 1})
    seen = keeper._seen["proj_a", Lane.BATCH]
    seen.took_s, seen.until_s = 0.3, 0.0
    looking, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> Backlog:
        looking.set()
        go_on.wait(10)
        return Backlog(100, 0.0)

    monkeypatch.setattr(backlog, "look", slow)
    before = time.monotonic()
    for _ in range(10):
        keeper.admit("proj_a", {Lane.BATCH: 1})
    assert looking.wait(5)
    assert time.monotonic() - before < 1.0
    go_on.set()
    wait_until(lambda: keeper.state("proj_a")[Lane.BATCH][0].waiting == 100, "what the look has found")


def _keeper(database: Database, depth: int) -> Intake:
    from worker.settings import load

    return Intake(database, load({"COMPLETAR_QUEUE_DEPTH": str(depth)}))


def test_the_drain_is_counted_in_ends_of_this_lane_alone(site: Web) -> None:
    jobs = fill(site)
    site.post(f"{jobs[0]['urls']['self']}/cancel")
    site.post(f"{jobs[1]['urls']['self']}/cancel")
    with site.deps.database.read() as conn:
        project_id = projects.ensure(conn)
        assert backlog.ended_per_s(conn, project_id, Lane.INTERACTIVE) == 2 / backlog.RATE_S
        assert backlog.ended_per_s(conn, project_id, Lane.BATCH) == 0


def test_no_bound_is_no_bound(database_url: str, tmp_path: Path) -> None:
    with web(database_url, tmp_path, COMPLETAR_QUEUE_DEPTH="0", COMPLETAR_QUEUE_AGE_S="0") as site:
        fill(site, 5)
        shown = lane(site, "interactive")
        assert (shown["waiting"], shown["most"], shown["longest_s"], shown["full"]) == (5, None, None, False)


@pytest.mark.postgres
def test_a_look_reads_the_index_of_the_claim_and_stops_at_the_bound(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        with database.write() as conn:
            conn.execute(
                sa.text(
                    "INSERT INTO job (id, project_id, kind, lane, status, version, priority, models, created_at,"
                    " queued_at, run_at, ended_at, attempts, rows, losses, on_interruption, cost_complete)"
                    " SELECT 'job_' || lpad(n::text, 26, '0'), 'proj_' || n % 3, 'completion', 'batch',"
                    " CASE WHEN n % 4 = 0 THEN 'completed' ELSE 'queued' END, 1, n % 5 - 2, '[]', now(), now(),"
                    " now() - make_interval(secs => n), CASE WHEN n % 4 = 0 THEN now() END, 0, 0, 0, 'retry', true"
                    " FROM generate_series(1, 40000) n"
                )
            )
        with database._autocommit.connect() as conn:
            conn.exec_driver_sql("VACUUM ANALYZE job")
        with database.read() as conn:
            found = backlog.look(conn, "proj_1", Lane.BATCH, 100_000)
            assert found.waiting == 10_000
            assert 39_990 < found.oldest_s < 40_100
            assert backlog.look(conn, "proj_1", Lane.BATCH, 500).waiting == 500
            statement = backlog._backlog().compile(dialect=conn.dialect)
            params = {**statement.params, "project": "proj_1", "lane": "batch", "most": 500}
            plan = "\n".join(
                row[0] for row in conn.exec_driver_sql(f"EXPLAIN (ANALYZE, COSTS OFF) {statement}", params)
            )
            assert "Seq Scan" not in plan, plan
            assert "Sort" not in plan, plan
            assert plan.count("ix_job_due") == 7, plan
            assert "rows=10000" not in plan, plan


def test_the_cold_cache_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_MOST", 3)
    keeper = _keeper(database, depth=100)
    for _ in range(10):
        keeper.admit(clock.new_id("proj"), {Lane.BATCH: 1})
    assert len(keeper._seen) <= 3
    assert keeper.state("proj_a")[Lane.BATCH][1] == Bounds(100, None)
