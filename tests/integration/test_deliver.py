"""From the end of a job to a receiver that verifies it: real sockets, both databases, one worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from tests.support.webhooks import (  # noqa: F401 - fixtures
    ENV,
    OTHER,
    SECRET,
    a_provider,
    a_receiver,
    a_station,
    hurry,
    listen,
    seal,
    states,
    verified,
)
from worker import clock
from worker.domain.batch import NewBatch
from worker.domain.delivery import BATCH_EVENTS, JOB_EVENTS, DeliveryState
from worker.domain.failure import Lane
from worker.domain.job import JobView
from worker.domain.state import JobStatus
from worker.services import deliver
from worker.services import tell as telling
from worker.services.letter import Letter
from worker.store import batches, delivery_views, outbox, tending, views, webhook_endpoints
from worker.store.database import Connection, Database, Unavailable
from worker.store.delivery_views import Filter


def test_the_end_of_a_job_reaches_the_receiver_once_signed_and_without_the_answer(
    station: Station, receiver: ScriptedProvider
) -> None:
    listen(station, receiver)
    with station.worker():
        job = station.run(metadata={"ticket": "42"})
        (request,) = receiver.wait_for(1)
        wait_until(lambda: states(station) == ["delivered"], "the delivery on record")
    body = verified(request)
    assert (body["type"], body["object"]) == ("job.completed", "event")
    data = body["data"]
    assert isinstance(data, dict)
    assert (data["id"], data["status"], data["version"]) == (job.id, "completed", job.version)
    assert data["metadata"] == {"ticket": "42"}
    assert data["usage"]["input_tokens"] == 7
    assert b"secret answer" not in request.body
    assert b"hello" not in request.body
    assert len(receiver.requests) == 1
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"


def test_the_answer_comes_along_where_it_was_asked_for_and_is_left_out_where_it_is_long(
    station: Station, receiver: ScriptedProvider, provider: ScriptedProvider
) -> None:
    listen(station, receiver, payload="full")
    provider.queue(script.chat("short \ud800 \x00"), script.chat("long" * 10_000))
    with station.worker():
        station.run()
        station.run(prompt="again")
        short, long = (verified(request)["data"] for request in receiver.wait_for(2))
    assert isinstance(short, dict)
    assert isinstance(long, dict)
    assert short["output"]["text"].startswith("short ")
    assert (short["output_omitted"], long["output"], long["output_omitted"]) == (False, None, True)


def test_answers_that_nobody_is_told_are_not_read(
    station: Station, receiver: ScriptedProvider, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of two hundred answers of 16 MiB would not fit into memory, and would come again and again."""
    read: list[int] = []

    def many(*given: Any, **more: Any) -> dict[str, JobView]:
        found = views.many(*given, **more)
        read.extend(len(job.result["text"]) for job in found.values() if job.result is not None)
        return found

    monkeypatch.setattr(telling, "views", SimpleNamespace(many=many))
    listen(station, receiver, payload="full")
    provider.queue(script.chat("short"), script.chat("long" * 10_000))
    with station.worker():
        ended = station.ended([station.one(), station.one(prompt="again")])
        receiver.wait_for(2)
    assert sorted(len(job.result["text"]) for job in ended) == [5, 40_000]
    assert read == [5]


def test_a_failure_is_tried_again_with_the_same_id_and_body_and_a_fresh_signature(
    station: Station, receiver: ScriptedProvider
) -> None:
    listen(station, receiver)
    receiver.queue(script.reply(500, body="not now"), script.drop())
    with station.worker():
        station.run()
        for n in range(1, 4):
            receiver.wait_for(n)
            if n < 3:
                wait_until(lambda: states(station) == ["pending"], "the failure on record")
                hurry(station)
        wait_until(lambda: states(station) == ["delivered"], "the delivery on record")
    first, second, third = receiver.requests
    assert first.body == second.body == third.body
    assert len({r.headers["webhook-id"] for r in receiver.requests}) == 1
    for request in receiver.requests:
        verified(request)
    with station.deps.database.read() as conn:
        (found,), _ = delivery_views.listed(conn, station.project_id, Filter())
        view = delivery_views.get(conn, station.project_id, found.id)
    assert view is not None
    assert [(t["number"], t["http_status"], t["fault"]) for t in view.tries] == [
        (1, 500, "http"),
        (2, None, "protocol"),
        (3, 204, None),
    ]
    assert view.tries[0]["answer"] == "not now"
    assert view.tries[0]["address"] == "127.0.0.1"
    assert view.tries[0]["next_at"] > view.tries[0]["started_at"]


