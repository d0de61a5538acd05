"""The command line as people and scripts use it: real processes, their output, their exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import ROOT, Processes, environment
from tests.support.wait import free_port
from worker.domain.release import RELEASE

pytestmark = pytest.mark.slow

SKY = "[sandbox] No model was asked. You wrote: Why is the sky blue?"
# Lines of examples/prompts.jsonl that are told to fail with nobody behind them.
FAILING = {"bad-01", "cut-02", "empty-02", "html-02", "json-03", "long-02", "refuse-01"}


class Cli:
    """Runs commands in a folder of their own, against one server or their own."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {"COMPLETAR_DATA_DIR": str(folder / "data"), "TYPED_COMMAND": "completar", **env}

    def __call__(
        self, *arguments: str, stdin: str | bytes = b"", code: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        ended, out, err = self.run(arguments, given, {**self.env, **env})
        assert "Traceback" not in err, err
        assert code is None or ended == code, f"{arguments} ended with {ended}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, ended, out, err)

    def run(self, arguments: Sequence[str], stdin: bytes, env: Mapping[str, str]) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "api.cli", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, cwd=self.folder, env=environment(env), timeout=60, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def json(self, *arguments: str, **more: Any) -> Any:
        return json.loads(self(*arguments, **more).stdout)

    def content(self, file_id: str) -> bytes:
        """Of a file that the server keeps."""
        headers = {"Authorization": f"Bearer {self.env['COMPLETAR_API_KEY']}"}
        found = httpx.get(f"{self.env['COMPLETAR_URL']}/v1/files/{file_id}/content", headers=headers, trust_env=False)
        return found.raise_for_status().content

    def write(self, name: str, *records: Any) -> Path:
        path = self.folder / name
        path.write_text(
            "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records), encoding="utf-8"
        )
        return path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Each command on its own: nobody serves this folder."""
    return Cli(tmp_path)


class Inside(Cli):
    """The same entry in this process, for commands that start nothing: twenty times as fast."""

    def run(self, arguments: Sequence[str], stdin: bytes, env: Mapping[str, str]) -> tuple[int, str, str]:
        from api.cli.main import main

        assert not stdin
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in env.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["completar", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *(stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return Inside(tmp_path)


@pytest.fixture(scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("served")
    with Processes(folder) as processes:
        process, url = processes.up({"COMPLETAR_DATA_DIR": str(folder / "data"), "COMPLETAR_LOG_LEVEL": "error"})
        process.wait_for_line(r"^with PowerShell:")
        yield {"COMPLETAR_URL": url, "COMPLETAR_API_KEY": (folder / "data" / "api_key").read_text().strip()}


@pytest.fixture
def served(tmp_path: Path, _served: dict[str, str]) -> Cli:
    """Commands against a server that lasts."""
    return Cli(tmp_path, **_served)


# -- before anything runs -----------------------------------------------------------------------------------------


def test_help_is_there_at_once_and_names_every_command(cli: Cli) -> None:
    began = time.perf_counter()
    told = cli("--help").stdout
    took_s = time.perf_counter() - began
    for name in ("up", "demo", "run", "batch", "jobs", "keys", "providers", "routes", "plan", "config", "doctor", "db"):
        assert re.search(rf"^  {name} ", told, re.MULTILINE), name
    assert took_s < 1.0, "0.1 s of its own; the rest is the load of a test machine"


def test_the_release_is_told(inside: Inside) -> None:
    assert inside("--version").stdout == f"completar {RELEASE}\n"


def test_help_needs_nothing_heavy() -> None:
    """What makes it fast, whatever the machine: libraries that a command needs are not imported for a list of them."""
    script = (
        "import sys, api.cli.main\n"
        "heavy = {'pydantic', 'httpx', 'sqlalchemy', 'flask', 'rich', 'celery'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    ["up", "demo", "run", "batch run", "providers", "routes", "plan", "config check", "doctor", "db upgrade"]
    + [f"jobs {verb}" for verb in ("list", "get", "wait", "cancel", "retry", "attempts")]
    + [f"keys {verb}" for verb in ("create", "list", "revoke")]
    + [f"webhooks {verb}" for verb in ("list", "create", "update", "delete", "rotate", "secret", "test", "deliveries")]
    + [f"webhooks {verb}" for verb in ("resend", "recover", "reseal", "listen", "verify")]
    + [f"batch {verb}" for verb in ("submit", "list", "status", "wait", "results", "retry", "cancel")]
    + [f"batch {verb}" for verb in ("pause", "resume", "estimate")],
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    from click.testing import CliRunner

    from api.cli.main import root

    told = CliRunner().invoke(root, [*command.split(), "--help"])
    assert told.exit_code == 0
    assert (
        f"For example:\n    completar {command}" in told.output
        or f"completar {command}" in told.output.split("Options:")[0]
    )
    for option in ("--quiet", "--no-color", "--verbose"):
        assert option in told.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dmeo"], "There is no command `dmeo`. Did you mean `demo`?"),
        (["run"], "Missing argument 'PROMPT'"),
        (["run", " "], "The prompt is empty."),
        (["batch", "run", "nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
        (["jobs", "list", "--limit", "1000"], "--limit"),
        (["jobs", "get", "../keys"], "is no id of a job"),
        (["plan", "defualt"], "did you mean 'default'?"),
        (["keys", "revoke", "key_x"], "Say so with --yes."),
    ],
)
def test_misuse_is_told_in_words_with_exit_code_2(inside: Inside, arguments: list[str], said: str) -> None:
    done = inside(*arguments, code=2)
    assert said in done.stderr
    assert done.stdout == ""


def test_an_address_for_the_clients_of_openai_is_told_to_be_one(inside: Inside) -> None:
    named = {"COMPLETAR_URL": "http://127.0.0.1:9/v1/", "COMPLETAR_API_KEY": "ck_x"}
    assert "COMPLETAR_URL ends in /v1.\nLeave that out" in inside("jobs", "list", code=4, **named).stderr


@pytest.mark.skipif(os.name == "nt", reason="there arguments are UTF-16")
def test_what_is_no_text_is_told_in_words(served: Cli) -> None:
    line = f"{sys.executable} -m api.cli run $(printf 'Qu\\351')"
    done = subprocess.run(["sh", "-c", line], env=environment(served.env), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("completar: 'Qu\\xe9' is not UTF-8.")
    assert "stdin is not UTF-8" in served("run", "-", stdin=b"Qu\xe9", code=2, PYTHONIOENCODING="utf-8:strict").stderr


# -- what is configured -------------------------------------------------------------------------------------------


def test_config_check_tells_every_fault_at_once_with_exit_code_4(inside: Inside) -> None:
    inside.write("completar.toml", '[routes.default]\ntargets = ["grok/x"]\nmax_atempts = 3')
    done = inside("config", "check", code=4, PORT="http", COMPLETAR_DATADIR="/x")
    for said in ("PORT:", "COMPLETAR_DATADIR:", "max_atempts", "grok/x", "COMPLETAR_DATA_DIR?"):
        assert said in done.stderr
    assert "faults in the configuration:" in done.stderr


def test_config_check_shows_what_is_in_force_and_no_secret(inside: Inside) -> None:
    secret = "gsk_" + "s3cret" * 8
    url = "postgres://me:hunter2@db.example.com/x"
    said = inside.json("config", "check", "--json", GROQ_API_KEY=secret, DATABASE_URL=url, PORT="9000")
    assert said["environment"]["PORT"] == 9000
    assert said["environment"]["GROQ_API_KEY"] == "***"
    assert said["routes"]["default"]["targets"][0].startswith("groq/")
    plain = inside("config", "check", GROQ_API_KEY=secret, DATABASE_URL=url)
    for text in (json.dumps(said), plain.stdout, plain.stderr):
        assert secret not in text
        assert "hunter2" not in text


def test_config_check_warns_of_what_keeps_web_from_starting(inside: Inside) -> None:
    told = inside("config", "check", COMPLETAR_API_KEY="short").stderr
    assert "warning: `web` (gunicorn) would not start, where HOST is not set: COMPLETAR_API_KEY: is too short" in told
    assert "would not start" not in inside("config", "check").stderr


def test_providers_and_routes_name_keys_and_the_models_of_the_sandbox(inside: Inside) -> None:
    alone = inside("providers")
    assert "sandbox/fail-503-twice" in alone.stdout
    assert "the sandbox answers: no real model" in alone.stderr
    both = inside("providers", GROQ_API_KEY="gsk_" + "x" * 40, KIMI_API_KEY="sk-" + "y" * 40).stdout
    assert re.search(r"^groq\tGroq\tGROQ_API_KEY\t", both, re.MULTILINE)
    assert "xxxx" not in both
    assert inside("routes").stdout.startswith("default\tsandbox/echo\t6\t")


def test_a_plan_as_a_table_and_as_json(inside: Inside) -> None:
    table = inside("plan", "sandbox/a", "sandbox/b").stdout
    assert "timeout\tboth\tsandbox/a -> sandbox/b -> the job fails\n" in table
    assert "rate_limit\tbatch\tsandbox/a -> (500 ms) sandbox/a" in table
    said = inside.json("plan", "sandbox/a", "--lane", "batch", "--kind", "bad_request", "--json")
    assert [step["do"] for step in said["plans"][0]["steps"]] == ["call", "fail"]


def test_a_plan_tells_who_joins_a_slow_call(inside: Inside) -> None:
    text = "[routes.quick]\ntargets = ['sandbox/a', 'sandbox/b']\nhedge_after_s = 1.5\n"
    (inside.folder / "completar.toml").write_text(text)
    told = inside("plan", "quick").stderr
    assert "An interactive call of sandbox/a that is open after 1.5 s is joined by one of sandbox/b" in told
    assert inside.json("plan", "quick", "--json")["hedge_after_s"] == 1.5
    assert "joined" not in inside("plan", "sandbox/a").stderr
    assert inside.json("plan", "sandbox/a", "--json")["hedge_after_s"] is None


def test_doctor_finds_what_is_away_with_a_remedy_and_exit_code_4(cli: Cli) -> None:
    assert {one["state"] for one in cli.json("doctor", "--json")} <= {"ok", "note"}
    assert not (cli.folder / "data").exists(), "who only looks makes nothing"
    (cli.folder / "file").touch()
    blocked = cli("doctor", code=4, COMPLETAR_DATA_DIR=str(cli.folder / "file" / "data"))
    assert re.search(r"^fault +data folder .*/file is not ours to write", blocked.stdout, re.MULTILINE)
    port = free_port()
    found = cli(
        "doctor", code=4, DATABASE_URL=f"postgres://u:p4ss@127.0.0.1:{port}/x", REDIS_URL=f"redis://127.0.0.1:{port}"
    )
    assert re.search(r"^fault +database +Postgres cannot be reached", found.stdout, re.MULTILINE)
    assert re.search(r"^fault +hints +Redis cannot be reached", found.stdout, re.MULTILINE)
    assert found.stdout.count("Start it, ") == 2
    assert "p4ss" not in found.stdout + found.stderr
    assert re.search(
        r"^fault +provider +none has a key.*\n +no provider has a key: set one of", found.stdout, re.MULTILINE
    )
    faulty = cli("doctor", code=4, DATABASE_URL="mysql://x")
    assert re.search(r"^fault +configuration .*\n +DATABASE_URL: must begin with", faulty.stdout, re.MULTILINE)


@pytest.mark.postgres
def test_a_schema_that_is_behind_is_found_and_brought_up_to_date(inside: Inside, empty_postgres_url: str) -> None:
    inside.env["DATABASE_URL"] = empty_postgres_url
    assert re.search(r"^fault +schema", inside("doctor", code=4).stdout, re.MULTILINE)
    refused = inside("keys", "list", code=4)
    assert "completar db upgrade" in refused.stderr
    assert "up to date now" in inside("db", "upgrade").stderr
    assert "was up to date" in inside("db", "upgrade").stderr
    assert re.search(r"^ok +clock", inside("doctor", GROQ_API_KEY="k").stdout, re.MULTILINE)


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_listed_by_its_beginning_and_revoked(inside: Inside) -> None:
    secret = inside("keys", "create", "--project", "shop", "--name", "till", "--scope", "jobs:read").stdout.strip()
    made = inside.json("keys", "create", "--days", "30", "--json")
    assert secret.startswith("ck_")
    assert made["key"].startswith("ck_")
    assert made["expires_at"] is not None
    assert made["scopes"] == ["jobs:read", "jobs:write", "webhooks"], "what concerns all projects is given by name"
    (listed,) = inside.json("keys", "list", "--project", "shop", "--json")
    assert (listed["name"], listed["scopes"], listed["state"]) == ("till", ["jobs:read"], "active")
    assert secret.startswith(listed["hint"])
    assert secret not in json.dumps(listed)
    assert inside.json("keys", "list", "--project", "nobody", "--json") == []
    inside("keys", "revoke", listed["id"], "--yes")
    assert inside.json("keys", "list", "--project", "shop", "--json")[0]["state"] == "revoked"
    again = inside("keys", "revoke", listed["id"], "--yes", code=1)
    assert "`completar keys list` shows the ids." in again.stderr


# -- one request --------------------------------------------------------------------------------------------------


def test_run_starts_a_server_where_there_is_none_and_what_it_stored_stays(cli: Cli) -> None:
    done = cli("run", "Why is the sky blue?")
    assert done.stdout == SKY + "\n"
    assert done.stderr.startswith("Served by Sandbox (no real model), model echo: 1 call in ")
    (job,) = cli.json("jobs", "list", "--json")["data"]
    assert cli("jobs", "get", job["id"]).stdout.startswith(f"id:          {job['id']}\nstatus:      completed\n")
    if os.name == "posix":
        assert (cli.folder / "data" / "api_key").stat().st_mode & 0o077 == 0


def test_run_reads_stdin_takes_a_schema_and_prints_what_fits_it(served: Cli) -> None:
    assert served("run", "-", "-q", stdin="¿Qué tal?").stdout.endswith("You wrote: ¿Qué tal?\n")
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 3}}, "required": ["n"]}
    served.write("n.json", schema)
    assert served.json("run", "Three?", "--schema", "n.json") == {"n": 3}
    served.write("broken.json", "{")
    assert "broken.json holds no JSON" in served("run", "x", "--schema", "broken.json", code=2).stderr
    job = served.json("run", "x", "--model", "sandbox/fail-500", "--model", "sandbox/echo", "--json")
    assert (job["status"], job["models"]) == ("completed", ["sandbox/fail-500", "sandbox/echo"])


def test_run_tells_why_nobody_answered(served: Cli) -> None:
    failed = served("run", "x", "--model", "sandbox/fail-400", code=1)
    assert failed.stdout == ""
    assert "the job failed: bad_request: " in failed.stderr
    (hint,) = re.findall(r"completar jobs attempts (job_\w+)", failed.stderr)
    assert re.match(r"1\tsandbox/fail-400\t\tfailed\tbad_request\t400\t", served("jobs", "attempts", hint).stdout)
    unknown = served("run", "x", "--model", "sandbx/echo", code=2)
    assert "names 'sandbx/echo', which is no route and no target" in unknown.stderr
    assert "Did you mean sandbox/echo?" in unknown.stderr


# -- jobs ---------------------------------------------------------------------------------------------------------


def test_jobs_are_waited_for_cancelled_retried_and_looked_into(served: Cli) -> None:
    late = served("run", "x", "--model", "sandbox/quota", "--timeout", "1", code=5)  # it waits for the money
    assert late.stderr.startswith("Not done within 1 s.\nIt waits for sandbox")
    (job_id,) = re.findall(r"The job goes on: completar jobs wait (job_\w+)", late.stderr)
    assert "has not ended within 0.1 s" in served("jobs", "wait", job_id, "--timeout", "0.1", code=5).stderr
    assert served("jobs", "cancel", job_id).stdout.startswith(f"{job_id}\tcancel")
    assert "the job was cancelled" in served("jobs", "wait", job_id, code=1).stderr
    again = served("jobs", "retry", job_id).stdout.strip()
    assert served.json("jobs", "get", again, "--json")["retry_of"] == job_id
    served("jobs", "cancel", again)
    assert job_id in served("jobs", "list", "--status", "cancelled", "--limit", "100").stdout
    page = served("jobs", "list", "--limit", "1", "--jsonl", "--verbose")
    assert json.loads(page.stdout)["object"] == "job"
    assert re.search(r"GET /v1/jobs\?limit=1 -> 200 req_\w+", page.stderr)
    assert "--after job_" in page.stderr
    refused = served("jobs", "get", "job_" + "0" * 26, code=1)
    assert "There is no such job" in refused.stderr


def test_a_stored_job_is_run_by_who_waits_for_it(cli: Cli) -> None:
    failed = cli("run", "x", "--model", "sandbox/fail-400", code=1)
    (job_id,) = re.findall(r"completar jobs attempts (job_\w+)", failed.stderr)
    retried = cli("jobs", "retry", job_id)
    again = retried.stdout.strip()
    assert f"It is stored. `completar jobs wait {again}` runs it" in retried.stderr
    assert cli.json("jobs", "get", again, "--json")["status"] == "queued"
    assert "bad_request" in cli("jobs", "wait", again, code=1).stderr


def test_a_request_whose_time_is_over_says_so_before_it_is_cancelled(cli: Cli) -> None:
    late = cli("run", "x", "--model", "sandbox/slow-2s", "--timeout", "0.5", code=5)
    assert re.match(r"Not done within 0\.5 s\.\nCancelling: .* up to 10 s", late.stderr)


def test_ctrl_c_cancels_a_request_that_nobody_else_would_finish(cli: Cli, processes: Processes) -> None:
    asked = processes.python("run", "-m", "api.cli", "run", "x", "-v", "--model", "sandbox/slow-2s", env=cli.env)
    asked.wait_for_line("^POST /v1/jobs -> 202 ")
    asked.signal(signal.SIGINT)
    assert asked.wait(10) == 130
    assert "Cancelling: " in asked.output
    assert [job["status"] for job in cli.json("jobs", "list", "--json")["data"]] == ["cancelled"]


# -- many ---------------------------------------------------------------------------------------------------------


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_batch_runs_and_a_broken_line_spoils_no_other(served: Cli) -> None:
    chat = {"model": "default", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    served.write(
        "in.jsonl",
        {"custom_id": "late", "prompt": "1", "model": "sandbox/slow-1s"},
        {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": chat},
        '{"custom_id": "broken", ',
        "",
        {"custom_id": "hot", "prompt": "5", "temperature": 99},
        {"custom_id": "lost", "prompt": "6", "model": "nowhere/x"},
        {"custom_id": "vector", "input": ["a", "b"], "model": "sandbox/embed"},
        {"custom_id": "bad", "prompt": "8", "model": "sandbox/fail-400"},
    )
    done = served("batch", "run", "in.jsonl", "-o", "out.jsonl", "--ordered", code=3)
    assert done.stdout == ""
    found = records((served.folder / "out.jsonl").read_text())
    assert [(one["line"], one["custom_id"], one["status"]) for one in found] == [
        (1, "late", "completed"),
        (2, "chat", "completed"),
        (3, None, "rejected"),
        (5, "hot", "rejected"),
        (6, "lost", "rejected"),
        (7, "vector", "completed"),
        (8, "bad", "failed"),
    ]
    assert found[1]["text"] == SKY
    assert (found[1]["provider"], found[1]["model"], found[1]["attempts"]) == ("sandbox", "echo", 1)
    assert len(found[5]["embeddings"]) == 2
    assert found[6]["error"]["kind"] == "bad_request"
    for line, said in ((3, "is not valid JSON"), (5, "input.temperature"), (6, "nowhere/x")):
        assert re.search(rf"^line {line}: .*{re.escape(said)}", done.stderr, re.MULTILINE)
    assert "3 done, 4 failed (bad_request 4)" in done.stderr
    assert "The sandbox is no real model" in done.stderr


def test_a_batch_flows_from_stdin_to_stdout_whatever_windows_made_of_it(served: Cli) -> None:
    text = '{"prompt": "ñandú", "custom_id": "a"}\r\n{"prompt": "2", "custom_id": "b"}\r\n'
    done = served("batch", "run", "-", "--ordered", "--quiet", stdin=text.encode("utf-16"))
    assert [(one["custom_id"], one["text"][-5:]) for one in records(done.stdout)] == [("a", "ñandú"), ("b", "te: 2")]
    assert done.stderr == ""


def test_what_the_command_says_beats_the_lines(served: Cli) -> None:
    served.write("in.jsonl", *({"prompt": str(n), "models": ["nowhere/x"]} for n in range(2)))
    done = served("batch", "run", "in.jsonl", "--model", "sandbox/fail-507", "--max-attempts", "2", code=1)
    assert {(one["status"], one["attempts"]) for one in records(done.stdout)} == {("failed", 2)}


def test_an_empty_batch_is_no_fault(served: Cli) -> None:
    served.write("in.jsonl", "", "")
    assert "There is no line in the input." in served("batch", "run", "in.jsonl").stderr


def test_a_batch_never_overwrites_its_input(served: Cli) -> None:
    path = served.write("in.jsonl", {"prompt": "1"})
    assert "the same file" in served("batch", "run", "in.jsonl", "-o", str(path), code=2).stderr
    assert records(path.read_text()) == [{"prompt": "1"}]


@pytest.mark.skipif(os.name == "nt", reason="a shell with pipes")
def test_a_reader_that_leaves_is_no_fault_worth_a_word(served: Cli) -> None:
    served.write("in.jsonl", *({"prompt": str(n)} for n in range(200)))
    line = f"{sys.executable} -m api.cli batch run in.jsonl --quiet | head -1"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=served.folder,
        env=environment(served.env),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert len(records(done.stdout)) == 1
    assert done.stderr == ""


# -- the demo -----------------------------------------------------------------------------------------------------


def test_the_demo_answers_two_hundred_requests_and_names_those_that_were_told_to_fail(cli: Cli) -> None:
    done = cli("demo")
    assert "No provider has a key: the sandbox answers" in done.stderr
    assert re.match(r"200 requests in .*: 193 done, 7 failed", done.stdout)
    for said in (
        "served by",
        "calls",
        "retries",
        "fallbacks",
        "cost",
        "p50",
        "p95",
        "The sandbox answered: no real model",
    ):
        assert said in done.stdout
    assert set(re.findall(r"^  (\w+-\d\d) ", done.stdout, re.MULTILINE)) == FAILING
    found = records((cli.folder / "results.jsonl").read_text(encoding="utf-8"))
    assert len({one["custom_id"] for one in found}) == len(found) == 200
    assert {one["custom_id"] for one in found if one["status"] != "completed"} == FAILING
    assert not (cli.folder / "data").exists(), "it leaves nothing behind"
    held = cli.write("results.jsonl", {"custom_id": "mine", "line": 1, "status": "completed"}).read_text()
    assert "results.jsonl holds 1 record of a finished run." in cli("demo", code=2).stderr
    assert (cli.folder / "results.jsonl").read_text() == held


def test_the_demo_asks_the_provider_whose_key_is_there(cli: Cli, processes: Processes) -> None:
    port = free_port()
    provider = processes.python("groq", "-m", "worker.providers.sandbox", "--port", str(port))
    provider.wait_for_port(port)
    cli.write("completar.toml", f'[providers.groq]\nbase_url = "http://127.0.0.1:{port}/v1"\ndefault_model = "echo"')
    done = cli("demo", "-o", "answers.jsonl", GROQ_API_KEY="gsk_" + "x" * 40)
    assert "Groq will be asked, with your key" in done.stderr
    assert "The sandbox answered" not in done.stdout
    found = records((cli.folder / "answers.jsonl").read_text(encoding="utf-8"))
    served = {one["custom_id"].rpartition("-")[0]: one["provider"] for one in found if one["provider"] is not None}
    told_to_misbehave = sorted(name for name, by in served.items() if by == "sandbox")
    assert " ".join(told_to_misbehave) == "busy cut down empty fault flaky html json length long slow"
    assert set(served.values()) == {"sandbox", "groq"}


def test_the_examples_are_two_hundred_lines_with_names_of_their_own() -> None:
    lines = records((ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8"))
    assert len({line["custom_id"] for line in lines}) == len(lines) == 200


# -- a server that is not there, or does not want us --------------------------------------------------------------


def test_no_server_and_no_key_have_codes_of_their_own(served: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    away = served("jobs", "list", code=6, COMPLETAR_URL=url)
    assert f"No server answers at {url}" in away.stderr
    assert "completar up" in away.stderr
    refused = served("jobs", "list", code=4, COMPLETAR_API_KEY="ck_" + "x" * 30)
    assert "does not take this key" in refused.stderr
    del served.env["COMPLETAR_API_KEY"]
    assert "there is no key for it" in served("jobs", "list", code=4).stderr
