"""A database that is there and refuses: what is said of it, and that no work is lost to it."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from api.app import create_app
from tests.e2e.test_cli import Inside
from tests.support.postgres import Postgres
from tests.support.web import web
from worker.store import migrate, workers
from worker.store.database import Database, Unavailable

pytestmark = pytest.mark.postgres


def read_only(postgres: Postgres, url: str, to: str) -> None:
    """As a provider locks a database whose disk is full: for every session that begins from now on."""
    postgres.execute(f"ALTER DATABASE {url.rsplit('/', 1)[1]} SET default_transaction_read_only = {to}")


def write(database: Database) -> None:
    with database.write() as conn:
        workers.register(conn, worker_id="wrk_1", host="h", pid=1, lanes=["batch"], release="1")


def test_one_that_takes_no_writes_is_away_until_it_does(postgres: Postgres, postgres_url: str) -> None:
    read_only(postgres, postgres_url, "on")
    with closing(Database(postgres_url, connections=1)) as database:
        with pytest.raises(Unavailable, match="takes no writes"):
            write(database)
        read_only(postgres, postgres_url, "off")
        write(database)  # on a connection that was made since


def test_one_that_takes_no_writes_is_not_ready(postgres: Postgres, postgres_url: str, tmp_path: Path) -> None:
    with web(postgres_url, tmp_path) as site:
        read_only(postgres, postgres_url, "on")
        site.deps.database._engine.dispose()  # its sessions end with the server that was taken over
        ready = site.client.get("/readyz")
        assert (ready.status_code, ready.json["database"], ready.json["migrations"]) == (503, "read-only", "current")
        assert site.post("/v1/jobs", {"model": "default", "input": {"prompt": "p"}}).status_code == 503


def test_what_is_stored_can_be_read_while_it_takes_no_writes(
    postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    secret = "ck_" + 32 * "x"
    with web(postgres_url, tmp_path, COMPLETAR_API_KEY=secret) as site:
        auth = {"Authorization": f"Bearer {secret}"}
        assert site.client.get("/v1/jobs", headers=auth).status_code == 200
        read_only(postgres, postgres_url, "on")
        site.deps.database._engine.dispose()
        again = create_app(site.deps).test_client()  # as a process that starts meanwhile
        assert again.get("/v1/jobs", headers=auth).status_code == 200


def test_doctor_says_that_it_takes_no_writes(postgres: Postgres, postgres_url: str, tmp_path: Path) -> None:
    read_only(postgres, postgres_url, "on")
    told = Inside(tmp_path, DATABASE_URL=postgres_url, GROQ_API_KEY="k")("doctor", code=4).stdout
    assert re.search(r"^fault +database +Postgres takes no writes", told, re.MULTILINE)


@pytest.fixture
def poor_url(postgres: Postgres, empty_postgres_url: str) -> Iterator[str]:
    """Of a user who may connect, and nothing else: what Postgres 15 and newer give to one who is not the owner."""
    postgres.execute("CREATE ROLE poor LOGIN")
    yield empty_postgres_url.replace("postgres@", "poor@")
    postgres.execute("DROP ROLE poor")


def test_a_user_who_may_not_is_told_so(poor_url: str) -> None:
    with closing(Database(poor_url)) as database, pytest.raises(Unavailable, match=r"permission denied.*DATABASE_URL"):
        migrate.upgrade(database)


def test_a_pooler_that_refuses_our_settings_is_told_from_a_database_that_is_away() -> None:
    """PgBouncer in its usual setting, and Neon's pooler."""
    said = b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with line:
                line.recv(8)  # an SSLRequest
                line.sendall(b"N")
                if line.recv(4096):
                    line.sendall(b"E" + struct.pack("!i", len(said) + 4) + said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        url = f"postgresql+psycopg://u@127.0.0.1:{listener.getsockname()[1]}/x"
        with closing(Database(url)) as database, pytest.raises(Unavailable, match="names a pooler"):
            database.read_only()
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
