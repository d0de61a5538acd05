"""The hot statements on a big table: each finds its rows by an index, and reads few that it does not want.

The store's own functions are called and the statements they send are caught, then explained: what is tested is what
runs. 200,000 jobs in the suite; `ROWS_IN_PLANS=1000000 pytest tests/integration/test_store_plans.py` for more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from tests.support.postgres import Postgres
from worker.domain.delivery import DeliveryState
from worker.domain.failure import Lane
from worker.domain.job import AttemptRow, Ending, NewJob
from worker.domain.state import AttemptState, JobStatus
from worker.engine import writer
from worker.engine.writer import Entry
from worker.store import (
    attempts,
    backlog,
    claims,
    deliveries,
    delivery_views,
    idempotency,
    jobs,
    keys,
    leases,
    lines,
    new_jobs,
    orphans,
    urgent,
    usage,
    views,
    workers,
)
from worker.store.database import Database
from worker.store.moment import instant
from worker.store.settling import Settle
from worker.store.tables import job
from worker.store.views import Filter

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROWS: Final = int(os.environ.get("ROWS_IN_PLANS", "200000"))
BIG: Final = frozenset(
    {"job", "job_input", "job_result", "attempt", "idempotency", "batch_line", "event", "delivery", "delivery_attempt"}
)
WASTE: Final = 2_000  # rows that a statement may read and throw away, whatever the size of the table
# 20 projects, of which the first has half of all; 5 in 100 queued (a fifth of these parked), 1 in 100 running under 10
# workers, a few of these being cancelled, 4 in 100 failed; a third has a deadline that lies ahead. Made in 25 days.
# What has ended of the last project is forgotten.
_SEED: Final = """
INSERT INTO job (id, project_id, kind, lane, status, version, priority, models, created_at, queued_at, run_at,
                 started_at, ended_at, deadline_at, claim_id, worker_id, attempts, rows, losses, on_interruption,
                 cost_complete, batch_id, error_kind)
SELECT 'job_' || lpad(n::text, 26, '0'),
       'proj_' || lpad((CASE WHEN n % 2 = 0 THEN 0 ELSE n / 2 % 20 END)::text, 2, '0'),
       CASE WHEN n % 9 = 0 THEN 'embedding' ELSE 'completion' END,
       CASE WHEN n % 3 = 0 THEN 'interactive' ELSE 'batch' END,
       s.status, 3, n / 7 % 3, '["default"]', made, made,
       CASE WHEN n % 5 = 1 THEN now() + interval '1 hour' ELSE made END,
       CASE WHEN s.status = 'queued' THEN NULL ELSE made END,
       CASE WHEN s.status IN ('queued', 'in_progress', 'cancelling') THEN NULL ELSE made + interval '9 s' END,
       CASE WHEN n % 3 = 0 THEN now() + interval '1 day' END,
       CASE WHEN s.status IN ('in_progress', 'cancelling') THEN 'clm_' || n END,
       CASE WHEN s.status IN ('in_progress', 'cancelling') THEN 'wrk_' || n / 100 % 10 END,
       1, 1, 0, 'retry', true,
       CASE WHEN n % 3 = 1 THEN 'batch_' || n / 5000 END,
       CASE WHEN s.status = 'failed' THEN 'timeout' END
FROM generate_series(1, {rows}) n
CROSS JOIN LATERAL (SELECT now() - interval '25 days' * (1 - n::float / {rows}) AS made) t
CROSS JOIN LATERAL (SELECT abs(hashtext(n::text)) % 1000 AS draw) d
CROSS JOIN LATERAL (SELECT CASE WHEN draw < 50 THEN 'queued'
                                WHEN draw < 59 THEN 'in_progress'
                                WHEN draw < 60 THEN 'cancelling'
                                WHEN draw < 100 THEN 'failed'
                                ELSE 'completed' END AS status) s;