def test_in_a_rotation_both_secrets_sign(station: Station, receiver: ScriptedProvider) -> None:
    listen(station, receiver, secret=seal(station, OTHER))
    with station.deps.database.write() as conn:
        webhook_endpoints.rotate(conn, station.project_id, "we_a", seal(station, SECRET), 3600)
    with station.worker():
        station.run()
        (request,) = receiver.wait_for(1)
    verified(request, SECRET)
    verified(request, OTHER)


def test_gone_disables_keeps_what_follows_and_tells_the_others_once(
    station: Station, receiver: ScriptedProvider
) -> None:
    with ScriptedProvider() as other:
        other.always(script.reply(200))
        listen(station, receiver)
        listen(station, other, "we_b")
        receiver.always(script.reply(410))
        with station.worker():
            station.run()
            wait_until(lambda: len(other.requests) >= 3, "the notices")
            station.run(prompt="after")
            wait_until(lambda: states(station).count("skipped") == 1, "the skipped delivery")
            other.wait_for(4)
        kinds = sorted(str(verified(request)["type"]) for request in other.requests)
    assert kinds == ["job.completed", "job.completed", "webhook_delivery.exhausted", "webhook_endpoint.disabled"]
    assert len(receiver.requests) == 1


def test_a_secret_that_cannot_be_read_fails_the_try_and_loses_nothing(
    station: Station, receiver: ScriptedProvider, database_url: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    listen(station, receiver)
    with (
        closing(Station(database_url, provider, tmp_path, **{**ENV, "COMPLETAR_SECRET_KEY": "z" * 32})) as other,
        other.worker(),
    ):
        other.run()
        wait_until(lambda: states(other) == ["pending"], "the failed try")
    assert receiver.connections == 0
    hurry(station)
    with station.worker():
        verified(receiver.wait_for(1)[0])


def test_receivers_that_hang_hold_up_neither_jobs_nor_the_others(station: Station, receiver: ScriptedProvider) -> None:
    with ScriptedProvider() as hanging:
        hanging.always(script.hang())
        for n in range(3):
            listen(station, hanging, f"we_hang_{n}", timeout_s=2.0)
        listen(station, receiver, max_rps=500.0)
        with station.worker():
            began = time.monotonic()
            jobs = station.ended(station.submit(100, lane=Lane.BATCH))
            assert {job.status for job in jobs} == {JobStatus.COMPLETED}
            receiver.wait_for(100)
            assert time.monotonic() - began < 6.0
    assert len({r.headers["webhook-id"] for r in receiver.requests}) == 100


def test_an_event_type_nobody_asked_for_makes_no_delivery(station: Station, receiver: ScriptedProvider) -> None:
    listen(station, receiver, event_types=("job.failed",))
    with station.worker():
        station.run()
        wait_until(lambda: _notes(station) == 0, "the outbox to be read")
    assert states(station) == []
    assert receiver.connections == 0


def test_who_asked_for_one_job_hears_of_it_signed_with_the_projects_secret(
    station: Station, receiver: ScriptedProvider
) -> None:
    vault = station.deps.vault
    assert vault is not None
    listen(station, receiver, secret=None, fingerprint="f")
    job_id = station.one()
    with station.deps.database.write() as conn:
        webhook_endpoints.ensure_project_secret(conn, station.project_id, lambda: vault.seal(SECRET))
        outbox.subscribe(conn, [(job_id, "we_a")])
        conn.execute(sa.text("UPDATE job SET notify = 1"))
    station.one(prompt="nobody asked for this one")
    with station.worker():
        (request,) = receiver.wait_for(1)
        wait_until(lambda: states(station) == ["delivered"], "the delivery on record")
    data = verified(request)["data"]
    assert isinstance(data, dict)
    assert data["id"] == job_id


def test_a_batch_is_told_of_and_its_lines_are_not(station: Station, receiver: ScriptedProvider) -> None:
    listen(station, receiver, event_types=(*BATCH_EVENTS, *JOB_EVENTS))
    batch_id, database = clock.new_id("batch"), station.deps.database
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, station.project_id, None, "/v1/chat/completions", "file-1", "24h", 60))
        tending.take(conn, "wrk_1", 60.0, 10)
        assert batches.begin(conn, batch_id, "wrk_1", total=1, model="default")
    station.submit(1, lane=Lane.BATCH)
    with database.write() as conn:
        conn.execute(sa.text("UPDATE job SET batch_id = :batch"), {"batch": batch_id})
    with station.worker():
        (request,) = receiver.wait_for(1)
        wait_until(lambda: _notes(station) == 0 and states(station) == ["delivered"], "all to be told")
    body = verified(request)
    assert body["type"] == "batch.in_progress"
    data = body["data"]
    assert isinstance(data, dict)
    assert (data["id"], data["request_counts"]["total"]) == (batch_id, 1)


