"""Every migration while others use the tables: it gives way at once, nobody waits long behind it, and it gets there."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from tests.support.wait import free_port, wait_until
from worker import events
from worker.store import migrate
from worker.store.database import Database, Unavailable
from worker.store.migrate import Locked, Patience

pytestmark = pytest.mark.postgres

QUICK: Final = Patience(lock_s=0.1, pause_s=0.2, total_s=20.0)
_SCRIPTS: Final = ScriptDirectory.from_config(migrate._config())
REVISIONS: Final = [script.revision for script in _SCRIPTS.walk_revisions()][::-1]
CONCURRENT: Final = """
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index("ix_beside", "job", ["kind"], postgresql_concurrently=True, if_not_exists=True)
"""


@pytest.fixture
def database(empty_postgres_url: str) -> Iterator[Database]:
    with closing(Database(empty_postgres_url)) as opened:
        yield opened


@pytest.fixture
def gave_way(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    seen = threading.Event()
    monkeypatch.setattr(events, "emit", lambda name, **_: seen.set() if name == "migration.waiting" else None)
    return seen


@contextmanager
def using_every_table(database: Database) -> Iterator[None]:
    """A long transaction that has read every table: as a dump does, or somebody's forgotten session."""
    with database.write() as conn:
        for name in sa.inspect(conn).get_table_names():
            if name != "alembic_version":
                conn.exec_driver_sql(f"SELECT count(*) FROM {name}")
        yield


def longest_read_s(database: Database, until: Callable[[], bool]) -> float:
    longest = 0.0
    while not until():
        before = time.monotonic()
        with database.read() as conn:
            for name in ("job", "api_key", "attempt", "project"):
                conn.exec_driver_sql(f"SELECT 1 FROM {name} LIMIT 1")
        longest = max(longest, time.monotonic() - before)
    return longest


@pytest.mark.parametrize(("before", "after"), list(pairwise(REVISIONS)))
def test_it_gives_way_and_gets_there(database: Database, gave_way: threading.Event, before: str, after: str) -> None:
    migrate.upgrade(database, before)
    failed: list[Exception] = []

    def run() -> None:
        try:
            migrate.upgrade(database, after, patience=QUICK)
        except Exception as exc:  # noqa: BLE001 - looked at by the test
            failed.append(exc)

    migrating = threading.Thread(target=run)
    with using_every_table(database):
        migrating.start()
        # One that needs no table for itself (new tables, an index) does not have to give way.
        longest = longest_read_s(database, lambda: gave_way.is_set() or not migrating.is_alive())
        assert longest < 1.0, f"{after} held up others for {longest:.1f} s"
        assert gave_way.is_set() or failed == []
    migrating.join(20)
    assert failed == []
    with database.read() as conn:
        assert conn.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == after


def test_one_that_never_gets_its_turn_says_so_and_changes_nothing(database: Database) -> None:
    migrate.upgrade(database, "0010")  # what comes next adds a column
    with using_every_table(database), pytest.raises(Locked, match="run it again"):
        migrate.upgrade(database, patience=Patience(0.05, 0.05, 0.3))
    assert migrate.pending(database)
    migrate.upgrade(database)
    assert not migrate.pending(database)


def test_two_at_once_make_it_once(database: Database) -> None:
    found: list[Exception] = []

    def run() -> None:
        try:
            migrate.upgrade(database, patience=QUICK)
        except Exception as exc:  # noqa: BLE001 - looked at by the test
            found.append(exc)

    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert found == []
    assert not migrate.pending(database)


def test_an_index_is_built_beside_a_writer(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plain one every insert would wait; this one waits for the transaction, and inserts go on."""
    migrate.upgrade(database)
    scripts = shutil.copytree(migrate._MIGRATIONS, tmp_path / "migrations")
    (scripts / "versions" / "9999_beside.py").write_text(CONCURRENT.format(head=REVISIONS[-1]), encoding="utf-8")
    monkeypatch.setattr(migrate, "_MIGRATIONS", scripts)
    migrating = threading.Thread(target=migrate.upgrade, args=(database,), kwargs={"patience": Patience(10, 0.1, 20)})
    insert = "INSERT INTO project (id, name, created_at) VALUES ('{0}', '{0}', now())"
    update = "UPDATE job SET version = 2"
    with database.write() as conn:
        conn.exec_driver_sql(update)  # a writer of the table in a transaction that is still open
        migrating.start()
        wait_until(lambda: _waiting(database), "the index to wait for the open transaction")
        with database.write() as other:
            other.exec_driver_sql(update)
            other.exec_driver_sql(insert.format("b"))
    migrating.join(20)
    with database.read() as conn:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_beside'::regclass"
        assert conn.exec_driver_sql(valid).scalar_one() is True
        lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert conn.exec_driver_sql(lock).scalar_one() == 0, "the session's own settings and lock are gone with it"


def test_an_index_that_was_cut_short_is_built_again_and_one_that_was_not_stays(database: Database) -> None:
    migrate.upgrade(database, "0015")
    oid = "SELECT indexrelid, indisvalid FROM pg_index WHERE indexrelid = '{0}'::regclass"
    with database.write() as conn:
        conn.exec_driver_sql("CREATE INDEX ix_job_kept ON job (kind)")
        conn.exec_driver_sql("CREATE INDEX ix_job_unanswered ON job (kind)")
        conn.exec_driver_sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_job_kept'::regclass")
        before = [conn.exec_driver_sql(oid.format(name)).one()[0] for name in ("ix_job_kept", "ix_job_unanswered")]
    migrate.upgrade(database)
    with database.read() as conn:
        after = [conn.exec_driver_sql(oid.format(name)).one() for name in ("ix_job_kept", "ix_job_unanswered")]
    assert [valid for _, valid in after] == [True, True]
    assert [old == new for old, (new, _) in zip(before, after, strict=True)] == [False, True]


def _waiting(database: Database) -> bool:
    with database.read() as conn:
        found = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%%' AND wait_event_type = 'Lock'"
        )
        return conn.exec_driver_sql(found).scalar_one() == 1


def test_a_database_of_a_newer_release_is_not_behind(database: Database) -> None:
    """During a deploy the release before runs on: it must neither call itself unready nor refuse `db upgrade`."""
    migrate.upgrade(database)
    with database.write() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9998'")
    assert not migrate.pending(database)
    migrate.upgrade(database)


def test_a_database_that_is_away_is_told_at_once() -> None:
    away = f"postgresql+psycopg://postgres@127.0.0.1:{free_port()}/x"
    with closing(Database(away)) as database, pytest.raises(Unavailable):
        migrate.upgrade(database)