UPDATE job SET purged_at = now() WHERE project_id = 'proj_19' AND ended_at IS NOT NULL;
INSERT INTO job_input SELECT id, '{{"input":{{"prompt":"p"}},"output_schema":null}}', '{{}}' FROM job;
INSERT INTO job_result SELECT id, '{{"text":"x"}}', NULL FROM job WHERE ended_at IS NOT NULL;
INSERT INTO attempt (job_id, id, claim_id, number, state, target, provider, model, sent_at, ended_at, input_tokens,
                     output_tokens, cost_nano)
SELECT id, 'att_' || substr(id, 5), coalesce(claim_id, 'clm'), 1,
       CASE WHEN ended_at IS NULL THEN 'sent' ELSE 'answered' END,
       'a/m', 'a', 'm', started_at, ended_at, 10, 5, 7
FROM job WHERE started_at IS NOT NULL;
INSERT INTO idempotency
SELECT project_id, 'jobs', id, 'f', '[]', now() - interval '23 hours' * random()
FROM job WHERE id > 'job_' || lpad(({rows} / 2)::text, 26, '0');
INSERT INTO batch_line (batch_id, line, job_id, custom_id)
SELECT 'batch_large', row_number() OVER (ORDER BY id), id, '"c"'
FROM job WHERE status = 'completed' AND project_id = 'proj_00';
INSERT INTO event SELECT 'evt_' || substr(id, 5), project_id, 'job.completed', id, '{{}}', NULL, ended_at FROM job
WHERE ended_at IS NOT NULL;
INSERT INTO delivery (id, project_id, endpoint_id, event_id, object_id, tries, attempts, trigger, due_at, created_at,
                      state, ended_at, claim_id, worker_id)
SELECT 'whd_' || substr(id, 5), project_id, 'we_a', id, object_id, 1, 1, 'auto', created_at, created_at,
       CASE WHEN open THEN 'sending' ELSE 'delivered' END, CASE WHEN open THEN NULL ELSE created_at END,
       CASE WHEN open THEN 'clm' END, CASE WHEN open THEN 'wrk_1' END
