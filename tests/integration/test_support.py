"""The ground the other tests stand on: servers that can be broken, processes that are waited for and cleaned up."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.support import postgres as postgres_support
from tests.support import redis as redis_support
from tests.support.parts import PartMissing, losses
from tests.support.postgres import Postgres
from tests.support.processes import ROOT, Processes
from tests.support.redis import Redis
from tests.support.wait import free_port, listening, wait_until

pytest_plugins = ["pytester"]


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _make_notes(url: str) -> None:
    with _connect(url) as connection:
        connection.execute("CREATE TABLE notes (text text)")


@pytest.mark.postgres
def test_every_database_is_a_copy_of_the_template_and_of_nothing_else(own_postgres: Postgres) -> None:
    made: list[str] = []

    def migrate(url: str) -> None:
        made.append(url)
        _make_notes(url)

    one = own_postgres.migrate_once(migrate).fresh()
    with _connect(one) as connection:
        connection.execute("INSERT INTO notes VALUES ('mine')")
    two = own_postgres.migrate_once(migrate).fresh()
    with _connect(two) as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    assert len(made) == 1
    with _connect(own_postgres.empty()) as connection:
        assert connection.execute("SELECT to_regclass('notes')").fetchone() == (None,)


@pytest.mark.postgres
def test_a_database_is_dropped_under_an_open_connection(postgres: Postgres) -> None:
    url = postgres.empty()
    with _connect(url):
        postgres.drop(url)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        _connect(url)


@pytest.mark.postgres
def test_what_was_committed_outlives_a_crash_and_the_port_stays(own_postgres: Postgres) -> None:
    url = own_postgres.empty()
    _make_notes(url)
    with _connect(url) as connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
        own_postgres.stop("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own_postgres.start()
    with _connect(url) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]
        limit = connection.execute("SHOW max_connections").fetchone()
    assert limit == ("200",)


@pytest.mark.postgres
def test_a_frozen_postgres_says_nothing_until_it_is_thawed(own_postgres: Postgres) -> None:
    own_postgres.freeze()
    with socket.create_connection(("127.0.0.1", own_postgres.port), timeout=0.3) as client:
        client.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # asks whether it speaks TLS
        with pytest.raises(TimeoutError):
            client.recv(1)
        own_postgres.thaw()
        client.settimeout(10)
        assert client.recv(1) == b"N"


@pytest.mark.redis
def test_redis_is_healed_and_empty_after_every_kind_of_harm(redis_server: Redis) -> None:
    def ask(words: str) -> str:
        with socket.create_connection(("127.0.0.1", redis_server.port), timeout=0.5) as client:
            client.sendall(words.encode() + b"\r\n")
            return client.recv(100).decode().strip()

    port = redis_server.port
    harms: list[Callable[[], None]] = [redis_server.freeze, redis_server.kill, redis_server.stop]
    for harm in harms:
        assert ask("SET note mine") == "+OK"
        harm()
        with pytest.raises(OSError, match=r"timed out|refused"):
            ask("PING")
        assert redis_server.healed().port == port
        assert ask("GET note") == "$-1"


def test_a_part_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PartMissing, match="MISSING PART redis: no redis-server"):
        redis_support.program()
    with pytest.raises(PartMissing, match="MISSING PART postgres: no wheel"):
        postgres_support.programs()


def test_losses_are_counted_by_part() -> None:
    redis, postgres = str(PartMissing("redis", "none here")), str(PartMissing("postgres", "no wheel"))
    reasons = [f"Skipped: {redis}", "Skipped: not on Windows", f"Skipped: {redis}", f"Skipped: {postgres}"]
    assert losses(reasons) == ["postgres: 1 tests (no wheel)", "redis: 2 tests (none here)"]


def test_the_run_ends_with_what_it_could_not_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MISSING_PARTS_FILE", str(pytester.path / "missing"))
    pytester.makeconftest("from tests.conftest import pytest_terminal_summary")
    pytester.makepyfile(
        """
        import pytest
        from tests.support.parts import PartMissing

        @pytest.mark.parametrize("n", range(3))
        def test_broker(n):
            pytest.skip(str(PartMissing("redis", "no server")))

        def test_fine():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly")
    result.assert_outcomes(passed=1, skipped=3)
    heading, line, _, closing = result.outlines[-4:]
    assert ("NOT TESTED" in heading, line) == (True, "redis: 3 tests (no server)")
    assert "1 passed, 3 skipped" in closing
    assert (pytester.path / "missing").read_text() == "redis: 3 tests (no server)\n"


_ECHO = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", sys.argv[1:], flush=True)
time.sleep(60)
"""


def test_a_process_is_waited_for_stopped_and_started_again(processes: Processes) -> None:
    process = processes.python("echo", "-c", _ECHO, "one")
    assert process.wait_for_line(r"^ready (.*)$").group(1) == "['one']"
    assert process.stop() == 7
    seen = len(process.output)
    process.start()
    process.wait_for_line("^ready", since=seen)
    process.kill()
    assert process.exit_code == -signal.SIGKILL


def test_a_process_that_ends_early_fails_the_wait_at_once_with_its_log(processes: Processes) -> None:
    process = processes.python("broken", "-c", "raise SystemExit('no config')")
    with pytest.raises(AssertionError, match=r"ended with 1 before(.|\n)*no config"):
        process.wait_for_port(free_port(), timeout_s=60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_grandchild_outlives_the_test_even_frozen(tmp_path: Path) -> None:
    with Processes(tmp_path) as started:
        parent = started.start("parent", ["/bin/sh", "-c", "sleep 60 & echo child $!; wait"])
        child = int(parent.wait_for_line(r"child (\d+)").group(1))
        parent.freeze()
    assert not parent.running
    wait_until(lambda: _gone(child), "the grandchild to be gone")


def _gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_waiting_ends_with_the_name_of_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s in vain for Godot"):
        wait_until(lambda: False, "Godot", timeout_s=0.05)
    assert wait_until(lambda: "came", "somebody") == "came"


def test_nobody_listens_on_a_free_port() -> None:
    assert not listening(free_port())


def test_the_tests_see_no_keys_and_no_addresses_of_whoever_runs_them(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        "GROQ_API_KEY",
        "GROQ_API_KEY_2",
        "HF_LLAVE_5_NOMBRE",
        "COMPLETAR_URL",
        "DATABASE_URL",
        "PGHOST",
        "https_proxy",
    ]
    for name in [*names, "KEPT"]:
        monkeypatch.setenv(name, "private")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        f"""
        import os, tests.conftest

        def test_it():
            assert {{*{names}, "KEPT"}} & set(os.environ) == {{"KEPT"}}
        """
    )
    pytester.runpytest_subprocess("-p", "no:randomly").assert_outcomes(passed=1)
