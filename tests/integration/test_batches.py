"""Batches and files in SQL: whose a batch is, what is counted, what is stored once, what is forgotten."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.wait import wait_until
from worker import clock, events
from worker.domain.batch import BatchStatus, BatchView, Counts, NewBatch
from worker.domain.failure import Lane
from worker.domain.job import Ending, NewJob
from worker.domain.state import JobStatus
from worker.services import files as intake
from worker.services.batches import take_in
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.keeper import Keeper
from worker.services.batches.watch import stop, watch
from worker.services.batches.write import _drafted, write
from worker.store import (
    batch_views,
    batches,
    claims,
    files,
    idempotency,
    jobs,
    lines,
    new_jobs,
    open_lines,
    orphans,
    settling,
    tallies,
    tending,
    workers,
)
from worker.store.batch_tables import batch as batch_table
from worker.store.batch_tables import batch_line, file_part
from worker.store.batch_tables import file as file_table
from worker.store.database import Database
from worker.store.moment import db_now, later
from worker.store.settling import Settle
from worker.store.tables import idempotency as idempotency_table
from worker.store.tables import job as job_table
from worker.store.tables import job_result
from worker.store.tending import Written

PROJECT = "proj_a"


def _batch(database: Database, *, lines_of: int = 0, owner: str = "wrk_1") -> str:
    """A batch; with lines it is in progress, and all of them are jobs."""
    batch_id = clock.new_id("batch")
    with database.write() as conn:
        batches.insert(conn, NewBatch(batch_id, PROJECT, None, "/v1/chat/completions", "file-1", "24h", 86_400))
        tending.take(conn, owner, 60.0, 10)
        if lines_of:
            assert batches.begin(conn, batch_id, owner, total=lines_of, model="default")
            new = [
                NewJob(clock.new_id("job"), PROJECT, "completion", Lane.BATCH, ("default",), {}, batch_id=batch_id)
                for _ in range(lines_of)
            ]
            assert batches.took(conn, batch_id, owner, after=0, line=lines_of, n=lines_of)
            new_jobs.insert(conn, new)
            lines.insert(conn, batch_id, [lines.Line(n, job.id, f'"{n}"') for n, job in enumerate(new, 1)])
    return batch_id


def _counts(database: Database, batch_id: str) -> Counts:
    with database.read() as conn:
        found = batch_views.get(conn, PROJECT, batch_id)
    assert found is not None
    return found.counts


def _claimed(database: Database, n: int, worker: str = "wrk_1") -> list[tuple[str, str]]:
    with database.write() as conn:
        found = claims.claim_block(conn, Lane.BATCH, n, worker_id=worker, claim_id=clock.new_id("clm"))
    return [(job.id, job.claim_id) for job in found]


def _settle(database: Database, claims: list[tuple[str, str]], status: JobStatus) -> None:
    ending = Ending(status, result="{}")  # type: ignore[arg-type]
    with database.write() as conn:
        settling.settle(conn, [Settle(job_id, claim_id, ending) for job_id, claim_id in claims])


def test_a_batch_is_of_one_until_its_lease_is_over(database: Database) -> None:
    batch_id = _batch(database, owner="wrk_1")
    with database.write() as conn:
        assert not tending.any_free(conn)
        assert tending.take(conn, "wrk_2", 60.0, 10) == []
        assert tending.tended(conn, batch_id, "wrk_2") is None
        assert tending.renew(conn, "wrk_1", -1.0) == {batch_id}
    with database.write() as conn:
        assert tending.any_free(conn)
        assert tending.take(conn, "wrk_2", 60.0, 10) == [batch_id]
        assert tending.renew(conn, "wrk_1", 60.0) == set()
        assert not batches.begin(conn, batch_id, "wrk_1", total=1, model=None), "it is no longer its"
        assert not batches.fail(conn, batch_id, "wrk_1", [])
        tending.release(conn, "wrk_2")
        assert tending.take(conn, "wrk_3", 60.0, 10) == [batch_id]


def test_a_page_is_stored_only_from_where_the_cursor_stands(database: Database) -> None:
    batch_id = _batch(database, lines_of=3)
    with database.write() as conn:
        assert not batches.took(conn, batch_id, "wrk_1", after=0, line=3, n=3)
        assert not batches.took(conn, batch_id, "wrk_2", after=3, line=4, n=1)
        assert not batches.wrote(conn, batch_id, "wrk_1", after=0, line=3, written=Written()), "not yet"
        assert batches.finalize(conn, batch_id, "wrk_1")
        assert batches.draft(conn, batch_id, "wrk_1", "file-a", "file-b")
        assert not batches.draft(conn, batch_id, "wrk_1", "file-c", "file-d")
        assert batches.wrote(conn, batch_id, "wrk_1", after=0, line=2, written=Written(completed=2))
        assert not batches.wrote(conn, batch_id, "wrk_1", after=0, line=2, written=Written(completed=2))
        done = BatchStatus.CANCELLED
        assert not batches.finish(conn, batch_id, "wrk_1", done, output_file_id=None, error_file_id=None)
        done = BatchStatus.COMPLETED
        assert batches.finish(conn, batch_id, "wrk_1", done, output_file_id="file-a", error_file_id=None)
        assert not batches.cancel(conn, PROJECT, batch_id)
        assert not batches.finish(conn, batch_id, "wrk_1", done, output_file_id=None, error_file_id=None)
        found = batch_views.get(conn, PROJECT, batch_id)
    assert found is not None
    assert (found.status, found.output_file_id, found.error_file_id) == (BatchStatus.COMPLETED, "file-a", None)


def test_every_way_to_an_end_is_counted_once(database: Database) -> None:
    batch_id = _batch(database, lines_of=20)
    with database.write() as conn:
        workers.register(conn, worker_id="wrk_1", host="h", pid=1, lanes=["batch"], release="0")
    claims = _claimed(database, 8)
    _settle(database, claims[:4], JobStatus.COMPLETED)
    _settle(database, claims[:4], JobStatus.COMPLETED)  # their claims are over: nothing moves
    _settle(database, claims[4:6], JobStatus.FAILED)
    with database.write() as conn:
        assert jobs.cancel(conn, PROJECT, claims[6][0]) is JobStatus.CANCELLING
    _settle(database, claims[6:7], JobStatus.COMPLETED)  # ends as cancelled
    assert _counts(database, batch_id) == Counts(20, 4, 2, 1)
    with database.write() as conn:
        waiting = conn.execute(sa.select(job_table.c.id).where(job_table.c.status == "queued")).scalars().all()
        jobs.cancel(conn, PROJECT, waiting[0])
        jobs.cancel(conn, PROJECT, waiting[0])
        conn.execute(job_table.update().where(job_table.c.id == waiting[1]).values(deadline_at=later(-1.0)))
        assert jobs.expire(conn) == 1
        conn.execute(job_table.update().where(job_table.c.id == claims[7][0]).values(on_interruption="fail", losses=3))
        orphans.take_back(conn, "wrk_1")
    assert _counts(database, batch_id).ended in {9, 10}  # the one taken back had no open call: it waits again
    with database.write() as conn:
        assert open_lines.end(conn, batch_id, JobStatus.EXPIRED, 5) == 5
        while open_lines.end(conn, batch_id, JobStatus.CANCELLED, 4):
            pass
        assert not open_lines.any_left(conn, batch_id)
        counted = tallies.of(conn, [batch_id])[batch_id]
        assert counted.ended == 20
        assert tallies.recount(conn, batch_id) == counted
        assert tallies.of(conn, [batch_id])[batch_id] == counted


def test_lines_that_nobody_counted_are_counted_in_the_end(database: Database) -> None:
    batch_id = _batch(database, lines_of=6)
    with database.write() as conn:  # as a worker of a release before batches ends them
        conn.execute(job_table.update().values(status="completed", ended_at=db_now()))
    desk: Any = Desk(SimpleNamespace(database=database), "wrk_1", lambda: None)  # type: ignore[arg-type]
    assert list(watch(desk, desk.look(batch_id))) == []
    assert desk.look(batch_id).status is BatchStatus.FINALIZING
    assert _counts(database, batch_id) == Counts(6, 6, 0, 0)


def test_a_batch_that_is_stopped_while_it_is_watched_is_looked_at_anew(database: Database) -> None:
    batch_id = _batch(database, lines_of=6)
    desk: Any = Desk(SimpleNamespace(database=database), "wrk_1", lambda: None)  # type: ignore[arg-type]
    turns = watch(desk, desk.look(batch_id))
    assert next(turns) > 0
    with database.write() as conn:
        assert batches.cancel(conn, PROJECT, batch_id)
    with pytest.raises(Lost):
        next(turns)
    assert list(stop(desk, desk.look(batch_id))) == []
    assert _counts(database, batch_id) == Counts(6, 0, 0, 6)


def test_a_file_that_breaks_its_reader_is_given_up_when_the_window_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = _batch(database)

    def read(*_: object) -> None:
        raise RuntimeError("a prompt of somebody")

    monkeypatch.setattr("worker.services.batches.validate._input", read)
    keeper = Keeper(SimpleNamespace(database=database, settings=SimpleNamespace(lease_s=1.0)), lambda: None)  # type: ignore[arg-type]
    keeper._desk = Desk(keeper._deps, "wrk_1", lambda: None)
    told: list[str] = []
    monkeypatch.setattr(events, "emit", lambda event, **fields: told.append(f"{event} {fields}"))

    def turn() -> BatchView:
        keeper._again(batch_id, 0.0)
        keeper._turn(batch_id, keeper._cared[batch_id])
        with database.read() as conn:
            found = batch_views.get(conn, PROJECT, batch_id)
        assert found is not None
        return found

    assert turn().status is BatchStatus.VALIDATING
    with database.write() as conn:
        conn.execute(batch_table.update().values(expires_at=later(-0.1)))
    over = turn()
    assert over.status is BatchStatus.FAILED
    assert over.errors is not None
    assert [one["code"] for one in over.errors] == ["server_error"]
    assert len(told) == 2
    for entry in told:
        assert entry.startswith("batch.broken")
        assert "RuntimeError" in entry
        assert "prompt" not in entry


def test_one_batch_that_breaks_does_not_hold_up_the_others(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Database(sqlite_url)) as database:
        bad, good = _batch(database, owner="x"), _batch(database, owner="x")
        with database.write() as conn:
            tending.release(conn, "x")
        tended: list[str] = []
        broken = threading.Event()

        def tend(desk: Desk, batch_id: str) -> Turns:
            if batch_id == bad:
                broken.set()
                raise RuntimeError("a fault of ours")
            while True:
                tended.append(batch_id)
                yield 0.01

        monkeypatch.setattr("worker.services.batches.keeper.tend", tend)
        keeper = Keeper(SimpleNamespace(database=database, settings=SimpleNamespace(lease_s=1.0)), lambda: None)  # type: ignore[arg-type]
        keeper.start()
        try:
            assert broken.wait(10)
            wait_until(lambda: len(tended) > 20, "turns of the other one")
        finally:
            keeper.stop()
        assert set(tended) == {good}
        with database.read() as conn:
            assert tending.any_free(conn), "another worker may go on at once"


def test_writers_of_one_batch_count_at_once(database: Database) -> None:
    batch_id = _batch(database, lines_of=120)
    other = _batch(database, lines_of=120)
    claims = _claimed(database, 240)
    parts = [claims[n::6] for n in range(6)]
    threads = [
        threading.Thread(target=lambda part=part: [_settle(database, [c], JobStatus.COMPLETED) for c in part])
        for part in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert _counts(database, batch_id) == _counts(database, other) == Counts(120, 120, 0, 0)


def test_no_line_of_a_stopping_batch_is_claimed_or_called(database: Database) -> None:
    stopping, going = _batch(database, lines_of=5), _batch(database, lines_of=5)
    held = _claimed(database, 2)
    with database.write() as conn:
        assert len(claims.still_ours(conn, held)) == 2
        assert batches.cancel(conn, PROJECT, stopping)
        of_it = set(conn.execute(sa.select(job_table.c.id).where(job_table.c.batch_id == stopping)).scalars())
        assert claims.still_ours(conn, held) == {job_id for job_id, _ in held} - of_it
    more = {job_id for job_id, _ in _claimed(database, 100)}
    with database.read() as conn:
        assert more
        assert more.isdisjoint(of_it)
        rows = conn.execute(sa.select(job_table.c.batch_id).where(job_table.c.id.in_(more))).scalars()
    assert set(rows) == {going}


def test_running_lines_are_asked_to_stop(database: Database) -> None:
    batch_id = _batch(database, lines_of=3)
    claims = _claimed(database, 2)
    with database.write() as conn:
        assert open_lines.stop(conn, batch_id) == 2
        assert sorted(jobs.cancelling(conn, "wrk_1")) == sorted(job_id for job_id, _ in claims)


@pytest.fixture
def kept(database: Database) -> str:
    """A file of three parts."""
    taking = intake.Intake(database, intake.new_id(), 10**9)
    with database.write() as conn:
        files.begin(conn, PROJECT, taking.owner_id, filename="", purpose="")
    taking.write(b"x" * 2_500_000)
    taking.flush()
    with database.write() as conn:
        assert files.get(conn, PROJECT, taking.owner_id) is None
        ready = {"filename": "a", "purpose": "batch", "n_bytes": taking.bytes, "parts": taking.parts, "expires_s": None}
        assert files.ready(conn, taking.owner_id, **ready)  # type: ignore[arg-type]
        assert not files.ready(conn, taking.owner_id, **ready)  # type: ignore[arg-type]
    return taking.owner_id


def _parts(database: Database) -> int:
    with database.read() as conn:
        return conn.execute(sa.select(sa.func.count()).select_from(file_part)).scalar_one()


def test_the_input_of_an_open_batch_is_not_forgotten(database: Database, kept: str) -> None:
    batch_id = _batch(database)
    with database.write() as conn:
        conn.execute(batch_table.update().values(input_file_id=kept))
        assert files.delete(conn, PROJECT, kept)
        assert files.get(conn, PROJECT, kept) is None
        assert not files.delete(conn, PROJECT, kept)
        assert files.prune(conn) == 0
        assert files.input_of(conn, kept).parts == 3
        assert batches.fail(conn, batch_id, "wrk_1", [])
        assert files.prune(conn) == 3
        assert conn.execute(file_table.select()).first() is None
    assert _parts(database) == 0


def test_an_expired_file_is_gone_at_once_and_forgotten_soon(database: Database, kept: str) -> None:
    with database.write() as conn:
        conn.execute(file_table.update().values(expires_at=later(-0.1)))
        assert files.get(conn, PROJECT, kept) is None
        assert files.listed(conn, PROJECT, purpose=None, after=None, limit=5, newest_first=True) == ([], False)
        assert files.prune(conn) == 3
    assert _parts(database) == 0


def test_what_never_became_a_file_is_forgotten_after_two_days(database: Database) -> None:
    taking = intake.Intake(database, intake.new_id(), 10**9)
    with database.write() as conn:
        files.begin(conn, PROJECT, taking.owner_id, filename="", purpose="")
    taking.write(b"x" * 1_200_000)
    with database.write() as conn:
        assert files.prune(conn) == 0
        conn.execute(file_table.update().values(created_at=later(-files.ABANDONED_S - 1)))
        assert files.prune(conn) == 1
    assert _parts(database) == 0


def test_files_that_a_batch_is_writing_are_kept_and_written_anew_where_they_are_gone(database: Database) -> None:
    batch_id = _batch(database, lines_of=3)
    _settle(database, _claimed(database, 3), JobStatus.FAILED)
    deps: Any = SimpleNamespace(database=database, settings=SimpleNamespace(retention_days=30))
    desk = Desk(deps, "wrk_1", lambda: None)
    with database.write() as conn:
        assert batches.finalize(conn, batch_id, "wrk_1")
    drafted = _drafted(desk, desk.look(batch_id))
    with database.write() as conn:
        conn.execute(file_table.update().values(created_at=later(-files.ABANDONED_S - 1)))
        files.prune(conn)
        assert len(conn.execute(file_table.select()).all()) == 2, "two days in which no worker lived"
        conn.execute(file_table.delete())  # as a sweep of an older release
    with pytest.raises(Lost):
        list(write(desk, desk.look(batch_id)))
    anew = desk.look(batch_id)
    assert (anew.output_file_id, anew.written_line, anew.written) == (None, 0, Written())
    list(write(desk, anew))
    with database.read() as conn:
        done = batch_views.get(conn, PROJECT, batch_id)
        assert done is not None
        assert (done.status, done.counts.failed, done.output_file_id) == (BatchStatus.COMPLETED, 3, None)
        assert done.error_file_id not in {None, drafted.error_file_id}
        error = files.get(conn, PROJECT, str(done.error_file_id))
    assert error is not None
    assert b"".join(intake.content(database, error)).count(b"batch_failed") == 3
    assert _parts(database) == error.parts


def test_lines_of_old_batches_are_forgotten_and_the_batch_stays(database: Database) -> None:
    batch_id = _batch(database, lines_of=3)
    with database.write() as conn:
        assert batches.prune(conn, 0.0) == 0, "it is open"
        conn.execute(batch_table.update().values(status="completed"))
        assert batches.prune(conn, 3600.0) == 0
        assert batches.prune(conn, -1.0) == 3
        assert batches.prune(conn, -1.0) == 0
        assert lines.ended(conn, PROJECT, batch_id, 0, 10, 1_000) == []
        assert batch_views.get(conn, PROJECT, batch_id) is not None


def test_answers_are_kept_while_their_batch_is_open(database: Database) -> None:
    batch_id = _batch(database, lines_of=3)
    _settle(database, _claimed(database, 2), JobStatus.COMPLETED)
    with database.write() as conn:
        new_jobs.insert(conn, [NewJob(clock.new_id("job"), PROJECT, "completion", Lane.BATCH, ("default",), {})])
        conn.execute(job_table.update().where(job_table.c.batch_id.is_(None)).values(status="cancelled"))
        conn.execute(job_table.update().where(job_table.c.status != "queued").values(ended_at=later(-2 * 86_400.0)))
    for status, purged in (("in_progress", 1), ("finalizing", 0), ("cancelling", 0), ("completed", 2)):
        with database.write() as conn:
            conn.execute(batch_table.update().where(batch_table.c.id == batch_id).values(status=status))
            assert jobs.purge(conn, 86_400.0) == purged, status


def test_a_batch_is_forgotten_from_the_first_step_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_AT_ONCE", 2)
    batch_id = _batch(database, lines_of=5)
    with database.write() as conn:
        conn.execute(batch_table.update().values(status="completed"))
        for n in (2, 2, 1, 0):
            assert batches.prune(conn, -1.0) == n
            assert [one.forgotten for one in batch_views.family(conn, PROJECT, batch_id)] == [True]
        assert conn.execute(batch_line.select()).first() is None


def test_a_retry_that_is_just_being_made_keeps_the_lines_of_its_family(database: Database) -> None:
    batch_id = _batch(database, lines_of=3)
    with database.write() as conn:
        conn.execute(batch_table.update().values(status="completed"))
    gone: list[int] = []

    def prune() -> None:
        with database.write() as conn:
            gone.append(batches.prune(conn, -1.0))

    thread = threading.Thread(target=prune)
    with database.write() as conn:
        batches.lock_family(conn, batch_id)
        assert not batch_views.family(conn, PROJECT, batch_id)[0].forgotten
        thread.start()
        thread.join(0.3)
        new = NewBatch(clock.new_id("batch"), PROJECT, None, "/v1/chat/completions", "file-1", "24h", 86_400)
        batches.insert(conn, replace(new, retry_of=batch_id, origin_id=batch_id))
    thread.join(30)
    assert gone == [0]


def test_each_of_equal_requests_that_are_repeated_is_given_its_own(database: Database) -> None:
    asked = PROJECT, "batches.create", "f" * 64

    def take(attempt: int, *, of: tuple[str, str, str] = asked) -> str | None:
        with database.write() as conn:
            return idempotency.take(conn, *of, attempt)

    with database.write() as conn:
        for made in ("batch_1", "batch_2"):
            idempotency.note(conn, *asked, 0, made)
        idempotency.note(conn, *asked, 1, "batch_3")  # of a request whose first try never came
    assert take(1, of=("proj_b", *asked[1:])) is None
    assert take(1, of=(*asked[:2], "e" * 64)) is None
    found: list[str | None] = []
    start = threading.Barrier(3, timeout=60)

    def race() -> None:
        start.wait()
        found.append(take(1))

    threads = [threading.Thread(target=race) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found, key=str) == [None, "batch_1", "batch_2"]
    assert take(2) == "batch_3", "the newest whose last answer may be lost"
    with database.write() as conn:
        conn.execute(idempotency_table.update().values(created_at=later(-idempotency.REPEATED_S - 1)))
    assert take(9) is None, "nobody repeats after so long"


@pytest.mark.postgres
def test_statements_on_lines_do_not_scan_the_jobs(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        batch_id = _batch(database, lines_of=5)
        with database.write() as conn:
            conn.execute(
                sa.text("""
                INSERT INTO job (id, project_id, kind, lane, status, version, priority, models, created_at, queued_at,
                                 run_at, attempts, rows, losses, on_interruption, cost_complete, batch_id)
                SELECT 'job_' || lpad(n::text, 26, '0'), 'proj_' || n % 5, 'completion', 'batch', 'completed', 1, 0,
                       '[]', now(), now(), now(), 0, 0, 0, 'retry', true, 'batch_' || n % 10
                FROM generate_series(1, 20000) n""")
            )
        plans: list[str] = []
        with database.write() as conn:
            conn.execute(sa.text("ANALYZE"))

            @sa.event.listens_for(conn, "before_cursor_execute", retval=True)
            def explained(_conn, cursor, statement, parameters, _context, _many):  # type: ignore[no-untyped-def]
                if " job " in statement or "FROM job\n" in statement:
                    cursor.execute("EXPLAIN " + statement, parameters)
                    plans.append("\n".join(row[0] for row in cursor.fetchall()))
                return statement, parameters

            open_lines.any_left(conn, batch_id)
            open_lines.end(conn, batch_id, JobStatus.CANCELLED, 100)
        assert len(plans) >= 2
        for plan in plans[:2]:
            assert "ix_job_batch_open" in plan, plan
            assert "Seq Scan on job" not in plan, plan


def test_a_page_of_ended_lines_is_as_large_as_memory_takes_and_one_line_at_least(database: Database) -> None:
    batch_id = _batch(database, lines_of=6)
    _settle(database, _claimed(database, 6), JobStatus.COMPLETED)
    with database.write() as conn:
        conn.execute(job_result.update().values(body='"' + "x" * 98 + '"'))  # 100 bytes each

    def page(after: int, most: int, most_bytes: int) -> list[int]:
        with database.read() as conn:
            found = lines.ended(conn, PROJECT, batch_id, after, most, most_bytes)
        assert all(job.status is JobStatus.COMPLETED and job.result == "x" * 98 for _, job in found)
        assert [line.job_id for line, _ in found] == [job.id for _, job in found]
        return [line.number for line, _ in found]

    assert page(0, 10, 10_000) == [1, 2, 3, 4, 5, 6]
    assert page(2, 3, 10_000) == [3, 4, 5]
    assert page(1, 10, 300) == [2, 3, 4]
    assert page(4, 10, 50) == [5], "a line that is too large alone"
    with database.write() as conn:
        conn.execute(job_result.update().where(job_result.c.job_id == _job_of(conn, batch_id, 1)).values(body=None))
        conn.execute(job_table.delete().where(job_table.c.id == _job_of(conn, batch_id, 6)))
    with pytest.raises(LookupError, match="line 6 has no job"), database.read() as conn:
        lines.ended(conn, PROJECT, batch_id, 0, 10, 10_000)
    with pytest.raises(LookupError, match="line 1 has no job"), database.read() as conn:
        lines.ended(conn, "proj_b", batch_id, 0, 10, 10_000)


def _job_of(conn: sa.Connection, batch_id: str, line: int) -> str:
    of_it = sa.and_(batch_line.c.batch_id == batch_id, batch_line.c.line == line)
    return str(conn.execute(sa.select(batch_line.c.job_id).where(of_it)).scalar_one())


def test_lines_are_taken_in_as_far_ahead_as_they_end_fast(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s)
    monkeypatch.setattr(take_in, "AHEAD", 3)
    monkeypatch.setattr(take_in, "AHEAD_MOST", 12)
    batch_id = _batch(database, lines_of=20)
    lead = take_in._Lead(Desk(SimpleNamespace(database=database), "wrk_1", lambda: None), batch_id)  # type: ignore[arg-type]
    assert lead.enough(3), "nobody knows yet how fast they end"
    assert not lead.enough(2)
    _settle(database, _claimed(database, 8), JobStatus.COMPLETED)
    now_s = 4.0  # two a second: ten in five seconds
    assert lead.enough(18)
    assert not lead.enough(17)
    _settle(database, _claimed(database, 8), JobStatus.COMPLETED)
    assert not lead.enough(25), "within a second it is the rate of before"
    now_s = 5.0  # eight a second, but that is too many
    assert lead.enough(28)
    assert not lead.enough(27)
