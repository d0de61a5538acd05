"""Pauses and the jobs that wait for them, on both databases: one row per scope, one probe, no claim of the parked."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import sqlalchemy as sa

from worker import clock
from worker.domain.failure import Lane
from worker.domain.job import SUSPECT_FROM, NewJob, Return
from worker.domain.pause import Cause, Pause, PauseKind, Scope, mark_of
from worker.domain.state import JobStatus
from worker.store import claims, new_jobs, orphans, parked, pauses, settling, views
from worker.store.database import Database
from worker.store.moment import db_now, later
from worker.store.settling import Settle
from worker.store.tables import job as job_table
from worker.store.tables import pause as pause_table

ACME = Scope("account", "p", "acme")
OTHER = Scope("key", "p", "K1")
QUOTA = Cause(ACME, PauseKind.QUOTA, "no money\x00")
PROJECT = "proj_a"


def only(database: Database) -> Pause:
    with database.read() as conn:
        (found,) = pauses.current(conn)
    return found


def make_due(database: Database) -> None:
    with database.write() as conn:
        conn.execute(pause_table.update().values(until_at=later(-0.5)))


def begin(database: Database, cause: Cause) -> Pause:
    with database.write() as conn:
        pauses.begin(conn, cause)
    return only(database)


def stored(database: Database, n: int, lane: Lane = Lane.BATCH, mark: str | None = None) -> list[str]:
    """Jobs; with a mark they are claimed and parked."""
    new = [NewJob(clock.new_id("job"), PROJECT, "completion", lane, ("default",), {"n": i}) for i in range(n)]
    with database.write() as conn:
        new_jobs.insert(conn, new)
        if mark is not None:
            for job in claims.claim(conn, [one.id for one in new], worker_id="wrk_0", claim_id="clm_0"):
                settling.settle(conn, [Settle(job.id, "clm_0", Return(86_400.0, mark))])
    return [one.id for one in new]


def claimed(database: Database, lane: Lane = Lane.BATCH) -> list[str]:
    with database.write() as conn:
        return [job.id for job in claims.claim_block(conn, lane, 100, worker_id="wrk_1", claim_id="clm_1")]


def test_the_first_failure_opens_and_a_longer_wait_extends(database: Database) -> None:
    first = begin(database, QUOTA)
    assert first.kind is PauseKind.QUOTA
    assert 55.0 < first.wait_s <= 60.0
    assert (first.probes, first.who, first.over_s, "\x00" in first.reason) == (0, None, None, False)
    again = begin(database, QUOTA)
    assert (again.since_at, again.until_at) == (first.since_at, first.until_at)
    assert begin(database, Cause(ACME, PauseKind.QUOTA, "x", 30.0)).until_at == first.until_at
    assert 3590.0 < begin(database, Cause(ACME, PauseKind.QUOTA, "x", 3600.0)).wait_s <= 3600.0


def test_of_many_that_want_to_probe_one_may(database: Database) -> None:
    seen = begin(database, QUOTA)
    with database.write() as conn:
        assert not pauses.take_probe(conn, seen, 120.0), "it is not due"
    make_due(database)
    seen = only(database)
    start, won = threading.Barrier(4, timeout=60), []

    def race() -> None:
        start.wait()
        with database.write() as conn:
            won.append(pauses.take_probe(conn, seen, 120.0))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]
    after = only(database)
    assert after.probes == 1
    assert 115.0 < after.wait_s <= 120.0


def test_an_end_is_seen_for_a_while_and_a_new_failure_begins_anew(database: Database) -> None:
    begin(database, QUOTA)
    with database.write() as conn:
        assert pauses.end(conn, ACME)
        assert not pauses.end(conn, ACME)
    over = only(database)
    assert over.over_s is not None
    assert over.over_s < 5.0
    assert over.closed_at is not None
    again = begin(database, Cause(ACME, PauseKind.QUOTA, "x", 90.0))
    assert (again.over_s, again.closed_at, again.probes) == (None, None, 0)
    assert 85.0 < again.wait_s <= 90.0


def test_what_a_person_paused_neither_probe_nor_failure_changes(database: Database) -> None:
    begin(database, QUOTA)
    with database.write() as conn:
        pauses.begin_by(conn, ACME, "a drill", "key_1")
    seen = only(database)
    assert (seen.kind, seen.reason, seen.until_at, seen.who) == (PauseKind.OPERATOR, "a drill", None, "key_1")
    with database.write() as conn:
        pauses.begin(conn, Cause(ACME, PauseKind.QUOTA, "x", 3600.0))
        assert not pauses.end(conn, ACME)
        assert not pauses.take_probe(conn, seen, 1.0)
    assert only(database) == seen
    with database.write() as conn:
        pauses.end_by(conn, ACME, "key_2")
    assert only(database).over_s is not None


def test_an_end_by_a_person_is_on_record_though_nothing_was_paused(database: Database) -> None:
    with database.write() as conn:
        pauses.end_by(conn, Scope("target", "p", "p/m"), "key_1")
    found = only(database)
    assert (found.kind, found.who, found.over_s is not None) == (PauseKind.OPERATOR, "key_1", True)


def test_a_provider_goes_on_as_a_whole_but_for_targets_closed_one_by_one(database: Database) -> None:
    with database.write() as conn:
        pauses.begin(conn, QUOTA)
        pauses.begin(conn, Cause(OTHER, PauseKind.AUTH, "x"))
        pauses.begin_by(conn, Scope("provider", "p"), "x", "key_1")
        pauses.begin_by(conn, Scope("target", "p", "p/m"), "x", "key_1")
        pauses.begin(conn, Cause(Scope("account", "q", "acme"), PauseKind.QUOTA, "x"))
        assert pauses.end_all_by(conn, "p", "key_2") == 3
        assert [str(one.scope) for one in pauses.holding(conn)] == ["p/m", "account acme of q"]
        assert [str(one.scope) for one in pauses.holding(conn, "q")] == ["account acme of q"]


def test_what_ended_long_ago_and_what_nobody_asks_for_is_forgotten(database: Database) -> None:
    with database.write() as conn:
        for scope in (ACME, OTHER, Scope("key", "p", "K2")):
            pauses.begin(conn, Cause(scope, PauseKind.QUOTA, "x"))
        pauses.begin_by(conn, Scope("provider", "p"), "x", "key_1")
        long_ago = later(-3 * 86_400.0)
        conn.execute(pause_table.update().where(pause_table.c.id == ACME.id).values(closed_at=long_ago))
        conn.execute(pause_table.update().where(pause_table.c.id == OTHER.id).values(until_at=long_ago))
        assert pauses.forget(conn) == 2
        assert {one.scope.covers for one in pauses.holding(conn)} == {"key", "provider"}


def test_a_parked_job_is_not_claimed_and_says_what_it_waits_for(database: Database) -> None:
    pause = begin(database, QUOTA)
    (free,) = stored(database, 1)
    (job_id,) = stored(database, 1, mark=mark_of([ACME, OTHER]))
    assert claimed(database) == [free]
    with database.read() as conn:
        view = views.get(conn, PROJECT, job_id)
    assert view is not None
    assert (view.status, view.attempts) == (JobStatus.QUEUED, 0)
    assert view.run_at == pause.until_at
    assert view.waiting_for is not None
    assert (view.waiting_for.of, view.waiting_for.kind) == ("account acme of p", "quota")
    assert view.waiting_for.until_at == pause.until_at
    with database.write() as conn:
        pauses.end(conn, ACME)
        view = views.get(conn, PROJECT, job_id)
        now = conn.execute(sa.select(db_now())).scalar_one()
    assert view is not None
    assert view.waiting_for is None
    assert view.run_at <= now


def test_the_marks_are_told_once_however_many_jobs_carry_them(database: Database) -> None:
    with database.read() as conn:
        assert parked.marks(conn) == []
    one, two = mark_of([ACME]), mark_of([ACME, OTHER])
    stored(database, 30, mark=one)
    stored(database, 3, Lane.INTERACTIVE, one)
    stored(database, 3, mark=two)
    stored(database, 3)
    with database.read() as conn:
        found = parked.marks(conn)
    assert sorted(found) == sorted([(one, Lane.BATCH), (one, Lane.INTERACTIVE), (two, Lane.BATCH)])


def test_jobs_are_woken_a_part_at_a_time_the_oldest_first(database: Database) -> None:
    mark = mark_of([ACME])
    ids = sorted(stored(database, 5, mark=mark))
    others = stored(database, 1, mark=mark_of([OTHER])) + stored(database, 1, Lane.INTERACTIVE, mark)

    def woken() -> int:
        with database.write() as conn:
            return parked.wake(conn, mark, Lane.BATCH, 3)

    assert woken() == 3
    assert sorted(claimed(database)) == ids[:3]
    assert (woken(), woken()) == (2, 0)
    assert sorted(claimed(database)) == ids[3:]
    with database.read() as conn:
        assert len(views.many(conn, PROJECT, others)) == 2
        assert len(parked.marks(conn)) == 2


def test_one_job_is_taken_out_of_its_park_by_one_worker(database: Database) -> None:
    mark = mark_of([ACME])
    (job_id,) = stored(database, 1, mark=mark)
    start, won = threading.Barrier(2, timeout=60), []

    def race(worker_id: str, lanes: Sequence[Lane]) -> None:
        start.wait()
        with database.write() as conn:
            won.append(parked.claim_one(conn, [mark], lanes, worker_id=worker_id, claim_id=f"clm_{worker_id}"))

    threads = [threading.Thread(target=race, args=(f"wrk_{n}", tuple(Lane))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.id for job in won if job is not None] == [job_id]
    with database.write() as conn:
        assert parked.claim_one(conn, [mark], tuple(Lane), worker_id="wrk_9", claim_id="clm_9") is None
        assert parked.claim_one(conn, [], tuple(Lane), worker_id="wrk_9", claim_id="clm_9") is None


def test_a_suspect_is_taken_out_of_its_park_by_the_worker_that_may_probe(database: Database) -> None:
    mark = mark_of([ACME])
    (job_id,) = stored(database, 1, mark=mark)
    with database.write() as conn:
        conn.execute(job_table.update().values(deaths=SUSPECT_FROM))
        found = parked.claim_one(conn, [mark], tuple(Lane), worker_id="wrk_1", claim_id="clm_1")
        assert found is not None
        assert (found.id, found.suspect) == (job_id, True)


def test_a_job_of_a_dead_worker_is_parked_no_more(database: Database) -> None:
    mark = mark_of([ACME])
    stored(database, 1, mark=mark)
    with database.write() as conn:
        assert parked.claim_one(conn, [mark], tuple(Lane), worker_id="wrk_1", claim_id="clm_1") is not None
        orphans.take_back(conn, "wrk_1")
        assert parked.marks(conn) == []
    assert len(claimed(database)) == 1


def test_the_index_of_the_parked_holds_no_other_row(database: Database) -> None:
    """Else every move of a job would pay for it."""
    mark = mark_of([ACME])
    stored(database, 3, mark=mark)
    plan_of = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
    statement = parked._first
    with database.write() as conn:
        if database.dialect == "postgresql":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        literal = statement(conn, [mark], Lane.BATCH, 1).compile(conn, compile_kwargs={"literal_binds": True})
        plan = "\n".join(str(row) for row in conn.exec_driver_sql(plan_of + str(literal).replace("%", "%%")))
    assert "ix_job_parked" in plan
