"""Every move of a delivery on both databases: told once, claimed by one, never early, never lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest
import sqlalchemy as sa

from worker import clock
from worker.domain.delivery import DEFAULT_EVENTS, DeliveryState, Due, NewDelivery, NewEvent, Tried
from worker.domain.failure import Lane
from worker.domain.job import Ending, NewJob
from worker.domain.state import JobStatus
from worker.services import sweep
from worker.store import (
    claims,
    deliveries,
    delivery_views,
    jobs,
    new_jobs,
    outbox,
    projects,
    settling,
    webhook_endpoints,
    workers,
)
from worker.store.database import Database
from worker.store.delivery_views import Filter
from worker.store.moment import later
from worker.store.webhook_endpoints import NewEndpoint
from worker.store.webhook_tables import delivery, delivery_attempt, event, webhook_endpoint

START = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def project(database: Database) -> str:
    with database.write() as conn:
        workers.register(conn, worker_id="wrk_1", host="h", pid=1, lanes=["batch"], release="0")
        return projects.ensure(conn)


def endpoint(database: Database, project: str, endpoint_id: str = "we_a", **more: object) -> str:
    new = NewEndpoint(endpoint_id, project, "https://example.com/", DEFAULT_EVENTS, secret="sealed", **more)  # type: ignore[arg-type]
    with database.write() as conn:
        webhook_endpoints.insert(conn, new)
    return endpoint_id


def told(database: Database, project: str, n: int = 1, to: str = "we_a") -> list[str]:
    ids = [clock.new_id("whd") for _ in range(n)]
    with database.write() as conn:
        events = [NewEvent(f"evt_{i}", project, "job.completed", f"job_{i}", f'{{"n":"{i}"}}') for i in ids]
        outbox.tell(conn, events, [NewDelivery(i, project, to, f"evt_{i}", f"job_{i}") for i in ids])
    return ids


def claim(database: Database, room: int = 10, worker_id: str = "wrk_1") -> list[Due]:
    with database.write() as conn:
        return deliveries.claim(conn, room, after="", worker_id=worker_id, claim_id=clock.new_id("clm")).due


def tried(due: Due, state: DeliveryState = DeliveryState.DELIVERED, wait_s: float | None = None) -> Tried:
    good = state is DeliveryState.DELIVERED
    return Tried(due, state, wait_s, clock.now(), "whsec_ab", 200 if good else 500, None if good else "http")


def settle(database: Database, *tries: Tried) -> tuple[set[str], list[str]]:
    with database.write() as conn:
        return deliveries.settle(conn, tries)


def state(database: Database, delivery_id: str) -> str:
    with database.read() as conn:
        return str(conn.execute(sa.select(delivery.c.state).where(delivery.c.id == delivery_id)).scalar_one())


def late(database: Database, table: sa.Table, column: str, seconds: float) -> None:
    """Time cannot be waited for: the row says that it began long ago."""
    with database.write() as conn:
        conn.execute(table.update().values({column: later(-seconds)}))


# -- the outbox ------------------------------------------------------------------------------------------------------


def job(database: Database, project: str, notify: int = 0, **more: object) -> str:
    job_id = clock.new_id("job")
    with database.write() as conn:
        new = NewJob(job_id, project, "completion", Lane.BATCH, ("default",), {"prompt": "x"}, notify=notify, **more)  # type: ignore[arg-type]
        new_jobs.insert(conn, [new])
    return job_id


def finish(database: Database, job_id: str) -> None:
    with database.write() as conn:
        (held,) = claims.claim(conn, [job_id], worker_id="wrk_1", claim_id=clock.new_id("clm"))
        end = Ending(JobStatus.COMPLETED, result='{"text":"fine"}')
        assert settling.settle(conn, [settling.Settle(job_id, held.claim_id, end)]) == {job_id}


def notes(database: Database) -> list[tuple[str, str]]:
    with database.write() as conn:
        return [(note.object_id, note.type) for note in outbox.take(conn, 100)]


def test_the_end_of_a_job_is_noted_for_those_who_listen_and_once(database: Database, project: str) -> None:
    silent = job(database, project)
    finish(database, silent)
    assert notes(database) == []
    endpoint(database, project)
    ended, cancelled = job(database, project), job(database, project)
    finish(database, ended)
    with database.write() as conn:
        jobs.cancel(conn, project, cancelled)
        jobs.cancel(conn, project, cancelled)
    assert notes(database) == [(ended, "job.completed"), (cancelled, "job.cancelled")]
    assert notes(database) == []


def test_a_line_of_a_batch_is_noted_only_where_that_was_asked_for(database: Database, project: str) -> None:
    endpoint(database, project)
    line, asked = job(database, project, batch_id="batch_1"), job(database, project, batch_id="batch_1", notify=1)
    finish(database, line)
    finish(database, asked)
    assert notes(database) == [(asked, "job.completed")]


def test_every_move_is_noted_where_that_was_asked_for(database: Database, project: str) -> None:
    watched = job(database, project, notify=2)
    finish(database, watched)
    assert [kind for _, kind in notes(database)] == ["job.queued", "job.in_progress", "job.completed"]


def rolled_back(database: Database, work: Callable[[sa.Connection], object]) -> None:
    with suppress(ZeroDivisionError), database.write() as conn:
        assert work(conn)
        raise ZeroDivisionError


def test_a_move_that_is_rolled_back_leaves_no_note(database: Database, project: str) -> None:
    endpoint(database, project)
    job_id = job(database, project)
    rolled_back(database, lambda conn: jobs.cancel(conn, project, job_id))
    assert notes(database) == []


def test_notes_are_back_when_what_they_became_could_not_be_stored(database: Database, project: str) -> None:
    endpoint(database, project)
    job_id = job(database, project)
    finish(database, job_id)
    rolled_back(database, lambda conn: outbox.take(conn, 10))
    assert notes(database) == [(job_id, "job.completed")]


# -- claims ----------------------------------------------------------------------------------------------------------


def test_a_delivery_is_claimed_once_and_its_body_comes_along(database: Database, project: str) -> None:
    endpoint(database, project)
    (delivery_id,) = told(database, project)
    (due,) = claim(database)
    assert (due.id, due.body, due.trigger, due.tries) == (delivery_id, f'{{"n":"{delivery_id}"}}', "auto", 0)
    assert claim(database) == []
    assert settle(database, tried(due)) == ({delivery_id}, [])
    assert state(database, delivery_id) == "delivered"
    with database.read() as conn:
        view = delivery_views.get(conn, project, delivery_id)
    assert view is not None
    assert (view.attempts, view.http_status, view.tries[0]["number"]) == (1, 200, 1)


@pytest.mark.postgres
def test_workers_that_claim_at_once_never_share_a_delivery(postgres_url: str) -> None:
    with closing(Database(postgres_url, connections=8)) as database:
        with database.write() as conn:
            project = projects.ensure(conn)
        for name in "abcdefgh":
            endpoint(database, project, f"we_{name}", max_concurrency=100, max_rps=1000.0)
            told(database, project, 20, f"we_{name}")
        got: list[list[Due]] = [[] for _ in range(4)]
        start = Barrier(4, timeout=60)

        def work(n: int) -> None:
            start.wait()
            for _ in range(30):
                got[n] += claim(database, 7, f"wrk_{n}")

        threads = [Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ids = [due.id for part in got for due in part]
        assert len(ids) == len(set(ids)) == 160


def test_an_endpoint_gets_no_more_at_once_and_per_second_than_it_may(database: Database, project: str) -> None:
    endpoint(database, project, "we_a", max_concurrency=3)
    endpoint(database, project, "we_b", max_rps=2.0)
    told(database, project, 10, "we_a")
    told(database, project, 10, "we_b")
    with database.write() as conn:
        first = deliveries.claim(conn, 100, after="", worker_id="wrk_1", claim_id="clm_1")
    by = [due.endpoint_id for due in first.due]
    assert (by.count("we_a"), by.count("we_b"), first.held_back) == (3, 2, True)
    assert claim(database) == []
    settle(database, *[tried(due) for due in first.due])
    late(database, webhook_endpoint, "due_at", 0.0)
    again = [due.endpoint_id for due in claim(database, 100)]
    assert (again.count("we_a"), again.count("we_b")) == (3, 2)


def test_room_is_shared_between_endpoints(database: Database, project: str) -> None:
    for name in "abc":
        endpoint(database, project, f"we_{name}")
        told(database, project, 20 if name == "a" else 2, f"we_{name}")
    by = [due.endpoint_id for due in claim(database, 9)]
    assert by.count("we_b") == by.count("we_c") == 2
    assert by.count("we_a") == 3


def test_nothing_goes_to_a_disabled_or_deleted_endpoint(database: Database, project: str) -> None:
    for name in ("we_a", "we_b"):
        endpoint(database, project, name)
    (waiting,), (doomed,) = told(database, project), told(database, project, to="we_b")
    (due_a, due_b) = sorted(claim(database), key=lambda due: due.endpoint_id)
    (queued,) = told(database, project)
    with database.write() as conn:
        assert webhook_endpoints.disable(conn, "we_a", "gone")
        assert not webhook_endpoints.disable(conn, "we_a", "again")
        assert webhook_endpoints.delete(conn, project, "we_b")
    assert state(database, queued) == "skipped"
    settle(database, tried(due_a, DeliveryState.PENDING, 0.0), tried(due_b, DeliveryState.PENDING, 0.0))
    assert (state(database, waiting), state(database, doomed)) == ("skipped", "skipped")
    assert claim(database) == []


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_what_comes_back_to_an_endpoint_that_was_silenced_meanwhile_is_skipped(
    database: Database, project: str, how: str
) -> None:
    endpoint(database, project)
    ids = told(database, project, 2)
    (of_dead,) = claim(database, 1, worker_id="wrk_dead")
    (of_ours,) = claim(database, 1)
    with database.write() as conn:
        if how == "disabled":
            assert webhook_endpoints.disable(conn, "we_a", "gone")
        else:
            assert webhook_endpoints.delete(conn, project, "we_a")
        assert deliveries.take_back(conn) == 1
        deliveries.give_back(conn, [(of_ours.id, of_ours.claim_id)])
    assert {of_dead.id, of_ours.id} == set(ids)
    ids += told(database, project)  # by one that looked just before
    assert claim(database) == []
    assert [state(database, one) for one in ids] == ["skipped"] * 3
    late(database, delivery, "created_at", 3600)
    with database.write() as conn:
        assert deliveries.purge(conn, 60) == 3


def test_endpoints_that_take_nothing_just_now_hold_up_none_behind_them(database: Database, project: str) -> None:
    for name in ("we_a", "we_b", "we_c", "we_d"):
        endpoint(database, project, name, max_concurrency=1)
        told(database, project, 2, name)

    def look(after: str, room: int = 100) -> tuple[list[str], str]:
        with database.write() as conn:
            taken = deliveries.claim(conn, room, after=after, worker_id="wrk_1", claim_id="clm", most=2)
        return [due.endpoint_id for due in taken.due], taken.after

    assert look("", room=1) == (["we_a"], "we_a")
    assert look("we_a") == (["we_b", "we_c"], "we_c")
    assert look("") == ([], "we_b")
    assert look("we_b") == (["we_d"], "we_d")
    assert look("we_d") == ([], "")


# -- the end of a try ------------------------------------------------------------------------------------------------


def test_a_failed_try_waits_its_turn_and_counts(database: Database, project: str) -> None:
    endpoint(database, project)
    (delivery_id,) = told(database, project)
    (due,) = claim(database)
    settle(database, tried(due, DeliveryState.PENDING, 300.0))
    assert claim(database) == []
    late(database, delivery, "due_at", 1)
    (again,) = claim(database)
    assert (again.tries, again.attempts, again.body) == (1, 1, due.body)
    settle(database, tried(again, DeliveryState.EXHAUSTED))
    assert state(database, delivery_id) == "exhausted"


def test_a_late_verdict_changes_nothing(database: Database, project: str) -> None:
    endpoint(database, project)
    (delivery_id,) = told(database, project)
    (due,) = claim(database, worker_id="wrk_dead")
    with database.write() as conn:
        assert deliveries.take_back(conn) == 1
        assert deliveries.take_back(conn) == 0
    (again,) = claim(database)
    assert settle(database, tried(due, DeliveryState.EXHAUSTED))[0] == set()
    assert settle(database, tried(again))[0] == {delivery_id}


def test_a_living_worker_keeps_what_it_sends(database: Database, project: str) -> None:
    endpoint(database, project)
    told(database, project)
    claim(database)
    with database.write() as conn:
        assert deliveries.take_back(conn) == 0


def test_what_was_claimed_and_not_sent_goes_back_uncounted(database: Database, project: str) -> None:
    endpoint(database, project)
    told(database, project)
    (due,) = claim(database)
    with database.write() as conn:
        deliveries.give_back(conn, [(due.id, due.claim_id), (due.id, "clm_other")])
    (again,) = claim(database)
    assert (again.tries, again.attempts) == (0, 0)


def test_five_days_of_failures_ask_for_the_end_and_one_success_begins_anew(database: Database, project: str) -> None:
    endpoint(database, project)
    (delivery_id,) = told(database, project)

    def fail() -> list[str]:
        late(database, delivery, "due_at", 1)
        (due,) = claim(database)
        return settle(database, tried(due, DeliveryState.PENDING, 0.0))[1]

    assert fail() == []
    late(database, webhook_endpoint, "failing_since_at", 4.9 * 86400)
    assert fail() == []
    (other,) = told(database, project)
    settle(database, *[tried(due) for due in claim(database) if due.id == other])
    with database.write() as conn:
        conn.execute(delivery.update().where(delivery.c.id == delivery_id).values(state="pending", claim_id=None))
    assert fail() == []
    late(database, webhook_endpoint, "failing_since_at", 5.1 * 86400)
    assert fail() == ["we_a"]


# -- by people -------------------------------------------------------------------------------------------------------


def test_a_resend_leaves_the_schedule_alone(database: Database, project: str) -> None:
    endpoint(database, project)
    (delivery_id,) = told(database, project)
    (due,) = claim(database)
    with database.write() as conn:
        assert not deliveries.resend(conn, project, delivery_id), "it is on its way"
    settle(database, tried(due, DeliveryState.PENDING, 300.0))
    with database.write() as conn:
        assert not deliveries.resend(conn, "proj_other", delivery_id)
        assert deliveries.resend(conn, project, delivery_id)
    (again,) = claim(database)
    assert (again.trigger, again.tries, again.event_id, again.body) == ("manual", 1, due.event_id, due.body)
    settle(database, tried(again, DeliveryState.PENDING, 300.0))
    late(database, delivery, "due_at", 1)
    (third,) = claim(database)
    assert (third.trigger, third.tries, third.attempts) == ("auto", 1, 2)


def test_recover_sends_what_failed_or_was_skipped_and_nothing_else(database: Database, project: str) -> None:
    endpoint(database, project)
    good, bad = told(database, project, 2)
    by_id = {due.id: due for due in claim(database)}
    settle(database, tried(by_id[good]), tried(by_id[bad], DeliveryState.EXHAUSTED))
    with database.write() as conn:
        webhook_endpoints.disable(conn, "we_a", "test")
        outbox.tell(
            conn,
            [NewEvent("evt_s", project, "job.completed", "job_s", "{}")],
            [NewDelivery("whd_s", project, "we_a", "evt_s", "job_s", DeliveryState.SKIPPED)],
        )
        assert deliveries.recover(conn, project, "we_a", START) == 0, "it is still disabled"
        webhook_endpoints.enable(conn, project, "we_a")
        assert deliveries.recover(conn, "proj_other", "we_a", START) == 0
        assert deliveries.recover(conn, project, "we_a", clock.now() + timedelta(hours=1)) == 0
        assert deliveries.recover(conn, project, "we_a", START) == 2
    assert {(due.id, due.trigger) for due in claim(database)} == {(bad, "recover"), ("whd_s", "recover")}


def test_recover_does_not_leave_to_its_schedule_what_failed_and_waits(database: Database, project: str) -> None:
    endpoint(database, project)
    (failed,) = told(database, project, 1)
    (due,) = claim(database)
    settle(database, tried(due, DeliveryState.PENDING, 3600.0))
    told(database, project, 1)
    with database.write() as conn:
        assert deliveries.recover(conn, project, "we_a", START) == 1, "the other one is due, and was not tried yet"
        assert deliveries.recover(conn, project, "we_a", START) == 0, "it is due already"
    assert {due.id: due.trigger for due in claim(database)}[failed] == "recover"


def test_pages_are_newest_first_and_stay_within_the_project(database: Database, project: str) -> None:
    endpoint(database, project)
    ids = told(database, project, 5)
    with database.read() as conn:
        page, more = delivery_views.listed(conn, project, Filter(limit=3))
        rest, end = delivery_views.listed(conn, project, Filter(limit=3, after=page[-1].id))
        assert [d.id for d in [*page, *rest]] == sorted(ids, reverse=True)
        assert (more, end) == (True, False)
        assert delivery_views.listed(conn, "proj_other", Filter()) == ([], False)
        assert delivery_views.get(conn, "proj_other", ids[0]) is None
        (one,), _ = delivery_views.listed(conn, project, Filter(object_id=f"job_{ids[2]}"))
        assert one.id == ids[2]


def test_old_deliveries_go_and_those_that_wait_stay(database: Database, project: str) -> None:
    endpoint(database, project)
    ended, waiting = told(database, project, 2)
    by_id = {due.id: due for due in claim(database)}
    settle(database, tried(by_id[ended]), tried(by_id[waiting], DeliveryState.PENDING, 300.0))
    late(database, delivery, "created_at", 3600)
    with database.write() as conn:
        conn.execute(sa.text("UPDATE event SET created_at = created_at"))
        assert deliveries.purge(conn, 7200) == 0
        assert deliveries.purge(conn, 60) == 1
    assert state(database, waiting) == "pending"


def test_a_sweep_forgets_all_that_is_old_as_long_as_that_takes_no_time(
    database: Database, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint(database, project)
    told(database, project, 11)
    settle(database, *[tried(due) for due in claim(database, 20)])
    late(database, delivery, "created_at", 3600)
    late(database, event, "created_at", 3600)

    def left() -> tuple[int, ...]:
        sweep.sweep(database, "wrk_1", lease_s=15.0, every_s=1.0, retention_s=60.0)
        with database.read() as conn:
            return tuple(
                conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in (delivery, event, delivery_attempt)
            )

    monkeypatch.setattr(sweep, "FORGOTTEN_AT_ONCE", 2)
    monkeypatch.setattr(sweep, "FORGET_S", 0.0)
    assert left() == (9, 9, 9)
    monkeypatch.setattr(sweep, "FORGET_S", 10.0)
    assert left() == (0, 0, 0)


# -- endpoints -------------------------------------------------------------------------------------------------------


def test_a_rotation_keeps_the_old_secret_for_its_time(database: Database, project: str) -> None:
    endpoint(database, project)
    with database.write() as conn:
        assert webhook_endpoints.rotate(conn, project, "we_a", "sealed2", 60.0)
        found = webhook_endpoints.get(conn, project, "we_a")
        assert found is not None
        assert found.secrets is not None
        assert (found.secrets.current, found.secrets.old) == ("sealed2", "sealed")
        assert webhook_endpoints.rotate(conn, project, "we_a", "sealed3", 0.0)
        found = webhook_endpoints.get(conn, project, "we_a")
        assert found is not None
        assert found.secrets is not None
        assert (found.secrets.current, found.secrets.old) == ("sealed3", None)
        assert not webhook_endpoints.rotate(conn, "proj_other", "we_a", "x", 0.0)


def test_an_address_of_a_request_is_one_row_and_no_standing_endpoint(database: Database, project: str) -> None:
    new = NewEndpoint("we_1", project, "https://example.com/", ("job.completed",), fingerprint="f")
    with database.write() as conn:
        assert webhook_endpoints.ensure(conn, new) == "we_1"
        other = NewEndpoint("we_2", project, "https://example.com/", ("job.completed",), fingerprint="f")
        assert webhook_endpoints.ensure(conn, other) == "we_1"
        assert webhook_endpoints.listed(conn, project) == ([], False)
        assert webhook_endpoints.standing(conn, [project]) == {}
        outbox.subscribe(conn, [("job_1", "we_1")])
        assert outbox.subscribers(conn, ["job_1", "job_2"]) == {"job_1": ["we_1"]}


def test_the_projects_own_secret_is_made_once_and_rotates(database: Database, project: str) -> None:
    with database.write() as conn:
        assert webhook_endpoints.ensure_project_secret(conn, project, lambda: "one")
        assert not webhook_endpoints.ensure_project_secret(conn, project, lambda: "two")
        webhook_endpoints.rotate_project_secret(conn, project, "three", 60.0)
        secrets = webhook_endpoints.project_secrets(conn, project)
        assert secrets is not None
        assert (secrets.current, secrets.old) == ("three", "one")
        (found,) = webhook_endpoints.sealed(conn)
        table, row_id, texts = found
        assert texts == {"secret": "three", "old_secret": "one"}
        assert not webhook_endpoints.reseal(conn, table, row_id, {"secret": "x"}, {"secret": "stale"})
        assert webhook_endpoints.reseal(conn, table, row_id, {"secret": "x"}, {"secret": "three"})
