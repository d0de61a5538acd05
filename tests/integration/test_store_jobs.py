"""The moves of a job on both databases: each is guarded, and of two that race only one wins."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.wait import wait_until
from worker import clock
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import FORMAT, AttemptRow, Claimed, Ending, NewJob, Return
from worker.domain.money import Usage
from worker.domain.state import FINAL, MOVES, AttemptState, JobStatus
from worker.services import sweep
from worker.store import (
    attempts,
    claims,
    idempotency,
    jobs,
    keys,
    leases,
    migrate,
    new_jobs,
    orphans,
    projects,
    settling,
    views,
    workers,
)
from worker.store.database import Database
from worker.store.moment import later
from worker.store.settling import Settle
from worker.store.tables import job as job_table
from worker.store.tables import worker as worker_table

S = JobStatus
PROJECT = "proj_a"


def new_job(project_id: str = PROJECT, **more: object) -> NewJob:
    fields: dict[str, object] = {"kind": "completion", "lane": Lane.BATCH, "models": ("default",), "input": {"n": 1}}
    return NewJob(id=clock.new_id("job"), project_id=project_id, **{**fields, **more})  # type: ignore[arg-type]


def stored(database: Database, n: int = 1, **more: object) -> list[str]:
    new = [new_job(**more) for _ in range(n)]
    with database.write() as conn:
        new_jobs.insert(conn, new)
    return [job.id for job in new]


def claimed(database: Database, ids: list[str], worker_id: str = "wrk_1") -> list[Claimed]:
    with database.write() as conn:
        return claims.claim(conn, ids, worker_id=worker_id, claim_id=clock.new_id("clm"))


def settled(database: Database, job: Claimed, to: Ending | Return, **more: object) -> bool:
    with database.write() as conn:
        return job.id in settling.settle(conn, [Settle(job.id, job.claim_id, to, **more)])  # type: ignore[arg-type]


def status(database: Database, job_id: str, project_id: str = PROJECT) -> JobStatus:
    with database.read() as conn:
        view = views.get(conn, project_id, job_id)
    assert view is not None
    return view.status


def sent(job: Claimed, number: int = 1, **more: object) -> AttemptRow:
    fields: dict[str, object] = {"state": AttemptState.SENT, "target": "a/m", "provider": "a", "model": "m"}
    return AttemptRow(clock.new_id("att"), job.id, job.claim_id, number, **{**fields, **more})  # type: ignore[arg-type]


def test_a_job_is_claimed_once(database: Database) -> None:
    ids = stored(database, 5)
    assert {job.id for job in claimed(database, ids)} == set(ids)
    assert claimed(database, ids) == []


def test_a_row_of_a_newer_format_is_left_to_newer_workers(database: Database) -> None:
    newer, ours = stored(database, 2)
    with database.write() as conn:
        conn.execute(job_table.update().where(job_table.c.id == newer).values(format=FORMAT + 1))
    assert [job.id for job in claimed(database, [newer, ours])] == [ours]
    with database.write() as conn:
        assert claims.claim_block(conn, Lane.BATCH, 5, worker_id="wrk_1", claim_id="clm_1") == []
        assert views.request_of(conn, PROJECT, newer) is None, "nor is it copied into a row of the older format"
        assert jobs.cancel(conn, PROJECT, newer) is JobStatus.CANCELLED, "what needs no reading of it goes on"


def test_what_is_stored_comes_back_with_the_claim(database: Database) -> None:
    nul = "nul \x00, lone \ud800, ñ, 𝄞"
    (job_id,) = stored(
        database,
        input={"prompt": nul, "f": float("nan")},
        output_schema={"type": "object"},
        deadline_s=60.0,
        priority=2,
    )
    (job,) = claimed(database, [job_id])
    assert job.body.isascii()
    assert '"nul \\u0000, lone \\ud800' in job.body
    assert '"f":null' in job.body
    assert job.remaining_s is not None
    assert 58 < job.remaining_s <= 60
    assert (job.attempts, job.losses, job.rows, job.on_interruption) == (0, 0, 0, "retry")


def test_a_settled_job_sums_what_its_claims_came_to(database: Database) -> None:
    (job_id,) = stored(database)
    (first,) = claimed(database, [job_id])
    assert settled(database, first, Return(), calls=2, rows=3, usage=Usage(10, 5), cost_nano=7)
    (second,) = claimed(database, [job_id])
    assert (second.attempts, second.rows) == (2, 3)
    end = Ending(S.COMPLETED, result='{"text":"x"}')
    assert settled(database, second, end, calls=1, rows=1, usage=Usage(1, None, 1), cost_nano=None, cost_complete=False)
    with database.read() as conn:
        view = views.get(conn, PROJECT, job_id)
    assert view is not None
    assert (view.status, view.version, view.attempts) == (S.COMPLETED, 5, 3)
    assert view.usage == Usage(11, 5, 1, None)
    assert (view.cost_nano, view.cost_complete) == (7, False)
    assert view.result == {"text": "x"}
    assert view.ended_at is not None


def test_a_settle_without_the_claim_changes_nothing(database: Database) -> None:
    (job_id,) = stored(database)
    (old,) = claimed(database, [job_id])
    assert settled(database, old, Return())
    (new,) = claimed(database, [job_id])
    assert not settled(database, old, Ending(S.COMPLETED, result='{"text":"late"}'))
    assert status(database, job_id) is S.IN_PROGRESS
    assert settled(database, new, Ending(S.FAILED, error=Failure(FailureKind.TIMEOUT, "silent")))
    assert not settled(database, new, Ending(S.COMPLETED, result="{}"))
    with database.read() as conn:
        view = views.get(conn, PROJECT, job_id)
    assert view is not None
    assert view.error == {"kind": "timeout", "code": None, "message": "silent", "provider": None, "retryable": True}


def test_a_parked_job_is_not_due_before_its_time(database: Database) -> None:
    (job_id,) = stored(database)
    (job,) = claimed(database, [job_id])
    assert settled(database, job, Return(0.3))
    assert claimed(database, [job_id]) == []
    wait_until(lambda: claimed(database, [job_id]), "the park to be over", 3.0)


def test_cancel_ends_a_queued_job_and_asks_a_running_one(database: Database) -> None:
    queued, running = stored(database, 2)
    (job,) = claimed(database, [running])
    with database.write() as conn:
        assert jobs.cancel(conn, PROJECT, queued) is S.CANCELLED
        assert jobs.cancel(conn, PROJECT, running) is S.CANCELLING
        assert jobs.cancel(conn, PROJECT, running) is S.CANCELLING
        assert jobs.cancelling(conn, "wrk_1") == [running]
        assert claims.still_ours(conn, [(running, job.claim_id)]) == set()
    assert settled(database, job, Ending(S.COMPLETED, result='{"text":"too late"}'))
    with database.read() as conn:
        view = views.get(conn, PROJECT, running)
    assert view is not None
    assert (view.status, view.result) == (S.CANCELLED, None)


def test_another_project_neither_sees_nor_cancels(database: Database) -> None:
    (job_id,) = stored(database)
    with database.write() as conn:
        assert views.get(conn, "proj_b", job_id) is None
        assert jobs.cancel(conn, "proj_b", job_id) is None
        assert views.many(conn, "proj_b", [job_id]) == {}
        assert views.request_of(conn, "proj_b", job_id) is None
        assert views.listed(conn, "proj_b", views.Filter()) == ([], False)
    assert status(database, job_id) is S.QUEUED


def test_a_final_state_never_changes(database: Database) -> None:
    (job_id,) = stored(database)
    (job,) = claimed(database, [job_id])
    settled(database, job, Ending(S.COMPLETED, result="{}"))
    with database.write() as conn:
        assert jobs.cancel(conn, PROJECT, job_id) is S.COMPLETED
        assert claims.claim(conn, [job_id], worker_id="w", claim_id="c") == []
        assert jobs.expire(conn) == 0
    assert status(database, job_id) is S.COMPLETED
    assert all(not MOVES[state] for state in FINAL)


def test_a_block_is_fair_between_projects_and_goes_by_priority_within_one(database: Database) -> None:
    crowd = stored(database, 50)
    urgent = stored(database, 5, priority=2)
    others = stored(database, 10, project_id="proj_b")
    with database.write() as conn:
        block = claims.claim_block(conn, Lane.BATCH, 20, worker_id="w", claim_id="c")
    ids = [job.id for job in block]
    assert len(set(ids)) == 20
    assert set(others) <= set(ids)
    assert set(urgent) <= set(ids)
    assert len(set(ids) & set(crowd)) == 5
    with database.write() as conn:
        assert claims.claim_block(conn, Lane.INTERACTIVE, 20, worker_id="w", claim_id="c2") == []


def test_a_part_that_a_project_does_not_need_goes_to_the_others(database: Database) -> None:
    stored(database, 50)
    stored(database, 2, project_id="proj_b")
    with database.write() as conn:
        assert len(claims.claim_block(conn, Lane.BATCH, 20, worker_id="w", claim_id="c")) == 20


def test_projects_beyond_those_a_claim_looks_at_have_their_turn(database: Database) -> None:
    """The first ones have work that is never due: nobody may wait behind them for ever."""
    for n in range(6):
        for priority in range(2):
            stored(database, 2, project_id=f"proj_{n}", priority=priority)
    with database.write() as conn:
        conn.execute(
            job_table.update().where(job_table.c.project_id < "proj_3").values(run_at=datetime(2999, 1, 1, tzinfo=UTC))
        )
    turn, seen, looks = claims.Turn(), Counter[str](), 0
    while True:
        looks += 1
        with database.write() as conn:
            held = claims.claim_block(conn, Lane.BATCH, 2, worker_id="w", claim_id="c", turn=turn, most=5)
        seen.update(one.project_id for one in held)
        if not turn.goes_on(len(held), 2):
            break
    assert seen == {"proj_3": 4, "proj_4": 4, "proj_5": 4}
    assert looks < 30
    with database.write() as conn:
        assert claims.claim_block(conn, Lane.BATCH, 2, worker_id="w", claim_id="c", turn=claims.Turn(), most=5) == []
        assert not claims.claimable(conn, Lane.BATCH)


def test_blocks_of_two_workers_do_not_overlap(database: Database) -> None:
    stored(database, 200)
    found: list[list[Claimed]] = []

    def take(name: str) -> None:
        for _ in range(5):
            with database.write() as conn:
                found.append(claims.claim_block(conn, Lane.BATCH, 20, worker_id=name, claim_id=clock.new_id("clm")))

    threads = [threading.Thread(target=take, args=(f"w{i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [job.id for block in found for job in block]
    assert len(ids) == len(set(ids)) == 200


def test_a_dead_workers_claims_go_back_and_its_open_calls_are_lost(database: Database) -> None:
    idle, calling, stopping, forbidden = ids = stored(database, 4)
    with database.write() as conn:
        conn.execute(job_table.update().where(job_table.c.id == forbidden).values(on_interruption="fail"))
    held = {job.id: job for job in claimed(database, ids)}
    with database.write() as conn:
        attempts.begin(conn, [sent(held[calling]), sent(held[forbidden])])
        jobs.cancel(conn, PROJECT, stopping)
        back = orphans.take_back(conn, "wrk_1")
    assert (back.queued, back.cancelled, back.failed) == (2, 1, 1)
    assert [status(database, i) for i in ids] == [S.QUEUED, S.QUEUED, S.CANCELLED, S.FAILED]
    with database.read() as conn:
        (row,) = attempts.of_jobs(conn, [calling])[calling]
        view = views.get(conn, PROJECT, calling)
    assert (row.row.state, row.row.kind) == (AttemptState.LOST, FailureKind.INTERRUPTED)
    assert view is not None
    assert (view.attempts, view.cost_complete) == (1, False)
    assert not settled(database, held[idle], Ending(S.COMPLETED, result="{}"))


def test_a_dead_workers_closed_call_of_unknown_cost_leaves_the_sum_incomplete(database: Database) -> None:
    for kind, complete in ((FailureKind.TIMEOUT, False), (FailureKind.OVERLOADED, True)):
        (job_id,) = stored(database)
        (job,) = claimed(database, [job_id])
        row = sent(job)
        with database.write() as conn:
            attempts.begin(conn, [row])
            attempts.close(conn, [replace(row, state=AttemptState.FAILED, kind=kind)])
            orphans.take_back(conn, "wrk_1")
            view = views.get(conn, PROJECT, job_id)
        assert view is not None
        assert (view.attempts, view.cost_complete) == (1, complete)


def test_only_silent_workers_are_buried_and_only_the_dead_are_robbed(database: Database) -> None:
    with database.write() as conn:
        for name in ("wrk_live", "wrk_dead", "wrk_left"):
            workers.register(conn, worker_id=name, host="h", pid=1, lanes=["batch"], release="1")
        silent = worker_table.update().where(worker_table.c.id == "wrk_dead").values(heartbeat_at=later(-60.0))
        conn.execute(silent)
        workers.leave(conn, "wrk_left")
    for name in ("wrk_live", "wrk_dead", "wrk_left", "wrk_never_seen"):
        claimed(database, stored(database), name)
    with database.write() as conn:
        assert workers.bury(conn, 15.0) == 1
        assert sorted(workers.dead_holders(conn)) == ["wrk_dead", "wrk_left", "wrk_never_seen"]
        assert workers.beat(conn, "wrk_live", {"in_flight": 1})
        assert not workers.beat(conn, "wrk_dead", {})
        assert workers.reports(conn, 15.0) == {"wrk_live": {"in_flight": 1}}


def test_expire_ends_only_what_is_late_and_still_queued(database: Database) -> None:
    late, running = stored(database, 2, deadline_s=-1.0)
    (in_time,) = stored(database, 1, deadline_s=100.0)
    (never,) = stored(database)
    claimed(database, [running])
    with database.write() as conn:
        assert jobs.expire(conn) == 1
    found = [status(database, i) for i in (late, running, in_time, never)]
    assert found == [S.EXPIRED, S.IN_PROGRESS, S.QUEUED, S.QUEUED]


def test_purge_forgets_the_text_and_leaves_a_tombstone(database: Database) -> None:
    old, open_ = stored(database, 2)
    (job,) = claimed(database, [old])
    with database.write() as conn:
        attempts.begin(conn, [sent(job)])
    settled(database, job, Ending(S.COMPLETED, result='{"text":"secret"}'))
    with database.write() as conn:
        assert jobs.purge(conn, 3600.0) == 0
        assert jobs.purge(conn, -1.0) == 1
        assert jobs.purge(conn, -1.0) == 0
        view = views.get(conn, PROJECT, old)
        assert view is not None
        assert (view.purged, view.result, view.metadata) == (True, None, {})
        assert attempts.of_jobs(conn, [old])[old] == []
        assert [v.id for v in views.listed(conn, PROJECT, views.Filter())[0]] == [open_]


def test_a_tombstone_goes_when_its_job_was_made_long_enough_ago(database: Database) -> None:
    forgotten, ended, open_ = stored(database, 3)
    with database.write() as conn:
        jobs.cancel(conn, PROJECT, forgotten)
        assert jobs.purge(conn, -1.0) == 1
        jobs.cancel(conn, PROJECT, ended)
        assert jobs.forget(conn, 3600.0) == 0
        assert jobs.forget(conn, -3600.0) == 1
        assert jobs.forget(conn, -3600.0) == 0
        assert [views.get(conn, PROJECT, one) is None for one in (forgotten, ended, open_)] == [True, False, False]


def test_a_sweep_forgets_tombstones_a_year_after_all_else(database: Database) -> None:
    def left(made_s: float) -> bool:
        (one,) = stored(database)
        aged = clock.least_id("job", clock.now().timestamp() - made_s)
        with database.write() as conn:
            jobs.cancel(conn, PROJECT, one)
            jobs.purge(conn, -1.0)
            conn.execute(job_table.update().where(job_table.c.id == one).values(id=aged))
            leases.take(conn, sweep.LEASE, "long gone", -1.0)
        sweep.sweep(database, "wrk_1", lease_s=15.0, every_s=1.0, retention_s=86400.0)
        with database.read() as conn:
            return views.get(conn, PROJECT, aged) is not None

    assert left(365 * 86400.0)
    assert not left(367 * 86400.0)


def test_listing_is_newest_first_and_pages_without_gaps(database: Database) -> None:
    ids = stored(database, 7, metadata={"k": "v"})
    seen: list[str] = []
    after, more = None, True
    while more:
        with database.read() as conn:
            page, more = views.listed(conn, PROJECT, views.Filter(after=after, limit=3))
        seen += [view.id for view in page]
        after = seen[-1]
        assert page[0].metadata == {"k": "v"}
    assert seen == sorted(ids, reverse=True)


def test_a_page_is_as_large_as_memory_takes_and_one_job_at_least(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stored(database, 5)
    for job in claimed(database, ids):
        settled(database, job, Ending(S.COMPLETED, result=json.dumps({"text": "x" * 89})))  # 101 bytes each
    newest_first = sorted(ids, reverse=True)

    def page(most_bytes: int, limit: int, after: str | None = None) -> tuple[list[str], bool]:
        monkeypatch.setattr(views, "PAGE_BYTES", most_bytes)
        with database.read() as conn:
            found, more = views.listed(conn, PROJECT, views.Filter(after=after, limit=limit))
        assert all(view.result == {"text": "x" * 89} for view in found)
        return [view.id for view in found], more

    assert page(1_000, 5) == (newest_first, False)
    assert page(1_000, 3) == (newest_first[:3], True)
    assert page(210, 5) == (newest_first[:2], True)
    assert page(210, 5, newest_first[2]) == (newest_first[3:], False)
    assert page(50, 5) == (newest_first[:1], True), "a job that is too large alone"


def test_a_lease_has_one_holder_until_it_is_over(database: Database) -> None:
    with database.write() as conn:
        assert leases.take(conn, "sweep", "a", 0.2)
        assert leases.take(conn, "sweep", "a", 0.2)
        assert not leases.take(conn, "sweep", "b", 0.2)

    def taken() -> bool:
        with database.write() as conn:
            return leases.take(conn, "sweep", "b", 5.0)

    wait_until(taken, "the lease to be over", 3.0)


def test_keys_are_found_by_their_secret_until_revoked_or_expired(database: Database) -> None:
    with database.write() as conn:
        project_id = projects.ensure(conn)
        key, secret = keys.create(conn, project_id, "one", scopes=["jobs:read"])
        assert secret.startswith("ck_")
        found = keys.find(conn, secret)
        assert found is not None
        assert (found.id, found.scopes) == (key.id, {"jobs:read"})
        again, same = keys.create(conn, project_id, "two", secret=secret)
        assert (again.id, same) == (key.id, secret)
        _, expired = keys.create(conn, project_id, "old", lasts_s=-1.0)
        assert keys.find(conn, expired) is None
        assert keys.revoke(conn, key.id)
        assert not keys.revoke(conn, key.id)
        assert keys.find(conn, secret) is None
        assert secret not in str(conn.execute(sa.text("SELECT * FROM api_key")).all())


def test_an_idempotency_key_is_remembered_with_what_it_made(database: Database) -> None:
    with database.write() as conn:
        assert idempotency.remember(conn, PROJECT, "jobs", "k", "f1", ["job_1"])
        assert not idempotency.remember(conn, PROJECT, "jobs", "k", "f2", ["job_2"])
        assert idempotency.remember(conn, "proj_b", "jobs", "k", "f2", ["job_2"])
        known = idempotency.find(conn, PROJECT, "jobs", "k")
    assert known is not None
    assert (known.fingerprint, known.made) == ("f1", ("job_1",))


def test_a_file_that_another_process_has_left_is_still_ours(sqlite_url: str) -> None:
    """For all that process could see it was the last one, and took the log away with what was written after it."""

    def elsewhere(name: str) -> list[str]:
        act = (
            "import sys, sqlalchemy as sa\n"
            "from worker.store import projects; from worker.store.database import Database\n"
            "there = Database(sys.argv[1])\n"
            "with there.write() as conn: projects.ensure(conn, sys.argv[2])\n"
            "with there.read() as conn: print(*conn.execute(sa.text('SELECT name FROM project')).scalars())\n"
            "there.close()"
        )
        done = subprocess.run([sys.executable, "-c", act, sqlite_url, name], check=True, capture_output=True, text=True)
        return done.stdout.split()

    with closing(Database(sqlite_url)) as here, here.read() as conn:
        conn.execute(sa.text("SELECT count(*) FROM job"))
        with here.write() as more:  # a second connection
            projects.ensure(more, "mine")
        assert "mine" in elsewhere("theirs")
        with here.write() as more:
            projects.ensure(more, "ours")
        assert {"mine", "theirs", "ours"} <= set(elsewhere("theirs"))


@pytest.mark.skipif(os.name == "nt", reason="rights of files are another matter there")
def test_a_file_of_prompts_is_for_its_owner_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # a folder of one's own, which was there before
    with closing(Database(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")) as made:
        migrate.upgrade(made)
        with made.write() as conn:
            projects.ensure(conn)
        rights = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert rights == dict.fromkeys(("jobs.sqlite3", "jobs.sqlite3-wal", "jobs.sqlite3-shm"), 384)
