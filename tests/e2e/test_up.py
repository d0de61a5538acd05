"""`completar up`: started, stopped in every way there is, and started again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import Process, Processes
from tests.support.wait import free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")]


class Up:
    """A server over one folder, that may come and go."""

    def __init__(self, processes: Processes, folder: Path, **env: str) -> None:
        self.processes = processes
        # Short: a worker that was killed is noticed in a second instead of in fifteen.
        quick = {"COMPLETAR_HEARTBEAT_S": "0.2", "COMPLETAR_LEASE_S": "0.8", "COMPLETAR_POLL_S": "0.1"}
        self.env = {"COMPLETAR_DATA_DIR": str(folder / "data"), **quick, **env}
        self.process: Process | None = None
        self.url = ""
        self.key = ""

    def start(self, *arguments: str) -> Process:
        process = self.processes.python("up", "-m", "api.cli", "up", *(arguments or ("--port", "0")), env=self.env)
        self.process = process
        process.wait_for_line(r"^with PowerShell:")
        self.url = process.wait_for_line(r"^Completar serves (\S+)$")[1]
        self.key = process.wait_for_line(r"^  Key +(\S+)$")[1]
        return process

    def post(self, model: str, prompt: str = "hello", lane: str = "interactive") -> str:
        body = {"model": f"sandbox/{model}", "input": {"prompt": prompt}, "lane": lane}
        made: str = self._call("POST", "/v1/jobs", json=body)["id"]
        return made

    def job(self, job_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/jobs/{job_id}")

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("GET", f"/v1/jobs/{job_id}/attempts")["data"]
        return found

    def wait(self, job_id: str, status: str) -> None:
        wait_until(lambda: self.job(job_id)["status"] == status, f"{status} of {job_id}")

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = httpx.request(method, self.url + path, headers=headers, trust_env=False, **more)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


@pytest.fixture
def up(processes: Processes, tmp_path: Path) -> Up:
    return Up(processes, tmp_path)


def test_what_it_prints_is_enough_to_try_it(up: Up) -> None:
    process = up.start()
    assert "the sandbox, which is no real model" in process.output
    line = process.wait_for_line(r"^  curl (\S+) -H \"([^\"]+)\" -H \"([^\"]+)\" -d '(.*)'$")
    headers = dict(line[place].split(": ") for place in (2, 3))
    answer = httpx.post(line[1], headers=headers, content=line[4], trust_env=False).json()
    assert answer["texto"].endswith("You wrote: Why is the sky blue?")
    shell = process.wait_for_line(r"^  Invoke-RestMethod (\S+) .* -Body '(.*)' .*\"Bearer (\S+)\"}$")
    assert (shell[1], shell[2], shell[3]) == (line[1], line[4], up.key)


def test_killed_and_started_again_it_finishes_what_it_had(up: Up) -> None:
    process = up.start()
    running, waiting = up.post("slow-1s"), up.post("rate-limited", lane="batch")
    wait_until(lambda: up.attempts(running), "the call to be on record: a job that is only claimed has none")
    key = up.key
    process.kill()
    up.start()  # the lock of a dead process holds nobody up
    assert up.key == key
    for job_id in (running, waiting):
        up.wait(job_id, "completed")
    assert [one["state"] for one in up.attempts(running)] == ["lost", "answered"]


def test_a_batch_goes_through_a_kill_of_its_server(up: Up, tmp_path: Path) -> None:
    """Each line ends once, whatever was lost in between, and the client that follows it need not be told."""
    port = str(free_port())
    process = up.start("--port", port)
    lines = [{"custom_id": str(n), "prompt": "x", "model": f"sandbox/slow-{n * 10}ms"} for n in range(300)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ["-m", "api.cli", "batch", "run", str(tmp_path / "in.jsonl"), "-o", str(out)]
    env = {**up.env, "COMPLETAR_URL": up.url, "COMPLETAR_API_KEY": up.key}
    batch = up.processes.python("batch", *command, env=env)
    batch.wait_for(lambda: out.exists() and len(out.read_text().splitlines()) > 20, "the first records")
    process.kill()
    up.start("--port", port)
    assert batch.wait() == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["status"] for one in found} == {"completed"}
    assert len(found) == len({one["custom_id"] for one in found}) == len({one["id"] for one in found}) == 300
    assert {one["attempts"] for one in found} == {1, 2}, "some had their call open"


def test_ctrl_c_lets_calls_in_flight_end_and_what_has_not_ended_goes_on_later(up: Up) -> None:
    process = up.start()
    running, parked = up.post("slow-1s"), up.post("quota")
    up.wait(running, "in_progress")
    wait_until(lambda: up.job(parked)["attempts"] == 1, "the parked job's call")
    process.signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert "Stopping: calls in flight have 25 s to end" in process.output
    up.start()
    assert up.job(running)["status"] == "completed"
    assert [one["state"] for one in up.attempts(running)] == ["answered"]
    assert up.job(parked)["status"] == "queued"


def test_a_waiting_client_gets_its_answer_while_the_server_stops(up: Up) -> None:
    process = up.start()
    body = {"model": "sandbox/slow-1s", "input": {"prompt": "hello"}}
    with httpx.Client(base_url=up.url, headers={"Authorization": f"Bearer {up.key}"}, trust_env=False) as client:
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"}))
        )
        asking.start()
        wait_until(lambda: up._call("GET", "/v1/jobs?status=in_progress")["data"], "the job's start")
        process.terminate()
        asking.join(10)
    assert [(one.status_code, one.json()["status"]) for one in answers] == [(200, "completed")]
    assert process.wait(10) == 0


def test_a_second_ctrl_c_stops_at_once(up: Up) -> None:
    process = up.start()
    up.wait(up.post("slow-30s"), "in_progress")
    process.signal(signal.SIGINT)
    process.wait_for_line("Stopping:")
    process.signal(signal.SIGINT)
    assert process.wait(3) == 130


def test_a_second_one_on_the_same_folder_is_told_where_the_first_is(up: Up) -> None:
    first = up.start()
    second = up.processes.python("second", "-m", "api.cli", "up", "--port", "0", env=up.env)
    assert second.wait(10) == 1
    assert f"is served already, by process {first.pid} at {up.url}." in second.output
    assert "set COMPLETAR_DATA_DIR to another folder" in second.output
    assert "Traceback" not in second.output


def test_other_commands_find_it_by_the_folder(up: Up) -> None:
    up.start()
    asked = up.processes.python("run", "-m", "api.cli", "run", "Hello", "--json", env=up.env)
    assert asked.wait(10) == 0
    (job_id,) = re.findall(r'^\{"id":"(job_\w+)"', asked.output, re.MULTILINE)
    assert up.job(job_id)["status"] == "completed"


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"COMPLETAR_SANDBOX": "off"}, 4, "Set one of GROQ_API_KEY"),
        ({"PORT": "99999", "SLOTS": "many"}, 4, "2 faults in the configuration:"),
        ({"DATABASE_URL": "postgresql://u:p4ss@127.0.0.1:1/x"}, 4, "The database cannot be reached"),
        ({"HOST": "192.0.2.1"}, 1, "Port 8000 of 192.0.2.1 cannot be bound"),
    ],
)
def test_what_keeps_it_from_starting_is_told_in_words(up: Up, env: dict[str, str], code: int, said: str) -> None:
    process = up.processes.python("up", "-m", "api.cli", "up", env=up.env | env)
    assert process.wait(10) == code
    assert said in process.output
    for never in ("Traceback", "p4ss"):
        assert never not in process.output


def test_a_taken_port_is_named(up: Up) -> None:
    with closing(socket.create_server(("127.0.0.1", free_port()))) as taken:
        port = taken.getsockname()[1]
        process = up.processes.python("up", "-m", "api.cli", "up", "--port", str(port), env=up.env)
        assert process.wait(10) == 1
    assert f"Port {port} of 127.0.0.1 is taken." in process.output


def test_a_key_of_the_environment_is_taken_and_not_printed(up: Up) -> None:
    secret = "ck_of_my_own_choosing"
    up.env["COMPLETAR_API_KEY"] = secret
    process = up.processes.python("up", "-m", "api.cli", "up", "--port", "0", env=up.env)
    up.url = process.wait_for_line(r"^Completar serves (\S+)$")[1]
    up.key = secret
    assert up.job(up.post("echo"))["object"] == "job"
    assert secret not in process.output
    assert not (Path(up.env["COMPLETAR_DATA_DIR"]) / "api_key").exists()
    listed = subprocess.run(
        [*process.command[:3], "keys", "list", "--json"], env=process.env, capture_output=True, check=True
    )
    (key,) = json.loads(listed.stdout)
    revoked = subprocess.run([*process.command[:3], "keys", "revoke", key["id"], "--yes"], env=process.env, check=True)
    assert revoked.returncode == 0
    process.stop()
    again = up.processes.python("again", "-m", "api.cli", "up", "--port", "0", env=up.env)
    assert again.wait(10) == 4
    assert "The key in COMPLETAR_API_KEY was revoked." in again.output