FROM event CROSS JOIN LATERAL (SELECT id LIKE '%777' AS open) o;
INSERT INTO delivery_attempt (delivery_id, number, trigger, scheduled_at, started_at, signed_with)
SELECT id, 1, 'auto', due_at, due_at, 'k' FROM delivery;
INSERT INTO worker SELECT 'wrk_' || n, 'h', n, 'batch', '1', now(), now(), NULL, '{{}}' FROM generate_series(0, 9) n;
"""


@pytest.fixture(scope="module")
def big(postgres: Postgres, migrate: Callable[[str], None]) -> Iterator[Database]:
    url = postgres.migrate_once(migrate).fresh()
    with closing(Database(url)) as database:
        with database.write() as conn:
            conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
            for statement in _SEED.format(rows=ROWS).split(";\n"):
                if statement.strip():
                    conn.exec_driver_sql(statement.replace("%", "%%"))
        with database.read() as conn:
            conn.exec_driver_sql("VACUUM ANALYZE")
        yield database
    postgres.drop(url)


def _job(n: int) -> str:
    return "job_" + str(n).zfill(26)


@dataclass(frozen=True)
class Open:
    """Ids of jobs: some that wait, and some that run (with their claims)."""

    queued: list[str]
    running: list[tuple[str, str]]

    def mark(self) -> list[Entry]:
        rows = [
            AttemptRow(f"att_{n}", job_id, claim_id, 2, AttemptState.SENT, "a/m", "a", "m")
            for n, (job_id, claim_id) in enumerate(self.running)
        ]
        return [Entry(row.job_id, row.claim_id, begin=[row]) for row in rows]

    def end(self) -> list[Entry]:
        rows = [
            AttemptRow("att_" + job_id[4:], job_id, claim_id, 1, AttemptState.ANSWERED, "a/m", "a", "m")
            for job_id, claim_id in self.running
        ]
        done = Ending(JobStatus.COMPLETED, result="{}")
        return [
            Entry(row.job_id, row.claim_id, close=[row], settle=Settle(row.job_id, row.claim_id, done, calls=1, rows=1))
            for row in rows
        ]


@pytest.fixture(scope="module")
def open_jobs(big: Database) -> Open:
    with big.read() as conn:
        queued = sa.select(job.c.id).where(job.c.status == "queued").order_by(job.c.id.desc()).limit(100)
        running = sa.select(job.c.id, job.c.claim_id).where(job.c.status == "in_progress").limit(50)
        return Open(list(conn.execute(queued).scalars()), [tuple(row) for row in conn.execute(running)])


def _days(conn: sa.Connection, _open: Open) -> Any:
    now = instant(conn)
    return usage.report(conn, "proj_05", ["provider"], now.replace(hour=0), now)


Call = Callable[[sa.Connection, Open], Any]
# What is called, and how many rows it may read and throw away.
CALLS: Final[dict[str, tuple[Call, int]]] = {
    "claim_by_ids": (lambda c, o: claims.claim(c, o.queued, worker_id="w", claim_id="c"), WASTE),
    "claim_block": (lambda c, o: claims.claim_block(c, Lane.BATCH, 200, worker_id="w", claim_id="c"), WASTE),
    "claim_block_interactive": (
        lambda c, o: claims.claim_block(c, Lane.INTERACTIVE, 5, worker_id="w", claim_id="c"),
        WASTE,
    ),
    "urgent_lines": (lambda c, o: urgent.count(c, "proj_00", "batch_7", 2_000), WASTE),
    "hurry_lines": (lambda c, o: urgent.hurry(c, "batch_7", 2_000), WASTE),
    "mark": (lambda c, o: writer.store(c, o.mark()), WASTE),
    "settle": (lambda c, o: writer.store(c, o.end()), WASTE),
    "history": (lambda c, o: attempts.of_jobs(c, [job_id for job_id, _ in o.running]), WASTE),
    "cancel": (lambda c, o: jobs.cancel(c, "proj_00", o.queued[0]), WASTE),
    "cancelling": (lambda c, o: jobs.cancelling(c, "wrk_1"), ROWS // 100),
    "dead_holders": (lambda c, o: workers.dead_holders(c), ROWS // 100),
    "take_back": (lambda c, o: orphans.take_back(c, "wrk_nobody"), WASTE),
    "expire": (lambda c, o: jobs.expire(c), WASTE),
    "purge": (lambda c, o: jobs.purge(c, 30 * 86400.0), WASTE),
    "purge_some": (lambda c, o: jobs.purge(c, 24 * 86400.0), WASTE),
    "purge_deliveries": (lambda c, o: deliveries.purge(c, 30 * 86400.0), WASTE),
    "purge_some_deliveries": (lambda c, o: deliveries.purge(c, 24 * 86400.0), WASTE),
    "claimed_deliveries": (lambda c, o: deliveries.claimed(c, "wrk_1"), WASTE),
    "ended_per_s": (lambda c, o: backlog.ended_per_s(c, "proj_00", Lane.BATCH), WASTE),
    "recent_s": (lambda c, o: usage.recent_s(c, "a/n"), ROWS // 100),
    "idempotency_find": (lambda c, o: idempotency.find(c, "proj_00", "jobs", _job(ROWS)), WASTE),
    "idempotency_remember": (lambda c, o: idempotency.remember(c, "proj_00", "jobs", "new", "f", []), WASTE),
    "idempotency_prune": (lambda c, o: idempotency.prune(c), WASTE),
    "key": (lambda c, o: keys.find(c, "ck_unknown"), WASTE),
    "get": (lambda c, o: views.get(c, "proj_00", _job(ROWS // 2)), WASTE),
    "many": (lambda c, o: views.many(c, "proj_00", o.queued), WASTE),
    "versions": (lambda c, o: views.versions(c, o.queued), WASTE),
    "list": (lambda c, o: views.listed(c, "proj_05", Filter()), WASTE),
    "list_next_page": (lambda c, o: views.listed(c, "proj_00", Filter(after=_job(ROWS // 2))), WASTE),
    "list_kind": (lambda c, o: views.listed(c, "proj_00", Filter(kind="embedding")), WASTE),
    "list_batch": (lambda c, o: views.listed(c, "proj_00", Filter(batch_id="batch_7")), 5_000),
    "list_failed": (lambda c, o: views.listed(c, "proj_05", Filter(status=JobStatus.FAILED)), WASTE),
    "list_expired": (lambda c, o: views.listed(c, "proj_00", Filter(status=JobStatus.EXPIRED)), WASTE),
    "list_cancelling": (lambda c, o: views.listed(c, "proj_19", Filter(status=JobStatus.CANCELLING)), WASTE),
    "list_to_the_end": (lambda c, o: views.listed(c, "proj_19", Filter(limit=ROWS)), WASTE),
    "list_since": (lambda c, o: views.listed(c, "proj_00", Filter(created_after=instant(c))), WASTE),
    "list_exhausted_deliveries": (
        lambda c, o: delivery_views.listed(c, "proj_00", delivery_views.Filter(state=DeliveryState.EXHAUSTED)),
        WASTE,
    ),
    "lines_to_write": (lambda c, o: lines.ended(c, "proj_00", "batch_large", 5_000, 1_000, 4_000_000), WASTE),
    "usage_of_today": (_days, ROWS // 10),
}


@dataclass(frozen=True)
class Plan:
    nodes: list[dict[str, Any]]

    @property
    def scans(self) -> set[str]:
        """Big tables that are read from end to end."""
        return {n["Relation Name"] for n in self.nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] in BIG}

    @property
    def read(self) -> int:
        """Rows that came out of big tables, wanted or not."""
        return sum(int(n["Actual Rows"] * n["Actual Loops"]) for n in self.nodes if n.get("Relation Name") in BIG)

    @property
    def wasted(self) -> int:
        return sum(int(n.get("Rows Removed by Filter", 0) * n["Actual Loops"]) for n in self.nodes)


def _plans(database: Database, call: Callable[[sa.Connection], Any]) -> tuple[list[tuple[str, Plan]], float]:
    """The plans of all that a call sends, and how long it took. Nothing of it stays."""
    sent: list[tuple[str, Any]] = []

    def catch(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        sent.append((statement, parameters))

    def undone(work: Callable[[sa.Connection], Any]) -> None:
        with suppress(_Undone), database.write() as conn:
            work(conn)
            raise _Undone

    def caught(conn: sa.Connection) -> None:
        event.listen(conn, "before_cursor_execute", catch)
        call(conn)
        event.remove(conn, "before_cursor_execute", catch)

    began = time.perf_counter()
    undone(caught)
    took = time.perf_counter() - began
    plans: list[tuple[str, Plan]] = []

    def explained(conn: sa.Connection) -> None:
        for statement, parameters in sent:
            if not statement.startswith(("SAVEPOINT", "RELEASE")):
                parameters = parameters[0] if isinstance(parameters, list) else parameters  # noqa: PLW2901 - of many
                (found,) = conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
                plans.append((statement, Plan(list(_nodes(found["Plan"])))))

    undone(explained)
    return plans, took


class _Undone(Exception):
    pass


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


@pytest.mark.parametrize("name", CALLS)
def test_a_hot_statement_reads_what_it_wants_and_little_else(big: Database, open_jobs: Open, name: str) -> None:
    call, waste = CALLS[name]
    plans, took = _plans(big, lambda conn: call(conn, open_jobs))
    assert plans
    for statement, plan in plans:
        assert not plan.scans, f"{name} reads {plan.scans} from end to end:\n{statement}"
        assert plan.wasted <= waste, f"{name} throws away {plan.wasted} rows:\n{statement}"
    print(f"{name}: {took * 1000:.1f} ms, {sum(plan.wasted for _, plan in plans)} rows thrown away")
    assert took < 2.0


def test_a_backlog_that_the_statistics_do_not_know_of_is_not_read_through(postgres_url: str) -> None:
    """A large batch has just come in. The planner's figures are of the time before: next to nothing is queued."""
    with closing(Database(postgres_url, connections=1)) as database:
        new = [NewJob(_job(n), "proj", "completion", Lane.BATCH, ("m",), {}) for n in range(20_000)]
        with database.write() as conn:
            new_jobs.insert(conn, new)
        with database.write() as conn:
            held = claims.claim_block(conn, Lane.BATCH, 100, worker_id="w", claim_id="c")
            some = Open([one.id for one in new[10_000:10_100]], [(one.id, "c") for one in held])
            assert all(writer.store(conn, some.mark()))
        calls: dict[str, Callable[[sa.Connection], Any]] = {
            "claim_block": lambda c: claims.claim_block(c, Lane.BATCH, 200, worker_id="w", claim_id="d"),
            "claim_by_ids": lambda c: claims.claim(c, some.queued, worker_id="w", claim_id="d"),
            "claim_suspect": lambda c: claims.claim_suspect(c, list(Lane), worker_id="w", claim_id="d"),
            "mark": lambda c: claims.still_ours(c, some.running),
            "settle": lambda c: writer.store(c, some.end()),
        }
        for name, call in calls.items():
            for statement, plan in _plans(database, call)[0]:
                assert plan.read <= WASTE, f"{name} reads {plan.read} rows:\n{statement}"


