"""The group-commit writer: one transaction for many, and no row that takes the others with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.postgres import Postgres
from worker import clock
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Ending, JobView, NewJob
from worker.domain.state import AttemptState, JobStatus
from worker.engine.entry import Entry
from worker.engine.writer import GROUP_CHARS, Closing, Writer, store
from worker.store import attempts, claims, jobs, new_jobs, orphans, views, workers
from worker.store.database import Database
from worker.store.settling import Settle


def claimed(database: Database, n: int) -> list[Claimed]:
    new = [NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("m",), {}) for _ in range(n)]
    with database.write() as conn:
        new_jobs.insert(conn, new)
        return claims.claim(conn, [job.id for job in new], worker_id="wrk", claim_id=clock.new_id("clm"))


def row(job: Claimed, **more: Any) -> AttemptRow:
    fields: dict[str, Any] = {"state": AttemptState.SENT, "target": "a/m", "provider": "a", "model": "m", **more}
    return AttemptRow(clock.new_id("att"), job.id, job.claim_id, 1, **fields)


def done(job: Claimed, result: str = "{}", close: list[AttemptRow] | None = None) -> Entry:
    move = Settle(job.id, job.claim_id, Ending(JobStatus.COMPLETED, result=result), calls=1)
    return Entry(job.id, job.claim_id, close=close or [], settle=move)


def transactions(database: Database) -> list[None]:
    """As many as are begun from now on."""
    begun: list[None] = []
    write = database.write

    def counted() -> Any:
        begun.append(None)
        return write()

    database.write = counted  # type: ignore[method-assign]
    return begun


def on_a_loop(database: Database, play: Callable[[Writer], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        writer = Writer(database, asyncio.get_running_loop())
        try:
            return await play(writer)
        finally:
            await asyncio.to_thread(writer.close)

    return asyncio.run(main())


def test_many_writes_share_transactions_and_each_learns_its_own_outcome(database: Database) -> None:
    held = claimed(database, 300)
    begun = transactions(database)

    async def play(writer: Writer) -> list[bool]:
        stale = Entry("job_nobody", "clm_x", settle=Settle("job_nobody", "clm_x", Ending(JobStatus.COMPLETED)))
        return await asyncio.gather(
            *(writer.write(done(job), urgent=False) for job in held), writer.write(stale, urgent=True)
        )

    outcomes = on_a_loop(database, play)
    assert outcomes == [True] * 300 + [False]
    assert len(begun) <= 10


def test_large_answers_share_a_transaction_with_few(database: Database) -> None:
    """Their texts are put together before they are sent: two hundred of 16 MB would be more than a worker has."""
    held = claimed(database, 6)
    begun = transactions(database)
    large = '"' + "x" * (GROUP_CHARS // 3) + '"'

    async def play(writer: Writer) -> list[bool]:
        return await asyncio.gather(*(writer.write(done(job, large), urgent=False) for job in held))

    assert on_a_loop(database, play) == [True] * 6
    assert len(begun) == 2


def test_what_is_urgent_in_one_turn_of_the_loop_shares_a_transaction(database: Database) -> None:
    held = claimed(database, 5)
    begun = transactions(database)

    async def play(writer: Writer) -> list[bool]:
        return await asyncio.gather(*(writer.write(done(job), urgent=True) for job in held))

    assert on_a_loop(database, play) == [True] * 5
    assert len(begun) == 1


@pytest.mark.postgres
def test_calls_of_one_claim_are_written_together(database: Database) -> None:
    """As the members of panels make them. They went to the database one by one: a thousand panels took ten seconds."""
    held = claimed(database, 4)
    marks = [Entry(job.id, job.claim_id, begin=[replace(row(job), number=n)]) for n in range(1, 6) for job in held]
    over = [
        Entry(
            one.job_id, one.claim_id, close=[replace(one.begin[0], state=AttemptState.FAILED, kind=FailureKind.TIMEOUT)]
        )
        for one in marks
    ]
    sent: list[str] = []

    def catch(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    for entries in (marks, over):
        with database.write() as conn:
            sa.event.listen(conn, "before_cursor_execute", catch)
            assert store(conn, entries) == [entries is marks] * len(entries)
    assert len(sent) <= 4
    with database.read() as conn:
        history = attempts.of_jobs(conn, [job.id for job in held])
    assert [len(rows) for rows in history.values()] == [5] * 4
    assert {past.row.state for rows in history.values() for past in rows} == {AttemptState.FAILED}


def test_an_end_and_a_new_call_of_one_job_are_not_taken_for_one(database: Database) -> None:
    (job,) = claimed(database, 1)
    mark = Entry(job.id, job.claim_id, begin=[row(job)])
    with database.write() as conn:
        assert store(conn, [done(job), mark]) == [True, False]
    with database.read() as conn:
        assert attempts.of_jobs(conn, [job.id]) == {job.id: []}


def test_a_row_the_database_refuses_fails_alone(postgres_url: str) -> None:
    """On Postgres: SQLite stores any value in any column and refuses nothing here."""
    database = Database(postgres_url)
    held = claimed(database, 40)
    bad = held[17]
    broken = done(bad, close=[row(bad, http_status="not a number")])

    async def play(writer: Writer) -> list[Any]:
        entries = [broken if job is bad else done(job) for job in held]
        writes = [writer.write(entry, urgent=False) for entry in entries]
        return await asyncio.gather(*writes, return_exceptions=True)

    with database.write() as conn:
        attempts.begin(conn, [row(bad)])
    outcomes = on_a_loop(database, play)
    assert [i for i, outcome in enumerate(outcomes) if outcome is not True] == [17]
    assert isinstance(outcomes[17], Exception)
    database.close()


def late(database: Database, *, cost: int | None = None) -> tuple[Claimed, Entry]:
    """A call whose claim was taken back before its answer came, and what its worker has to say then."""
    (job,) = claimed(database, 1)
    sent = row(job)
    with database.write() as conn:
        attempts.begin(conn, [sent])
        orphans.take_back(conn, "wrk")
    answered = AttemptRow(**{**_fields(sent), "state": AttemptState.ANSWERED, "cost_nano": cost})
    return job, done(job, '{"text":"late"}', close=[answered])


def again(database: Database, job: Claimed, *, calling: bool) -> Claimed:
    """A newer claim of the job."""
    with database.write() as conn:
        (newer,) = claims.claim(conn, [job.id], worker_id="wrk_2", claim_id=clock.new_id("clm"))
        if calling:
            attempts.begin(conn, [replace(row(newer), number=2)])
    return newer


def look(database: Database, job: Claimed) -> tuple[JobView, list[AttemptState]]:
    with database.read() as conn:
        view = views.get(conn, "proj_a", job.id)
        kept = attempts.of_jobs(conn, [job.id])[job.id]
    assert view is not None
    return view, [one.row.state for one in kept]


def write(database: Database, *entries: Entry, **more: bool) -> list[Any]:
    with database.write() as conn:
        return store(conn, entries, **more)


def test_an_answer_after_a_newer_call_was_sent_is_kept_and_counts_for_nothing(database: Database) -> None:
    job, entry = late(database)
    newer = again(database, job, calling=True)
    assert write(database, entry) == [False]
    view, states = look(database, job)
    assert states == [AttemptState.SUPERSEDED, AttemptState.SENT]
    assert (view.status, view.result) == (JobStatus.IN_PROGRESS, None)
    assert write(database, done(newer, '{"text":"newer"}')) == [True]
    assert look(database, job)[0].result == {"text": "newer"}


@pytest.mark.parametrize("claimed_again", [False, True])
def test_an_answer_after_the_claim_was_lost_is_adopted_while_nobody_asks_again(
    database: Database, claimed_again: bool
) -> None:
    job, entry = late(database, cost=70)
    newer = again(database, job, calling=False) if claimed_again else job
    assert write(database, entry) == [True]
    view, states = look(database, job)
    assert (view.status, view.result, states) == (JobStatus.COMPLETED, {"text": "late"}, [AttemptState.ANSWERED])
    assert (view.attempts, view.cost_nano, view.cost_complete) == (1, 70, True)
    if claimed_again:
        mark = Entry(newer.id, newer.claim_id, begin=[replace(row(newer), number=2)])
        assert write(database, mark) == [False], "the newer claim makes no call"


def test_of_two_late_answers_in_one_transaction_one_is_the_result(database: Database) -> None:
    job, first = late(database)
    newer = again(database, job, calling=False)
    with database.write() as conn:
        second_call = replace(row(newer), number=2)
        attempts.begin(conn, [second_call])
        orphans.take_back(conn, "wrk_2")
    answered = replace(second_call, state=AttemptState.ANSWERED)
    second = done(newer, '{"text":"second"}', close=[answered])
    assert write(database, first, second) == [True, False]
    view, states = look(database, job)
    assert (view.result, states) == ({"text": "late"}, [AttemptState.ANSWERED, AttemptState.SUPERSEDED])


def test_a_job_that_ended_takes_no_late_answer(database: Database) -> None:
    job, entry = late(database)
    with database.write() as conn:
        jobs.cancel(conn, "proj_a", job.id)
    assert write(database, entry) == [False]
    view, states = look(database, job)
    assert (view.status, states) == (JobStatus.CANCELLED, [AttemptState.SUPERSEDED])


def test_what_was_committed_before_the_connection_broke_is_not_written_twice(database: Database) -> None:
    (job,) = claimed(database, 1)
    sent = row(job)
    mark = Entry(job.id, job.claim_id, begin=[sent])
    assert write(database, mark) == [True]
    assert write(database, mark, again=True) == [True], "the mark is there: the call may be made"
    end = done(job, '{"text":"paid"}', close=[replace(sent, state=AttemptState.ANSWERED)])
    assert write(database, end) == [True]
    version = look(database, job)[0].version
    assert write(database, end, again=True) == [True]
    view, states = look(database, job)
    assert (view.version, view.result, states) == (version, {"text": "paid"}, [AttemptState.ANSWERED])


def _fields(attempt: AttemptRow) -> dict[str, Any]:
    return {name: getattr(attempt, name) for name in AttemptRow.__slots__}


@pytest.mark.postgres
def test_writes_wait_for_a_database_that_comes_back(own_postgres: Postgres, migrate: Callable[[str], None]) -> None:
    own_postgres.migrate_once(migrate)
    with closing(Database(own_postgres.fresh())) as database:
        held = claimed(database, 5)
        with database.write() as conn:  # a claim does not wait for the disk; what is committed after it brings it there
            workers.register(conn, worker_id="wrk_2", host="h", pid=1, lanes=[], release="")
        own_postgres.stop("immediate")

        async def play(writer: Writer) -> list[bool]:
            writes = [writer.write(done(job), urgent=False) for job in held]
            await asyncio.to_thread(own_postgres.start)
            return await asyncio.gather(*writes)

        assert on_a_loop(database, play) == [True] * 5


@pytest.mark.postgres
def test_closing_says_what_was_not_written(own_postgres: Postgres, migrate: Callable[[str], None]) -> None:
    own_postgres.migrate_once(migrate)
    with closing(Database(own_postgres.fresh())) as database:
        (job,) = claimed(database, 1)
        own_postgres.stop("immediate")

        async def play(writer: Writer) -> Exception | None:
            write = writer.write(done(job), urgent=False)
            await asyncio.to_thread(writer.close)
            return (await asyncio.gather(write, return_exceptions=True))[0]

        assert isinstance(on_a_loop(database, play), Closing)
