"""The group-commit writer: one transaction for many, and no row that takes the others with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.postgres import Postgres
from worker import clock
from worker.domain.failure import Lane
from worker.domain.job import AttemptRow, Claimed, Ending, NewJob
from worker.domain.state import AttemptState, JobStatus
from worker.engine.writer import Closing, Entry, Writer
from worker.store import attempts, jobs, views
from worker.store.database import Database
from worker.store.jobs import Settle


def claimed(database: Database, n: int) -> list[Claimed]:
    new = [NewJob(clock.new_id("job"), "proj_a", "completion", Lane.BATCH, ("m",), {}) for _ in range(n)]
    with database.write() as conn:
        jobs.insert(conn, new)
        return jobs.claim(conn, [job.id for job in new], worker_id="wrk", claim_id=clock.new_id("clm"))


def row(job: Claimed, **more: Any) -> AttemptRow:
    fields: dict[str, Any] = {"state": AttemptState.SENT, "target": "a/m", "provider": "a", "model": "m", **more}
    return AttemptRow(clock.new_id("att"), job.id, job.claim_id, 1, **fields)


def done(job: Claimed, result: str = "{}", close: list[AttemptRow] | None = None) -> Entry:
    move = Settle(job.id, job.claim_id, Ending(JobStatus.COMPLETED, result=result), calls=1)
    return Entry(job.id, job.claim_id, close=close or [], settle=move)


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
    transactions = 0
    write = database.write

    def counted() -> Any:
        nonlocal transactions
        transactions += 1
        return write()

    database.write = counted  # type: ignore[method-assign]

    async def play(writer: Writer) -> list[bool]:
        stale = Entry("job_nobody", "clm_x", settle=Settle("job_nobody", "clm_x", Ending(JobStatus.COMPLETED)))
        return await asyncio.gather(
            *(writer.write(done(job), urgent=False) for job in held), writer.write(stale, urgent=True)
        )

    outcomes = on_a_loop(database, play)
    assert outcomes == [True] * 300 + [False]
    assert transactions <= 10


@pytest.mark.postgres
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


def test_an_answer_after_the_claim_was_lost_is_kept_and_counts_for_nothing(database: Database) -> None:
    (job,) = claimed(database, 1)
    sent = row(job)
    with database.write() as conn:
        attempts.begin(conn, [sent])
        jobs.take_back(conn, "wrk")

    async def play(writer: Writer) -> bool:
        late = done(job, close=[AttemptRow(**{**_fields(sent), "state": AttemptState.ANSWERED})])
        return await writer.write(late, urgent=False)

    assert on_a_loop(database, play) is False
    with database.read() as conn:
        (kept,) = attempts.of_jobs(conn, [job.id])[job.id]
        view = views.get(conn, "proj_a", job.id)
    assert kept.row.state is AttemptState.SUPERSEDED
    assert view is not None
    assert view.status is JobStatus.QUEUED


def _fields(attempt: AttemptRow) -> dict[str, Any]:
    return {name: getattr(attempt, name) for name in AttemptRow.__slots__}


@pytest.mark.postgres
def test_writes_wait_for_a_database_that_comes_back(own_postgres: Postgres, migrate: Callable[[str], None]) -> None:
    own_postgres.migrate_once(migrate)
    with closing(Database(own_postgres.fresh())) as database:
        held = claimed(database, 5)
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