# -- updates that touch no index ---------------------------------------------------------------------------------


def _updates(database: Database, table: str) -> tuple[int, int]:
    """All updates of a table so far, and those among them that wrote no index entry (HOT)."""
    with database.write() as conn:  # what this session has counted is told at once; others told it when they went idle
        conn.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    with database.read() as conn:
        found = conn.exec_driver_sql(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s", (table,)
        ).one()
    return found.n_tup_upd, found.n_tup_hot_upd


def test_heartbeats_leases_books_and_calls_are_updated_in_place(postgres_url: str) -> None:
    """A beat that wrote an index entry each time would leave a table of ten rows with thousands of dead entries.

    A job's own moves cannot be HOT: the index of due rows, which holds open jobs alone, is about the status.
    """
    with closing(Database(postgres_url, connections=1)) as database:
        with database.write() as conn:
            key, _ = keys.create(conn, "proj", "k", budget_nano=10**12)
            for n in range(10):
                workers.register(conn, worker_id=f"wrk_{n}", host="h", pid=1, lanes=["batch"], release="1")
        for n in range(200):
            new = NewJob(f"job_{n}", "proj", "completion", Lane.BATCH, ("m",), {}, key_id=key.id)
            row = AttemptRow(f"att_{n}", new.id, f"clm_{n}", 1, AttemptState.SENT, "a/m", "a", "m", held_nano=9)
            over = replace(row, state=AttemptState.ANSWERED, reason="r" * 50, cost_nano=7)
            done = Settle(new.id, row.claim_id, Ending(JobStatus.COMPLETED, result="{}"), calls=1, rows=1)
            with database.write() as conn:
                workers.beat(conn, f"wrk_{n % 10}", {"in_flight": {"batch": n}})
                leases.take(conn, "sweep", f"wrk_{n % 10}", -1.0)
                new_jobs.insert(conn, [new])
            with database.write() as conn:
                claims.claim(conn, [new.id], worker_id="wrk_1", claim_id=row.claim_id)
                assert writer.store(conn, [Entry(new.id, row.claim_id, begin=[row], budget_key=key.id)]) == [True]
            with database.write() as conn:
                entry = Entry(new.id, row.claim_id, close=[over], settle=done, budget_key=key.id)
                assert writer.store(conn, [entry]) == [True]
        hot = {}
        for table in ("worker", "lease", "api_key", "attempt", "job"):
            made, in_place = _updates(database, table)
            assert made >= 199
            hot[table] = in_place / made
        print({table: round(share, 3) for table, share in hot.items()})
        assert hot["worker"] > 0.9
        assert hot["lease"] > 0.9
        assert hot["api_key"] > 0.9
        assert hot["attempt"] > 0.8, "the room on its page that the fill factor leaves is for the end of the call"
