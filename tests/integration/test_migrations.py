"""The tables of the code and those that the migrations make are the same, and old databases come along."""

from __future__ import annotations

from contextlib import closing
from typing import Final

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from worker.domain.failure import Lane
from worker.store import claims, keys, migrate, orphans, views, workers
from worker.store.database import Database, Unavailable
from worker.store.schema import metadata

# As release 0001 wrote them: with every column it knew, and no other.
_NOW: Final = {"postgresql": "now()", "sqlite": "1795302000000000"}
_OLD_ROWS: Final = {
    "api_key": "(id, project_id, name, hint, digest, scopes, created_at) VALUES ('key_{n}', 'proj_a', 'old', 'ck_1234',"
    " 'digest_{n}', 'jobs:read', {now})",
    "job": "(id, project_id, kind, lane, status, version, priority, models, created_at, queued_at, run_at, attempts,"
    " rows, losses, on_interruption, cost_complete) VALUES ('job_{n}', 'proj_a', 'completion', 'batch', 'queued', 1, 0,"
    " '[\"default\"]', {now}, {now}, {now}, 0, 0, 0, 'retry', true)",
    "job_input": "(job_id, body, metadata) VALUES ('job_{n}', '{{}}', '{{}}')",
    "attempt": "(job_id, id, claim_id, number, state, target, provider, model, sent_at) VALUES ('job_{n}', 'att_{n}',"
    " 'clm_1', 1, 'sent', 'a/m', 'a', 'm', {now})",
}


def _as_release_0001_writes(database: Database, n: int) -> None:
    with database.write() as conn:
        for table, row in _OLD_ROWS.items():
            values = row.format(n=n, now=_NOW[database.dialect])
            conn.exec_driver_sql(f"INSERT INTO {table} {values}")


def test_what_the_migrations_make_is_what_the_code_expects(database: Database) -> None:
    with database.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_a_difference_would_be_seen(database: Database) -> None:
    with database.write() as conn:
        conn.exec_driver_sql("ALTER TABLE job DROP COLUMN max_cost_nano")
    with database.read() as conn:
        (found,) = compare_metadata(MigrationContext.configure(conn), metadata)
    assert found[0] == "add_column"


@pytest.mark.parametrize("change", ["ALTER TABLE worker DROP COLUMN report", "DROP TABLE worker"])
def test_a_database_that_is_behind_is_waited_for(database: Database, change: str) -> None:
    with database.write() as conn:
        conn.exec_driver_sql(change)
    told = "release's schema: `python3 run.py db upgrade`" if database.dialect == "postgresql" else "no such"
    with pytest.raises(Unavailable, match=told), database.write() as conn:
        workers.beat(conn, "wrk_1", {})


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_old_database_comes_along_with_its_rows_and_takes_those_of_the_old_release(
    empty_database_url: str, revision: str
) -> None:
    with closing(Database(empty_database_url)) as database:
        migrate.upgrade(database, revision)
        _as_release_0001_writes(database, 1)
        assert migrate.pending(database)
        migrate.upgrade(database)
        assert not migrate.pending(database)
        _as_release_0001_writes(database, 2)  # web and worker of two releases run side by side
        with database.write() as conn:
            found = keys.listed(conn)
            assert [(key.budget_nano, key.spent_nano, key.held_nano) for key in found] == [(None, 0, 0)] * 2
            claimed = claims.claim_block(conn, Lane.BATCH, 5, worker_id="wrk_1", claim_id="clm_1")
            assert {(job.id, job.max_cost_nano, job.budget_key) for job in claimed} == {
                ("job_1", None, None),
                ("job_2", None, None),
            }
            orphans.take_back(conn, "wrk_1")
            view = views.get(conn, "proj_a", "job_1")
        assert view is not None
        assert (view.attempts, view.max_cost_nano) == (1, None)
