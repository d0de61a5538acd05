"""`completar endpoints` against a scripted management API: what is sent, what is shown first, how it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.payloads import load
from tests.support.scripted_provider import ScriptedProvider, reply

BODIES = {case["case"]: case["body"] for case in load("hf_endpoints_api")}
CREATE = ["create", "flan", "--model", "google/flan-t5-base"]
HARDWARE = {
    "vendors": [
        {
            "name": "aws",
            "regions": [
                {
                    "name": "us-east-1",
                    "computes": [
                        {"accelerator": "cpu", "instanceType": "intel-spr", "instanceSize": "x1", "pricePerHour": 0.04},
                        {"accelerator": "gpu", "instanceType": "nvidia-l4", "instanceSize": "x1"},
                    ],
                }
            ],
        }
    ]
}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def api() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as scripted:
        yield scripted


@pytest.fixture
def run(api: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The real entry, in this process, with a token and nobody at the keyboard."""
    from api.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUGGINGFACE_API_KEY", "hf_secret")

    def running(*arguments: str, namespace: str | None = "ana") -> Ended:
        owner = [] if namespace is None else ["--namespace", namespace]
        monkeypatch.setattr(sys, "argv", ["completar", "endpoints", *arguments, *owner, "--api-url", api.url])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        assert "hf_secret" not in "".join(said)
        return Ended(int(str(ended.value.code)), *said)

    return running


def asked(api: ScriptedProvider) -> list[tuple[str, str]]:
    return [(received.method, received.path) for received in api.requests]


def test_list(run: Run, api: ScriptedProvider) -> None:
    items = {"items": [BODIES["get_updating"], BODIES["get_paused"]]}
    api.always(reply(json_body=items))
    ended = run("list")
    assert ended.code == 0
    first, second = ended.out.splitlines()
    assert first.split("\t")[:5] == ["mi-endpoint", "updating", "org/model", "default", "aws us-east-1 intel-spr x1"]
    assert "$0.033" in first
    assert second.split("\t")[1] == "paused"
    assert asked(api) == [("GET", "/endpoint/ana")]
    assert api.requests[0].headers["authorization"] == "Bearer hf_secret"
    documents = json.loads(run("list", "--json").out)
    assert [one["kind"] for one in documents] == [None, "gone"]
    assert documents[0]["price_per_hour"] == 0.033


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("get_updating", "updating: serves"),
        ("get_initializing", "initializing: starts"),
        ("get_failed", "failed: serves nothing until it is resumed or mended"),
    ],
)
def test_status(run: Run, api: ScriptedProvider, case: str, words: str) -> None:
    api.always(reply(json_body=BODIES[case]))
    ended = run("status", "mi-endpoint")
    assert ended.code == 0
    assert words in ended.out
    assert json.loads(run("status", "mi-endpoint", "--json").out)["state"] in words
    assert asked(api)[0] == ("GET", "/endpoint/ana/mi-endpoint")


def test_a_dry_run_shows_the_price_and_sends_nothing(run: Run, api: ScriptedProvider, monkeypatch: Any) -> None:
    monkeypatch.setenv("TOKEN", "hf_secret2")
    ended = run(*CREATE, "--dry-run", "--secret", "TOKEN", "--max-replicas", "3")
    assert ended.code == 0
    body = json.loads(ended.out)
    assert body["model"]["secrets"] == {"TOKEN": "***"}
    assert body["compute"]["scaling"] == {"minReplica": 0, "maxReplica": 3, "scaleToZeroTimeout": 15}
    assert "$0.033" in ended.err
    assert "as of 2026-11-22" in ended.err
    assert "at most $0.099" in ended.err
    assert "Nothing was sent" in ended.err
    assert api.requests == []


def test_an_unknown_price_is_said_to_be_unknown(run: Run) -> None:
    ended = run(*CREATE, "--dry-run", "--instance", "nvidia-b300", "--size", "x8")
    assert "Price per hour and replica: unknown" in ended.err
    assert json.loads(ended.out)["compute"]["accelerator"] == "gpu"


def test_a_dry_run_needs_no_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUGGINGFACE_API_KEY")
    assert run(*CREATE, "--dry-run").code == 0
    ended = run(*CREATE, "--yes")
    assert ended.code == 4
    assert "HUGGINGFACE_API_KEY is not set" in ended.err


def test_without_yes_nothing_is_made(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(json_body=HARDWARE))
    ended = run(*CREATE)
    assert ended.code == 2
    assert "--yes" in ended.err
    assert "$0.04" in ended.err
    assert asked(api) == [("GET", "/provider/ana")]