def test_the_database_away_while_a_try_is_recorded_costs_nothing(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.store.database import Unavailable

    monkeypatch.setattr(deliver, "AWAY_S", 0.1)
    settle, left = deliver.deliveries.settle, [3]

    def away(conn: sa.Connection, tries: object) -> object:
        if left[0]:
            left[0] -= 1
            raise Unavailable("away")
        return settle(conn, tries)  # type: ignore[arg-type]

    monkeypatch.setattr(deliver.deliveries, "settle", away)
    listen(station, receiver)
    with station.worker():
        station.run()
        wait_until(lambda: states(station) == [DeliveryState.DELIVERED.value], "the delivery on record")
    assert left == [0]
    assert len(receiver.requests) == 1


def _notes(station: Station) -> int:
    with station.deps.database.read() as conn:
        return int(conn.execute(sa.text("SELECT count(*) FROM outbox")).scalar_one())


def test_a_claim_that_was_committed_unheard_is_sent_all_the_same(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "STRAYS_S", 0.5)
    take = deliver.Deliverer._take
    cut = 0

    def cut_off(self: deliver.Deliverer, room: int) -> tuple[list[Letter], bool]:
        nonlocal cut
        taken = take(self, room)
        if taken[0] and cut < 2:
            cut += 1
            raise Unavailable("the connection broke before the commit was confirmed")
        return taken

    monkeypatch.setattr(deliver.Deliverer, "_take", cut_off)
    listen(station, receiver)
    with station.worker():
        station.run()
        wait_until(lambda: states(station) == ["delivered"], "the delivery, its third claim", 15.0)
    assert cut == 2
    assert len(receiver.requests) == 1


def test_what_takes_long_is_not_taken_for_a_stray(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "STRAYS_S", 0.0)
    held = receiver.hold(script.reply(204))
    listen(station, receiver)
    with station.worker():
        station.run()
        receiver.wait_for(1)
        station.run(prompt="meanwhile")
        receiver.wait_for(2)
        wait_until(lambda: states(station) == ["delivered", "sending"], "the second, and further looks")
        held.release()
        wait_until(lambda: states(station) == ["delivered", "delivered"], "both deliveries on record")
    assert len(receiver.requests) == 2


def test_a_run_that_broke_while_the_database_was_away_leaves_nothing_behind(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "AWAY_S", 0.1)
    take, write = deliver.Deliverer._take, Database.write
    away_until_s: list[float] = []

    def break_once(self: deliver.Deliverer, room: int) -> tuple[list[Letter], bool]:
        taken = take(self, room)
        if taken[0] and not away_until_s:
            away_until_s.append(time.monotonic() + 0.5)
            raise ValueError
        return taken

    @contextmanager
    def unless_away(self: Database) -> Iterator[Connection]:
        if away_until_s and time.monotonic() < away_until_s[0]:
            raise Unavailable("away")
        with write(self) as conn:
            yield conn

    monkeypatch.setattr(deliver.Deliverer, "_take", break_once)
    monkeypatch.setattr(Database, "write", unless_away)
    listen(station, receiver)
    with station.worker():
        station.run()
        wait_until(lambda: states(station) == ["delivered"], "the delivery", 15.0)
    assert away_until_s
    assert len(receiver.requests) == 1


def test_with_nothing_to_deliver_nothing_is_looked_through(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread shares the interpreter with the jobs: a look each few milliseconds took a tenth of it from them."""
    looks = 0
    flush = deliver.Deliverer._flush

    async def counted(self: deliver.Deliverer) -> bool:
        nonlocal looks
        looks += 1
        return await flush(self)

    monkeypatch.setattr(deliver.Deliverer, "_flush", counted)
    with station.worker():
        time.sleep(20 * deliver.GATHER_S)  # nothing happens then; there is no event to wait for
        assert looks == 0
        listen(station, receiver)
        station.run()
        receiver.wait_for(1)
        wait_until(lambda: states(station) == ["delivered"], "the delivery on record")
        assert looks == 1


def test_ids_are_made_of_letters_and_digits() -> None:
    assert "." not in clock.new_id("evt")
