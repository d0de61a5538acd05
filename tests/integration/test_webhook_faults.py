"""Faults of webhook delivery, by their numbers, and the test of each.

of the sender
 1 crash after the commit, before anybody was told       here; test_store_deliveries (notes are back)
 2 crash after the 2xx, before it is recorded            tests/chaos/test_webhooks.py
 3 Redis flushed with retries pending                    tests/chaos/test_webhooks.py
 4 SQL down while a try is recorded                      test_deliver; tests/chaos/test_webhooks.py
 5 two workers claim one delivery                        test_store_deliveries
 6 worker killed in mid-request                          tests/chaos/test_webhooks.py
 7 the broker delivers a long countdown twice            here: no message is about a delivery
 8 the clock jumps by an hour                            here
 9 the serialiser changes between schedule and send      here
10 the secret is rotated between two tries               here
11 endpoint deleted, disabled, moved with tries pending  here; test_store_deliveries, test_deliver
12 the job is purged before its delivery                 here
13 10,000 jobs end at once                               here with 200; in full: python3 run.py bench
14 one slow endpoint among fifty                         here
15 a payload that is no JSON, too long, not Unicode      here; tests/unit/test_webhook_payload.py, test_deliver
of the receiver
16 refused, reset, half-open, black hole                 tests/contract/test_webhook_sender.py
17 TLS                                                   tests/contract/test_webhook_sender.py
18 DNS fails, then recovers                              tests/contract/test_webhook_sender.py
19 slow headers, slow body, endless body                 tests/contract/test_webhook_sender.py
20 bombs, 10 MB, 1000 headers, invalid header bytes      tests/contract/test_webhook_sender.py
21 204, 200 with a body, 103 then 200, 1xx only          tests/contract/test_webhook_sender.py
22 every 3xx                                             tests/contract/test_webhook_sender.py
23 401 403 404 405 413 415 422                           test_webhook_sender, tests/unit/test_webhook_schedule.py
24 410                                                   test_deliver, tests/integration/test_api_webhooks.py
25 429 and 503 with every kind of Retry-After            tests/unit/test_webhook_schedule.py
26 500 for ever                                          here
27 the answer comes after the deadline                   here; tests/contract/test_webhook_sender.py
28 flaps for six days, fails for six days                test_store_deliveries; here
29 webhook-delivery: abort-message, disable              tests/unit/test_webhook_schedule.py; here
30 keep-alive closed under us                            tests/contract/test_webhook_sender.py
31 wrong Content-Length                                  tests/contract/test_webhook_sender.py
32 every library, at -299 s and during a rotation        tests/contract/test_webhook_signature.py
"""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa
import standardwebhooks

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from tests.support.webhooks import (  # noqa: F401 - fixtures
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
from worker.celery_app import make_celery
from worker.domain.failure import Lane
from worker.services import deliver, tell
from worker.store import jobs, outbox, webhook_endpoints
from worker.store.moment import later
from worker.store.tables import job
from worker.store.webhook_tables import delivery, event, webhook_endpoint
from worker.webhooks.schedule import SCHEDULE_S


def ended(station: Station, **more: object) -> str:
    """A job that came to its end without any worker."""
    job_id = station.one(**more)
    with station.deps.database.write() as conn:
        jobs.cancel(conn, station.project_id, job_id)
    return job_id


def test_1_what_ended_while_nobody_lived_is_told_by_whoever_comes(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(station, receiver)
    ended(station)
    stored, left = tell.outbox.tell, [1]

    def crash(*args: object) -> None:
        stored(*args)  # type: ignore[arg-type]
        if left[0]:
            left[0] -= 1
            raise RuntimeError("killed before the commit")

    monkeypatch.setattr(tell.outbox, "tell", crash)
    with station.worker():
        verified(receiver.wait_for(1)[0])
        wait_until(lambda: states(station) == ["delivered"], "one delivery")
    assert (left, len(receiver.requests)) == ([0], 1)


def test_7_no_message_of_the_broker_is_about_a_delivery() -> None:
    with closing(make_celery("redis://127.0.0.1:9")) as app:
        ours = sorted(name for name in app.tasks if name.startswith("completar"))
    assert all("hook" not in name and "deliver" not in name for name in ours)


@pytest.mark.parametrize("hours", [-1, 1])
def test_8_a_clock_that_jumped_moves_no_try(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    listen(station, receiver)
    receiver.always(script.reply(500))
    now = clock.now
    with station.worker():
        monkeypatch.setattr(clock, "now", lambda: now() + timedelta(hours=hours))
        ended(station)
        wait_until(lambda: states(station) == ["pending"] and receiver.requests, "the failure on record")
        time.sleep(0.5)
        with station.deps.database.read() as conn:
            (due_at,) = conn.execute(sa.select(delivery.c.due_at)).one()
    assert len(receiver.requests) == 1
    assert SCHEDULE_S[1] - 2 < (due_at - now()).total_seconds() < SCHEDULE_S[1] + 2


def test_9_10_11_12_what_was_stored_goes_out_with_the_newest_secret_to_the_newest_address(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(station, receiver)
    receiver.queue(script.reply(500))
    with ScriptedProvider() as moved, station.worker():
        moved.always(script.reply(204))
        job_id = ended(station, metadata={"ticket": "42"})
        receiver.wait_for(1)
        wait_until(lambda: states(station) == ["pending"], "the failure on record")
        monkeypatch.setattr(tell, "envelope", lambda *_args: '{"of":"another release"}')
        with station.deps.database.write() as conn:
            webhook_endpoints.rotate(conn, station.project_id, "we_a", seal(station, OTHER), 0.0)
            webhook_endpoints.update(conn, station.project_id, "we_a", {"url": moved.url + "/elsewhere"})
            conn.execute(job.update().values(ended_at=later(-86_400)))
            assert jobs.purge(conn, 3600) == 1
        hurry(station)
        (second,) = moved.wait_for(1)
        wait_until(lambda: states(station) == ["delivered"], "the delivery on record")
    (first,) = receiver.requests
    assert second.body == first.body
    assert second.json["data"]["id"] == job_id
    assert second.json["data"]["metadata"] == {"ticket": "42"}
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
    verified(first)
    verified(second, OTHER)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(second)


def test_11_nothing_more_goes_to_an_endpoint_that_was_deleted_in_between(
    station: Station, receiver: ScriptedProvider
) -> None:
    listen(station, receiver)
    receiver.always(script.reply(500))
    with station.worker():
        ended(station)
        receiver.wait_for(1)
        wait_until(lambda: states(station) == ["pending"], "the failure on record")
        with station.deps.database.write() as conn:
            webhook_endpoints.delete(conn, station.project_id, "we_a")
        assert states(station) == ["skipped"]
        ended(station, prompt="after")
        wait_until(lambda: _notes(station) == 0, "the outbox to be read")
    assert states(station) == ["skipped"]
    assert len(receiver.requests) == 1


def test_13_many_at_once_go_out_at_the_endpoints_rate(station: Station, receiver: ScriptedProvider) -> None:
    listen(station, receiver, max_rps=100.0, max_concurrency=50)
    ids = station.submit(200, lane=Lane.BATCH)
    with station.deps.database.write() as conn:
        for job_id in ids:
            jobs.cancel(conn, station.project_id, job_id)
    with station.worker():
        receiver.wait_for(200, within_s=20)
        wait_until(lambda: _of(station, "delivered") == 200, "all on record")
    at = sorted(request.at_s for request in receiver.requests)
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 200
    fullest = max(sum(1 for other in at if one <= other < one + 1.0) for one in at)
    assert fullest <= 100 * (1 + deliver.deliveries.BURST_S) + 10
    assert at[-1] - at[0] < 6.0, "and no slower than it may"


def test_14_one_slow_receiver_among_fifty_delays_nobody(station: Station, receiver: ScriptedProvider) -> None:
    with ScriptedProvider() as slow:
        slow.always(script.hang())
        listen(station, slow, "we_slow", timeout_s=15.0)
        for n in range(49):
            listen(station, receiver, f"we_{n:02}")
        with station.worker():
            began = time.monotonic()
            for n in range(4):
                ended(station, prompt=str(n))
            receiver.wait_for(4 * 49, within_s=20)
        took = sorted(request.at_s - began for request in receiver.requests)
    assert took[int(0.95 * len(took))] < 2.0


def test_26_28_ten_tries_and_no_more_and_one_notice(station: Station, receiver: ScriptedProvider) -> None:
    with ScriptedProvider() as other:
        other.always(script.reply(204))
        listen(station, receiver)
        listen(station, other, "we_b", event_types=("webhook_delivery.exhausted", "webhook_endpoint.disabled"))
        receiver.always(script.reply(500))
        with station.worker():
            ended(station)
            for n in range(1, len(SCHEDULE_S) + 1):
                receiver.wait_for(n)
                wait_until(lambda: _tries(station) == n, "the try on record")  # noqa: B023 - called at once
                if n == len(SCHEDULE_S) - 1:  # it has failed for six days
                    with station.deps.database.write() as conn:
                        conn.execute(webhook_endpoint.update().values(failing_since_at=later(-6 * 86_400)))
                hurry(station)
            other.wait_for(2)
            time.sleep(0.5)
        kinds = sorted(request.json["type"] for request in other.requests)
    assert kinds == ["webhook_delivery.exhausted", "webhook_endpoint.disabled"]
    assert len(receiver.requests) == len(SCHEDULE_S)
    with station.deps.database.read() as conn:
        endpoint = webhook_endpoints.get(conn, station.project_id, "we_a")
    assert endpoint is not None
    assert endpoint.disabled_reason == "nothing but failures for five days"


def test_27_an_answer_that_comes_too_late_is_a_second_try_under_the_same_id(
    station: Station, receiver: ScriptedProvider
) -> None:
    listen(station, receiver, timeout_s=1.0)
    receiver.queue(script.reply(204, delay_s=0.7), script.reply(204, delay_s=1.6))
    with station.worker():
        ended(station)
        wait_until(lambda: states(station) == ["delivered"], "the first to be in time")
        late = ended(station, prompt="late")
        wait_until(lambda: states(station) == ["delivered", "pending"], "the second to be too late")
        hurry(station)
        wait_until(lambda: states(station) == ["delivered", "delivered"], "the second try")
    twice = [request for request in receiver.requests if request.json["data"]["id"] == late]
    assert len(twice) == 2
    assert twice[0].body == twice[1].body
    assert twice[0].headers["webhook-id"] == twice[1].headers["webhook-id"]


def test_29_a_receiver_may_end_one_delivery_or_all(station: Station, receiver: ScriptedProvider) -> None:
    listen(station, receiver)
    receiver.queue(
        script.reply(500, headers={"webhook-delivery": "abort-message"}),
        script.reply(200, headers={"webhook-delivery": "disable"}),
    )
    with station.worker():
        ended(station)
        wait_until(lambda: states(station) == ["exhausted"], "the end of one")
        ended(station, prompt="second")
        wait_until(lambda: states(station) == ["delivered", "exhausted"], "the second")
        ended(station, prompt="third")
        wait_until(lambda: states(station) == ["delivered", "exhausted", "skipped"], "the third")
    assert len(receiver.requests) == 2


def test_15_what_cannot_be_told_in_full_is_told_in_short_and_holds_up_nobody(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = tell.job_data, [1]

    def broken(*args: object) -> object:
        if left[0]:
            left[0] -= 1
            raise TypeError("not serialisable")
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tell, "job_data", broken)
    listen(station, receiver)
    first, second = ended(station), ended(station, prompt="second")
    with station.worker():
        requests = receiver.wait_for(2)
    data = {request.json["data"]["id"]: request.json["data"] for request in requests}
    assert data[first] == {"id": first, "object": "job", "version": 2}
    assert data[second]["status"] == "cancelled"


def test_who_listened_to_a_job_is_forgotten_with_it(station: Station) -> None:
    job_id = ended(station)
    with station.deps.database.write() as conn:
        outbox.subscribe(conn, [(job_id, "we_a"), ("job_other", "we_a")])
        conn.execute(job.update().values(ended_at=later(-86_400)))
        jobs.purge(conn, 3600)
        assert outbox.subscribers(conn, [job_id, "job_other"]) == {"job_other": ["we_a"]}


def test_a_record_the_database_does_not_take_keeps_no_other_from_it(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(station, receiver)
    settle, poison = deliver.deliveries.settle, []

    def refuse(conn: sa.Connection, tries: list[object]) -> object:
        poison[:] = poison or [tries[0].due.id]  # type: ignore[attr-defined]
        if any(one.due.id == poison[0] for one in tries):  # type: ignore[attr-defined]
            raise ValueError("no database takes this")
        return settle(conn, tries)  # type: ignore[arg-type]

    monkeypatch.setattr(deliver.deliveries, "settle", refuse)
    with station.worker():
        for n in range(5):
            ended(station, prompt=str(n))
        wait_until(lambda: states(station) == ["delivered"] * 4 + ["pending"], "the others on record")
    assert _due_in_s(station) > 200, "and it is not sent again and again"


def test_a_try_that_breaks_in_our_own_code_goes_back(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(station, receiver)

    async def broken(*_args: object) -> object:
        raise RuntimeError("ours")

    monkeypatch.setattr(deliver, "post", broken)
    with station.worker():
        ended(station)
        wait_until(lambda: states(station) == ["pending"] and _due_in_s(station) > 200, "the delivery to be back")
    assert receiver.connections == 0


def test_a_sender_that_breaks_begins_anew_and_picks_up_what_it_had(
    station: Station, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "AWAY_S", 0.1)
    listen(station, receiver)
    written, left = deliver.written, [1]

    def broken(*args: object) -> object:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("claimed, and then this")
        return written(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(deliver, "written", broken)
    with station.worker():
        ended(station)
        verified(receiver.wait_for(1)[0])
        wait_until(lambda: states(station) == ["delivered"], "the delivery")
    assert left == [0]


def test_no_secret_no_prompt_and_no_custom_header_is_in_any_log_line(
    station: Station, receiver: ScriptedProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    listen(station, receiver, headers=seal(station, '{"Authorization": "Bearer canary-1"}'))
    receiver.queue(script.reply(500, body="canary-3"))
    with station.worker():
        ended(station, prompt="canary-2")
        receiver.wait_for(1)
        wait_until(lambda: states(station) == ["pending"], "the failure on record")
    said = "".join(capsys.readouterr())
    assert "delivery.tried" in said
    assert "canary" not in said
    assert SECRET[6:] not in said
    assert receiver.requests[0].headers["authorization"] == "Bearer canary-1"
    with station.deps.database.read() as conn:
        stored = str(conn.execute(sa.select(webhook_endpoint)).all()) + str(conn.execute(sa.select(event)).all())
    assert "canary" not in stored
    assert SECRET[6:] not in stored


def _notes(station: Station) -> int:
    with station.deps.database.read() as conn:
        return int(conn.execute(sa.text("SELECT count(*) FROM outbox")).scalar_one())


def _due_in_s(station: Station) -> float:
    with station.deps.database.read() as conn:
        found = conn.execute(sa.select(delivery.c.due_at).where(delivery.c.state == "pending")).first()
    if found is None:  # claimed between two looks
        return 0.0
    return float((found.due_at - clock.now()).total_seconds())


def _of(station: Station, state: str) -> int:
    with station.deps.database.read() as conn:
        query = sa.select(sa.func.count()).select_from(delivery).where(delivery.c.state == state)
        return int(conn.execute(query).scalar_one())


def _tries(station: Station) -> int:
    with station.deps.database.read() as conn:
        query = sa.select(delivery.c.attempts).where(delivery.c.endpoint_id == "we_a")
        return int(conn.execute(query).scalar_one_or_none() or 0)
