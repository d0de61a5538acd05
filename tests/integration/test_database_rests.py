"""A connection is tried before it is lent when it has rested, and one that is in use all the time is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa

from worker.store import database as module
from worker.store.database import Database, Unavailable

pytestmark = pytest.mark.postgres


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    with closing(Database(postgres_url, connections=2)) as made:
        yield made


def backend(database: Database) -> int:
    with database.read() as conn:
        return int(conn.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())


def cut(postgres_url: str, pid: int) -> None:
    with closing(Database(postgres_url, connections=1)) as other, other.read() as conn:
        conn.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def test_one_that_has_rested_and_was_cut_is_made_anew(
    database: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTED_S", 0.0)
    first = backend(database)
    cut(postgres_url, first)
    assert backend(database) != first


def test_one_that_was_in_use_a_moment_ago_costs_no_round_trip_more_and_its_loss_is_met_once(
    database: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTED_S", 3600.0)
    first = backend(database)
    assert [backend(database) for _ in range(3)] == [first] * 3
    cut(postgres_url, first)
    with pytest.raises(Unavailable):
        backend(database)
    assert backend(database) != first