def test_create(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(json_body=HARDWARE), reply(json_body=BODIES["get_pending"]))
    ended = run(
        *CREATE,
        *("--yes", "--json", "--engine", "tei", "--security", "private", "--min-replicas", "1", "--max-replicas", "2"),
        *("--image", "url=ghcr.io/x:1", "--image", "port=80", "--env", "A=b=c", "--task", "sentence-embeddings"),
        *("--revision", "abc"),
    )
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["state"] == "pending"
    assert "$0.04" in ended.err
    assert "as Hugging Face tells it now" in ended.err
    assert "never sleeps" in ended.err
    assert asked(api) == [("GET", "/provider/ana"), ("POST", "/endpoint/ana")]
    assert api.requests[1].json == {
        "name": "flan",
        "type": "private",
        "provider": {"vendor": "aws", "region": "us-east-1"},
        "compute": {
            "accelerator": "cpu",
            "instanceType": "intel-spr",
            "instanceSize": "x1",
            "scaling": {"minReplica": 1, "maxReplica": 2},
        },
        "model": {
            "repository": "google/flan-t5-base",
            "framework": "pytorch",
            "revision": "abc",
            "task": "sentence-embeddings",
            "env": {"A": "b=c"},
            "image": {"tei": {"url": "ghcr.io/x:1", "port": 80}},
        },
    }


def test_hardware_that_is_not_there_is_told_before_anything_is_made(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(json_body=HARDWARE))
    ended = run(*CREATE, "--yes", "--size", "x16")
    assert ended.code == 2
    assert "has no intel-spr x16" in ended.err
    assert "It has: intel-spr x1, nvidia-l4 x1." in ended.err
    assert asked(api) == [("GET", "/provider/ana")]


def test_where_the_hardware_cannot_be_asked_the_table_tells_the_price(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(500, json_body={"error": "no"}), reply(json_body=BODIES["get_pending"]))
    ended = run(*CREATE, "--yes")
    assert ended.code == 0
    assert "as of 2026-11-22" in ended.err


def test_a_quota_is_told(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(json_body=HARDWARE), reply(400, json_body=BODIES["quota_instances"]))
    ended = run(*CREATE, "--yes")
    assert ended.code == 4
    assert "Quota exceeded: cpu intel-spr x1" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--min-replicas", "2"), "more than --max-replicas"),
        (("--engine", "custom"), "--image url="),
        (("--instance", "quantum-q1"), "--accelerator is needed"),
        (("--env", "A"), "NAME=VALUE"),
        (("--security", "protected"), "authenticated"),
    ],
)
def test_what_cannot_be_made(run: Run, api: ScriptedProvider, arguments: tuple[str, ...], words: str) -> None:
    ended = run(*CREATE, "--dry-run", *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert api.requests == []


def test_a_secret_that_is_not_set(run: Run) -> None:
    ended = run(*CREATE, "--dry-run", "--secret", "NOT_THERE")
    assert ended.code == 4
    assert "NOT_THERE is not set" in ended.err


def test_resume(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(json_body=BODIES["get_initializing"]), reply(400, json_body=BODIES["resume_already_running"]))
    first, second = run("resume", "mi-endpoint"), run("resume", "mi-endpoint")
    assert (first.code, second.code) == (0, 0)
    assert "initializing; $0.033" in first.err
    assert "running already" in second.err
    assert asked(api) == [("POST", "/endpoint/ana/mi-endpoint/resume")] * 2


@pytest.mark.parametrize("verb", ["pause", "scale-to-zero"])
def test_to_sleep(run: Run, api: ScriptedProvider, verb: str) -> None:
    api.queue(reply(json_body=BODIES["get_paused"]))
    ended = run(verb, "mi-endpoint")
    assert ended.code == 0
    assert "mi-endpoint: paused." in ended.err
    assert asked(api) == [("POST", f"/endpoint/ana/mi-endpoint/{verb}")]


def test_delete(run: Run, api: ScriptedProvider) -> None:
    refused = run("delete", "mi-endpoint")
    assert refused.code == 2
    assert api.requests == []
    api.queue(reply(202))
    assert run("delete", "mi-endpoint", "--yes").code == 0
    assert asked(api) == [("DELETE", "/endpoint/ana/mi-endpoint")]


def test_faults_have_their_exit_codes(run: Run, api: ScriptedProvider) -> None:
    api.queue(reply(401, json_body=BODIES["auth"]), reply(404, json_body=BODIES["not_found"]))
    unknown, missing = run("list"), run("status", "x")
    assert (unknown.code, missing.code) == (4, 1)
    assert "Invalid credentials" in unknown.err
    assert "HUGGINGFACE_API_KEY" in unknown.err
    assert "Endpoint not found" in missing.err
    api.stop()
    away = run("list")
    assert away.code == 6
    assert "does not answer" in away.err
    api.start()
    assert run("list", namespace=None).code == 2


@pytest.mark.parametrize("name", ["..", ".", ""])
def test_a_name_that_would_be_another_address(run: Run, api: ScriptedProvider, name: str) -> None:
    assert run("delete", name, "--yes").code == 2
    assert run("list", namespace=name).code == 2
    assert api.requests == []


@pytest.mark.parametrize("verb", ["list", "create", "status", "resume", "pause", "scale-to-zero", "delete"])
def test_every_command_explains_itself_with_an_example(verb: str) -> None:
    from click.testing import CliRunner

    from api.cli.main import root

    told = CliRunner().invoke(root, ["endpoints", verb, "--help"]).output
    assert f"  completar endpoints {verb} " in told
    assert "--namespace" in told
