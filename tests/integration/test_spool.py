"""Answers on disk: exact, private, bounded, replayed once, and never the end of a worker."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_writer import claimed, done, look, row
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.job import AttemptRow, Ending, Return, Served
from worker.domain.money import Usage
from worker.domain.state import AttemptState, JobStatus
from worker.engine import writer as writing
from worker.engine.entry import Entry
from worker.engine.replay import replay
from worker.engine.spool import TAKEN_S, Full, Spool
from worker.engine.writer import Closing, Spooled, Writer, store
from worker.store import attempts
from worker.store.database import Database, Unavailable
from worker.store.settling import Settle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def full_entry() -> Entry:
    """With something in every field, and text that breaks careless encoders."""
    call = row_of(
        state=AttemptState.FAILED,
        kind=FailureKind.BAD_OUTPUT,
        reason="\ud800 and \x00",
        usage=Usage(1, 2, 3, 4),
        cost_nano=5,
    )
    failure = Failure(FailureKind.POISON, "\udfff why", usage=Usage(9), wait_s=1.5)
    end = Ending(JobStatus.FAILED, error=failure, provider="p", served=Served("p", "P", "m"))
    move = Settle("job_1", "clm_1", end, calls=2, rows=3, usage=Usage(7), cost_nano=8, cost_complete=False)
    return Entry("job_1", "clm_1", begin=(call,), close=(call,), settle=move, budget_key="key_1")


def row_of(**more: Any) -> AttemptRow:
    fields: dict[str, Any] = {"state": AttemptState.SENT, "target": "a/m", "provider": "a", "model": "m", **more}
    return AttemptRow("att_1", "job_1", "clm_1", 1, **fields)


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


def test_what_comes_out_is_what_went_in(folder: Path) -> None:
    back = Entry("job_2", "clm_2", settle=Settle("job_2", "clm_2", Return(2.5)))
    parked = Entry("job_3", "clm_3", settle=Settle("job_3", "clm_3", Return(2.5, parked_for="psu_1")))
    Spool(folder).keep([full_entry(), back, parked])
    ((_, entries),) = list(Spool(folder).take())
    assert entries == [full_entry(), back, parked]


def test_a_file_written_before_returns_had_marks_is_read(folder: Path) -> None:
    Spool(folder).keep([Entry("job_2", "clm_2", settle=Settle("job_2", "clm_2", Return(2.5)))])
    (file,) = files(folder, ".jsonl")
    head, _, body = file.read_bytes().partition(b"\n")
    older = json.loads(body)
    del older["settle"]["to"]["parked_for"]
    body = json.dumps(older).encode() + b"\n"
    file.write_bytes(
        json.dumps({**json.loads(head), "sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n" + body
    )
    ((_, (entry,)),) = list(Spool(folder).take())
    assert entry.settle is not None
    assert entry.settle.to == Return(2.5)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_only_its_owner_can_read_it(folder: Path) -> None:
    Spool(folder).keep([full_entry()])
    (file,) = files(folder, ".jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_it_is_bounded_and_says_so(folder: Path) -> None:
    Spool(folder).keep([full_entry()])
    size = sum(file.stat().st_size for file in folder.iterdir())
    spool = Spool(folder, max_bytes=int(2.5 * size))
    spool.keep([full_entry()])
    with pytest.raises(Full, match=f"of {int(2.5 * size)}"):
        spool.keep([full_entry()])
    assert len(list(folder.iterdir())) == 2


def test_two_processes_never_take_the_same_file(folder: Path) -> None:
    first, second = Spool(folder), Spool(folder)
    for _ in range(4):
        first.keep([full_entry()])
    a, b = first.take(), second.take()
    taken = [path.name.partition(".")[0] for _ in range(2) for path, _ in (next(a), next(b))]
    assert len(set(taken)) == 4
    assert list(first.take()) == []
    assert len(files(folder, ".taken")) == 4


def test_a_file_whose_taker_died_is_taken_again(folder: Path) -> None:
    Spool(folder).keep([full_entry()])
    ((taken, _),) = list(Spool(folder).take())
    assert list(Spool(folder).take()) == []
    long_ago = time.time() - 2 * TAKEN_S
    os.utime(taken, (long_ago, long_ago))
    assert len(list(Spool(folder).take())) == 1


@pytest.mark.parametrize("cut", [0, 10, 200, -5])
def test_a_corrupt_file_is_set_aside_and_nothing_else_suffers(folder: Path, cut: int) -> None:
    spool = Spool(folder)
    spool.keep([full_entry()])
    (file,) = files(folder, ".jsonl")
    file.write_bytes(file.read_bytes()[:cut])
    spool.keep([full_entry()])
    assert len(list(spool.take())) == 1
    assert len(files(folder, ".bad")) == 1


def test_a_file_of_another_release_or_of_nobody_is_set_aside(folder: Path) -> None:
    spool = Spool(folder)
    spool.keep([full_entry()])
    (file,) = files(folder, ".jsonl")
    head, _, body = file.read_bytes().partition(b"\n")
    file.write_bytes(json.dumps({**json.loads(head), "completar_spool": 99}).encode() + b"\n" + body)
    (folder / "stray.jsonl").write_bytes(b"\xff\xfe\x00")
    assert list(spool.take()) == []
    assert len(files(folder, ".bad")) == 2


# -- with a database ----------------------------------------------------------------------------------------------


def paid(database: Database) -> tuple[Any, Entry]:
    (job,) = claimed(database, 1)
    sent = row(job)
    with database.write() as conn:
        store(conn, [Entry(job.id, job.claim_id, begin=[sent])])
    return job, done(job, '{"text":"paid"}', close=[replace(sent, state=AttemptState.ANSWERED, cost_nano=3)])


def test_a_replay_ends_the_job_and_a_second_one_changes_nothing(database: Database, folder: Path) -> None:
    job, entry = paid(database)
    spool = Spool(folder)
    for _ in range(2):
        spool.keep([entry])
        assert replay(database, spool) == 1
        view, states = look(database, job)
        assert (view.status, view.result, view.version) == (JobStatus.COMPLETED, {"text": "paid"}, 3)
        assert states == [AttemptState.ANSWERED]
    assert list(folder.iterdir()) == []


def test_what_the_database_refuses_is_set_aside_and_the_rest_is_written(database: Database, folder: Path) -> None:
    job, entry = paid(database)
    spool = Spool(folder)
    bad = Entry("job_x", "clm_x", begin=[row_of(state=AttemptState.SKIPPED, target=None)])
    spool.keep([bad, entry])
    assert replay(database, spool) == 1
    assert look(database, job)[0].status is JobStatus.COMPLETED
    assert [file.suffix for file in folder.iterdir()] == [".bad"]


def test_while_the_database_is_away_files_wait_on(database: Database, folder: Path) -> None:
    job, entry = paid(database)
    spool = Spool(folder)
    spool.keep([entry])
    with away(database), pytest.raises(Unavailable):
        replay(database, spool)
    assert len(files(folder, ".jsonl")) == 1
    assert replay(database, spool) == 1
    assert look(database, job)[0].status is JobStatus.COMPLETED


@contextmanager
def away(database: Database) -> Iterator[None]:
    write = database.write

    def refuse(**_kw: Any) -> Any:
        raise Unavailable("away")

    database.write = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        database.write = write  # type: ignore[method-assign]


def test_after_a_while_answers_go_to_disk_marks_wait_and_the_way_back_is_found(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HOLD_S", 0.2)
    pairs = [paid(database) for _ in range(4)]
    (other,) = claimed(database, 1)
    mark = Entry(other.id, other.claim_id, begin=[row(other)])

    async def play() -> list[Any]:
        writer = Writer(database, asyncio.get_running_loop(), Spool(folder))
        try:
            with away(database):
                waiting = writer.write(mark, urgent=True)
                early = [writer.write(entry, urgent=True) for _, entry in pairs[:2]]
                outcomes = list(await asyncio.gather(*early, return_exceptions=True))
                late = [writer.write(entry, urgent=False) for _, entry in pairs[2:]]
                outcomes += await asyncio.gather(*late, return_exceptions=True)
                assert not waiting.done()
            outcomes.append(await waiting)
            writer.returned()
            return outcomes
        finally:
            await asyncio.to_thread(writer.close)

    outcomes = asyncio.run(play())
    assert [type(outcome) for outcome in outcomes] == [Spooled] * 4 + [bool]
    assert replay(database, Spool(folder)) == 4
    assert {look(database, job)[0].status for job, _ in pairs} == {JobStatus.COMPLETED}


def test_at_the_end_answers_go_to_disk_and_a_call_that_was_not_made_does_not(database: Database, folder: Path) -> None:
    job, entry = paid(database)
    (other,) = claimed(database, 1)
    mark = Entry(other.id, other.claim_id, begin=[row(other)])

    async def play() -> list[Any]:
        writer = Writer(database, asyncio.get_running_loop(), Spool(folder))
        writes = [writer.write(entry, urgent=False), writer.write(mark, urgent=False)]
        await asyncio.to_thread(writer.close)
        return list(await asyncio.gather(*writes, return_exceptions=True))

    with away(database):
        outcomes = asyncio.run(play())
    assert [type(outcome) for outcome in outcomes] == [Spooled, Closing]
    assert replay(database, Spool(folder)) == 1
    assert look(database, job)[0].result == {"text": "paid"}
    with database.read() as conn:
        assert attempts.of_jobs(conn, [other.id])[other.id] == []


def test_a_folder_that_cannot_be_made_loses_nothing_while_the_process_lives(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HOLD_S", 0.1)
    folder.write_text("a file is in the way")
    job, entry = paid(database)

    async def play() -> Any:
        writer = Writer(database, asyncio.get_running_loop(), Spool(folder))
        try:
            with away(database):
                write = writer.write(entry, urgent=True)
                done, _ = await asyncio.wait([write], timeout=0.6)
                assert not done
            return await write
        finally:
            await asyncio.to_thread(writer.close)

    assert asyncio.run(play()) is True
    assert look(database, job)[0].status is JobStatus.COMPLETED
