"""A batch whose window ends soon goes first within its project, as far as it must, and no further.

Time is moved in the rows: a tick of ten seconds passes when every window has become so much shorter.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from tests.support import scripted_provider as script
from tests.support.batches import both, jsonl, line, made, until
from tests.support.scripted_provider import ScriptedProvider
from tests.support.web import web
from worker import clock
from worker.domain.batch import NewBatch
from worker.domain.failure import Lane
from worker.domain.job import Ending, NewJob
from worker.domain.ramp import URGENT
from worker.domain.state import JobStatus
from worker.services.batches.desk import Desk
from worker.services.batches.hurry import Hurry
from worker.store import batches, claims, lines, new_jobs, settling, tending, urgent
from worker.store.backlog import look
from worker.store.batch_tables import batch as batch_table
from worker.store.database import Database
from worker.store.moment import later
from worker.store.settling import Settle
from worker.store.tables import job as job_table

TICK_S = 10.0
OWNER = "wrk_1"


class Fleet:
    """Workers that end `pace` lines in a tick, taken as workers take them, while keepers look after every batch."""

    def __init__(self, database: Database, pace: int) -> None:
        self.database = database
        self.pace = pace
        self.ended: dict[str, list[int]] = {}  # by batch, in which tick each line ended
        self.hurries: dict[str, Hurry] = {}
        self.desk: Any = Desk(SimpleNamespace(database=database), OWNER, lambda: None)  # type: ignore[arg-type]
        self.ticks = 0

    def batch(self, n: int, window_s: int, *, project: str = "proj_a", priority: int = 0) -> str:
        batch_id = clock.new_id("batch")
        new = [
            NewJob(
                clock.new_id("job"),
                project,
                "completion",
                Lane.BATCH,
                ("default",),
                {},
                priority=priority,
                batch_id=batch_id,
                deadline_s=float(window_s),
            )
            for _ in range(n)
        ]
        asked = NewBatch(batch_id, project, None, "/v1/responses", "file-1", "24h", window_s, priority=priority)
        with self.database.write() as conn:
            batches.insert(conn, asked)
            tending.take(conn, OWNER, 86_400.0, 10)
            assert batches.begin(conn, batch_id, OWNER, total=n, model=None)
            assert batches.took(conn, batch_id, OWNER, after=0, line=n, n=n)
            new_jobs.insert(conn, new)
            lines.insert(conn, batch_id, [lines.Line(k, job.id, f'"{k}"') for k, job in enumerate(new, 1)])
        self.ended[batch_id] = []
        self.hurries[batch_id] = Hurry(self.desk)
        return batch_id

    def tick(self, *, hurried: bool = True) -> None:
        self.ticks += 1
        with self.database.write() as conn:
            for row in conn.execute(sa.select(batch_table)).all():
                by = timedelta(seconds=TICK_S)
                moved = {"created_at": row.created_at - by, "expires_at": row.expires_at - by}
                conn.execute(batch_table.update().where(batch_table.c.id == row.id).values(moved))
        if hurried:
            for batch_id, hurry in self.hurries.items():
                found = self.desk.look(batch_id)
                if found.remaining_s > 0:
                    hurry.push(found)
        with self.database.write() as conn:
            taken = claims.claim_block(conn, Lane.BATCH, self.pace, worker_id=OWNER, claim_id=clock.new_id("clm"))
            done = Ending(JobStatus.COMPLETED, result="{}")
            settling.settle(conn, [Settle(job.id, job.claim_id, done) for job in taken])
            ids = [job.id for job in taken]
            for found in conn.execute(sa.select(job_table.c.batch_id).where(job_table.c.id.in_(ids))):
                self.ended[found.batch_id].append(self.ticks)

    def run(self, ticks: int, *, hurried: bool = True) -> None:
        for _ in range(ticks):
            self.tick(hurried=hurried)


@pytest.mark.parametrize("hurried", [False, True])
def test_what_is_due_soon_ends_in_time_behind_a_long_queue_of_its_own_project(
    database: Database, hurried: bool
) -> None:
    """Ten minutes are 60 ticks of five lines: a third of them is enough for the one, if it gets them."""
    fleet = Fleet(database, pace=5)
    long = fleet.batch(600, 86_400)
    soon = fleet.batch(100, 600)
    fleet.run(60, hurried=hurried)
    if not hurried:
        assert fleet.ended[soon] == [], "a queue goes by age: it would have expired"
        return
    assert len(fleet.ended[soon]) == 100
    assert max(fleet.ended[soon]) < 60 * 0.9, "in time, with some to spare"
    assert len(fleet.ended[long]) == 200, "the other had all the rest"
    shares = [sum(at <= tick for at in fleet.ended[long]) for tick in range(10, 61, 10)]
    assert all(after > before for before, after in zip([0, *shares], shares, strict=False)), "and never stood still"
    with database.read() as conn:
        of_long = sa.select(sa.func.max(job_table.c.priority)).where(job_table.c.batch_id == long)
        assert conn.execute(of_long).scalar_one() == 0, "who keeps to its plan is not touched"


def test_projects_keep_their_parts_whatever_is_due_in_one_of_them(database: Database) -> None:
    fleet = Fleet(database, pace=6)
    other = fleet.batch(300, 86_400, project="proj_b")
    fleet.batch(300, 86_400)
    soon = fleet.batch(400, 600)  # more than its project's half can do
    fleet.run(50)
    assert len(fleet.ended[other]) == 150, "half, to the line"
    assert len(fleet.ended[soon]) >= 100, "most of the other half"


def test_it_goes_before_whoever_has_a_higher_priority_but_not_farther_than_it_must(database: Database) -> None:
    fleet = Fleet(database, pace=5)
    high = fleet.batch(600, 86_400, priority=2)
    low = fleet.batch(60, 600, priority=-2)
    fleet.run(60)
    assert len(fleet.ended[low]) == 60
    assert len(fleet.ended[high]) == 240
    assert fleet.ended[high].count(20) > 0, "the first wait did not make all of it urgent at once"


def test_urgent_lines_are_few_due_and_of_the_batch_lane(database: Database) -> None:
    fleet = Fleet(database, pace=1)
    batch_id = fleet.batch(1_000, 3_600)
    with database.write() as conn:  # some wait for their turn elsewhere
        ids = conn.execute(sa.select(job_table.c.id).order_by(job_table.c.id).limit(50)).scalars().all()
        far = sa.text("'2200-01-01 00:00:00.000000+00:00'")
        conn.execute(job_table.update().where(job_table.c.id.in_(ids)).values(run_at=far))
        interactive = NewJob(clock.new_id("job"), "proj_a", "completion", Lane.INTERACTIVE, ("default",), {})
        new_jobs.insert(conn, [interactive])
    fleet.run(30)  # five minutes with hardly anything done
    with database.read() as conn:
        rows = conn.execute(sa.select(job_table).where(job_table.c.priority == URGENT)).all()
        waiting = [row for row in rows if row.status == "queued"]
        backlog = look(conn, "proj_a", Lane.BATCH, 10_000)
    assert 3 <= len(waiting) <= 5, "ten seconds' worth of what is left of the plan"
    assert {row.batch_id for row in rows} == {batch_id}
    assert not {row.id for row in rows} & {*ids, interactive.id}
    assert backlog.waiting == 970, "they are in the queue as before"
    with database.write() as conn:
        assert urgent.count(conn, "proj_a", batch_id, 2) == 2
        (first,) = claims.claim_block(conn, Lane.INTERACTIVE, 5, worker_id=OWNER, claim_id="clm_x")
        assert first.id == interactive.id


def test_a_batch_that_keeps_to_its_plan_costs_one_look_and_claims_cost_no_more(database: Database) -> None:
    fleet = Fleet(database, pace=5)
    batch_id = fleet.batch(100, 86_400)
    sent: list[str] = []

    def catch(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    def statements(work: Any) -> int:
        sent.clear()
        event.listen(database._engine, "before_cursor_execute", catch)
        work()
        event.remove(database._engine, "before_cursor_execute", catch)
        return len([one for one in sent if one.startswith(("SELECT", "UPDATE", "WITH", "INSERT"))])

    def claim() -> None:
        with database.write() as conn:
            claims.claim_block(conn, Lane.BATCH, 2, worker_id=OWNER, claim_id="clm")

    tended = fleet.desk.look(batch_id)
    assert statements(lambda: fleet.hurries[batch_id].push(tended)) == 1
    before = statements(claim)
    with database.write() as conn:
        assert urgent.hurry(conn, batch_id, 50) == 50
        assert urgent.hurry(conn, batch_id, 1_000) == 48, "those that are urgent, and those that run, are left alone"
    assert statements(claim) == before


def test_real_workers_do_what_is_due_first(sqlite_url: str, tmp_path: Path) -> None:
    with (
        ScriptedProvider() as provider,
        web(sqlite_url, tmp_path, provider, SLOTS="2", COMPLETAR_LOG_LEVEL="error") as site,
        site.working(),
        site.served() as served,
        openai.OpenAI(base_url=f"{served}/v1", api_key=site.key) as client,
    ):
        provider.always(script.chat("x", delay_s=0.05))
        long = made(client, jsonl(line(k) for k in range(2_000)))
        until(client, long.id, "in_progress")
        soon = made(client, jsonl(line(k) for k in range(20)), completion_window="1h")
        until(client, soon.id, "in_progress")
        with site.deps.database.write() as conn:  # ten minutes are left of its hour, so all of it is late
            mine = batch_table.c.id == soon.id
            conn.execute(batch_table.update().where(mine).values(created_at=later(-3_000.0), expires_at=later(600.0)))
        done = until(client, soon.id)
        assert (done.status, done.request_counts.completed) == ("completed", 20)
        assert len(both(client, done)[0]) == 20
        behind = client.batches.retrieve(long.id)
        assert behind.status == "in_progress"
        assert 0 < behind.request_counts.completed < 1_000
