"""A database that is there and does not answer: given up on within two seconds, and used again when it thaws."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.postgres import Postgres
from tests.support.wait import wait_until
from tests.support.web import web
from worker.store import pulse
from worker.store.database import Database, Unavailable

pytestmark = pytest.mark.postgres
AT_MOST_S = 2.0


@pytest.fixture
def url(own_postgres: Postgres, migrate: Callable[[str], None]) -> Iterator[str]:
    yield own_postgres.migrate_once(migrate).fresh()
    own_postgres.thaw()


def took_s(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def fails(database: Database) -> None:
    with pytest.raises(Unavailable), database.read() as conn:
        conn.execute(sa.text("SELECT 1"))


def works(database: Database) -> bool:
    try:
        with database.write() as conn:
            return bool(conn.execute(sa.text("SELECT true")).scalar_one())
    except Unavailable:
        return False


@pytest.mark.parametrize("pings", [True, False])
def test_a_frozen_server_is_given_up_soon_and_used_again_when_it_thaws(
    own_postgres: Postgres, url: str, pings: bool
) -> None:
    with closing(Database(url, connections=2, pings=pings)) as database:
        assert works(database)
        own_postgres.freeze()
        assert took_s(lambda: fails(database)) < AT_MOST_S
        assert took_s(lambda: fails(database)) < AT_MOST_S, "and it costs one caller no more than the first"
        many = [threading.Thread(target=fails, args=(database,)) for _ in range(20)]
        began = time.monotonic()
        for one in many:
            one.start()
        for one in many:
            one.join()
        assert time.monotonic() - began < AT_MOST_S, "nor do many wait in a row for the connections"
        own_postgres.thaw()
        wait_until(lambda: works(database), "the database to be used again", 5)


def test_a_connection_is_tried_before_it_is_lent_where_the_server_hung_up_or_it_lay_idle(
    own_postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarted() -> None:
        own_postgres.stop("immediate")
        own_postgres.start()

    with closing(Database(url, connections=2)) as database:
        assert works(database)
        restarted()
        assert works(database), "it was in use a moment ago, and has heard of the end"
        monkeypatch.setattr("worker.store.database._heard", lambda _connection: False)
        restarted()
        assert not works(database), "nobody has heard of it"
        assert works(database)
        restarted()
        later_s = time.monotonic() + 5
        monkeypatch.setattr("worker.store.database.monotonic_s", lambda: later_s)
        assert works(database)


def test_frozen_in_mid_transaction_nothing_is_kept_waiting(own_postgres: Postgres, url: str) -> None:
    with closing(Database(url, connections=1)) as database:

        def freeze_inside() -> None:
            with database.write() as conn:
                conn.execute(sa.text("SELECT 1"))
                own_postgres.freeze()
                conn.execute(sa.text("SELECT 2"))

        began = time.monotonic()
        with pytest.raises(Unavailable):
            freeze_inside()
        assert time.monotonic() - began < AT_MOST_S
        own_postgres.thaw()
        wait_until(lambda: works(database), "the database to be used again", 5)


def test_a_slow_statement_of_a_server_that_answers_goes_on(postgres_url: str) -> None:
    slow_s = 2 * pulse.PATIENCE_S + 0.1
    with closing(Database(postgres_url)) as database, database.read() as conn:
        assert conn.execute(sa.text(f"SELECT pg_sleep({slow_s}), 7")).one()[1] == 7


def test_the_api_answers_503_soon_and_is_ready_again_after_the_thaw(
    own_postgres: Postgres, url: str, tmp_path: Path
) -> None:
    with web(url, tmp_path) as site:
        assert site.get("/v1/jobs").status_code == 200
        own_postgres.freeze()
        for ask in (
            lambda: site.get("/v1/jobs"),
            lambda: site.post("/v1/jobs", {"input": {"prompt": "hi"}}),
            lambda: site.client.get("/readyz"),
        ):
            began = time.monotonic()
            assert ask().status_code == 503
            assert time.monotonic() - began < AT_MOST_S
        own_postgres.thaw()
        wait_until(lambda: site.client.get("/readyz").status_code == 200, "/readyz to answer 200", 5)
        assert site.get("/v1/jobs").json["data"] == []
