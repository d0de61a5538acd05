"""The lines a platform runs: each process starts, does its part and ends when it is told to."""

from __future__ import annotations

import re
import runpy
import signal
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Processes, procfile
from tests.support.redis import Redis
from tests.support.wait import free_port
from worker import celery_app, events
from worker.domain.failure import Lane
from worker.settings import load


def test_it_names_what_a_platform_looks_for() -> None:
    assert list(procfile()) == ["release", "web", "worker"]


@pytest.mark.parametrize("name", ["web", "worker"])
def test_signals_reach_the_program_and_not_a_shell(name: str) -> None:
    assert procfile()[name].startswith("exec ")


@pytest.mark.redis
@pytest.mark.postgres
@pytest.mark.parametrize("lanes", ["interactive,batch", "interactive", "batch"])
def test_a_worker_takes_the_hints_of_the_lanes_it_serves_and_no_others(
    processes: Processes, redis_server: Redis, postgres_url: str, lanes: str
) -> None:
    worker = processes.worker({"REDIS_URL": redis_server.url, "DATABASE_URL": postgres_url, "LANES": lanes})
    consumed = set(re.findall(r"(\w+) +exchange=", worker.output))
    assert consumed == set(lanes.split(","))
    assert set(Lane) == {"interactive", "batch"}, "a lane that is named in code is consumed by default"


@pytest.mark.redis
@pytest.mark.postgres
def test_the_worker_starts_and_ends_when_told(processes: Processes, redis_server: Redis, postgres_url: str) -> None:
    worker = processes.worker({"REDIS_URL": redis_server.url, "DATABASE_URL": postgres_url})
    assert worker.stop() == 0, worker.tail()
    assert "Traceback" not in worker.output


def test_a_worker_that_cannot_start_ends_and_says_why(processes: Processes, tmp_path: Path) -> None:
    config = tmp_path / "completar.toml"
    config.write_text('[routes.default]\ntargets = ["nobody/m"]\n', encoding="utf-8")
    env = {"COMPLETAR_CONFIG": str(config), "COMPLETAR_DATA_DIR": str(tmp_path / "data")}
    worker = processes.from_procfile("worker", env)
    assert worker.wait(20.0) == 78, worker.tail()
    (line,) = [line for line in worker.output.splitlines() if "worker.not_started" in line]
    assert "routes.default.targets" in line
    assert "nobody" in line
    assert "Traceback" not in worker.output


def test_a_worker_with_wrong_variables_names_them_all(processes: Processes) -> None:
    worker = processes.from_procfile("worker", {"SLOTS": "many", "DATABASE_URL": "mysql://u:secret@h/x", "LANES": "x"})
    assert worker.wait(20.0) == 78, worker.tail()
    (line,) = [line for line in worker.output.splitlines() if "worker.not_started" in line]
    assert all(name in line for name in ("SLOTS: must be a whole number", "DATABASE_URL: must begin with", "LANES"))
    assert "Traceback" not in worker.output
    assert "secret" not in worker.output
    assert "ready." not in worker.output


def test_whatever_else_a_worker_cannot_start_for_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, object]] = []

    def end(code: int) -> None:
        raise SystemExit(code)

    def build(*_: object, **_more: object) -> None:
        raise KeyError("a secret prompt")

    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr(celery_app, "build", build)
    monkeypatch.setattr(events, "configure", lambda _level: None)
    monkeypatch.setattr(events, "emit", lambda event, **fields: said.append({"event": event, **fields}))
    with pytest.raises(SystemExit) as ended:
        celery_app.Process(load({})).start()
    assert ended.value.code == 70
    (line,) = said
    assert (line["event"], line["error"]) == ("worker.not_started", "KeyError")
    assert "secret" not in str(line)


@pytest.mark.redis
@pytest.mark.postgres
def test_honcho_runs_and_ends_it(processes: Processes, redis_server: Redis, postgres_url: str) -> None:
    env = {"REDIS_URL": redis_server.url, "DATABASE_URL": postgres_url}
    honcho = processes.start("honcho", ["honcho", "--no-colour", "start", "worker"], env)
    honcho.wait_for_line(r"worker\.1 .* ready\.")
    honcho.terminate()
    assert honcho.wait() in (0, 128 + signal.SIGTERM)
    assert "worker.1 stopped (rc=0)" in honcho.output


def test_gunicorn_listens_where_it_is_told_and_logs_no_query(processes: Processes) -> None:
    port = free_port()
    app = "wsgiref.simple_server:demo_app"
    env = {"PORT": str(port), "WEB_CONCURRENCY": "1"}
    web = processes.start("web", ["gunicorn", "-c", "gunicorn.conf.py", app], env)
    web.wait_for_port(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/jobs?key=ck_secret", timeout=10) as answer:
        assert answer.status == 200
        assert b"Hello world!" in answer.read()
    web.wait_for_line(r"^GET /v1/jobs 200 ")
    assert web.stop() == 0
    assert "ck_secret" not in web.output
    assert "gthread" in web.output


def test_clients_that_never_end_a_request_do_not_hold_up_the_others(processes: Processes) -> None:
    """As many as there are threads: each of them once had one for as long as it liked."""
    port = free_port()
    web = processes.start(
        "web",
        ["gunicorn", "-c", "gunicorn.conf.py", "wsgiref.simple_server:demo_app"],
        {"PORT": str(port), "HOST": "127.0.0.1", "WEB_CONCURRENCY": "1"},
    )
    web.wait_for_port(port)
    with ExitStack() as stack:
        for said in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"", b"G") * 40:
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(said)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/jobs", timeout=20) as answer:
            assert answer.status == 200
    web.stop()


@pytest.mark.parametrize(
    ("name", "value"),
    [("WEB_CONCURRENCY", "two"), ("WEB_CONCURRENCY", "1.5"), ("WEB_CONCURRENCY", "-1"), ("PORT", "a")],
)
def test_a_web_with_a_wrong_number_names_the_variable(processes: Processes, name: str, value: str) -> None:
    web = processes.from_procfile("web", {name: value})
    assert web.wait() == 4
    assert f"{name}: must be a whole number" in web.output
    assert "Traceback" not in web.output


def test_web_says_once_what_was_forgotten(processes: Processes, tmp_path: Path) -> None:
    web, _ = processes.web({"WEB_CONCURRENCY": "", "COMPLETAR_DATA_DIR": str(tmp_path)})
    web.stop()
    assert web.output.count(f"DATABASE_URL is not set: SQLite at {tmp_path}/completar.sqlite3") == 1
    assert web.output.count("no provider has a key: set one of GROQ_API_KEY") == 1


def test_gunicorn_takes_the_usual_port_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "WEB_CONCURRENCY"):
        monkeypatch.setenv(name, "")
    told = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    assert told["bind"] in ("[::]:8000", "0.0.0.0:8000")
    assert (told["workers"], told["threads"]) == (2, 64)


def test_gunicorn_keeps_to_ipv4_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(family: int) -> socket.socket:
        raise OSError(97, f"Address family {family} not supported")

    monkeypatch.setattr(socket, "socket", off)
    assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["bind"] == "0.0.0.0:8000"
