"""Pauses as people see and make them: the API, and the commands that use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.cli import batch_run
from api.cli.batch_run import BatchRun
from api.cli.client import Client
from api.cli.lines import Line
from api.cli.main import root
from api.cli.progress import Progress
from api.cli.results import Output, Sums
from api.cli.screen import Screen
from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web
from worker import events
from worker.domain.pause import Cause, PauseKind, Scope
from worker.store import pauses

JOB = {"model": "stub", "lane": "batch", "input": {"prompt": "hi"}}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(database_url, tmp_path, provider, COMPLETAR_LOG_LEVEL="error") as made:
        yield made


def held(site: Web) -> list[dict[str, Any]]:
    (stub,) = site.get("/v1/providers").json["data"]
    found: list[dict[str, Any]] = stub["pauses"]
    return found


def waiting(site: Web, job: Any) -> Any:
    return wait_until(lambda: site.get(job["urls"]["self"]).json["waiting_for"], "the job to be parked")


def test_a_spent_account_is_shown_with_the_jobs_that_wait_and_ends_by_command(
    site: Web, provider: ScriptedProvider
) -> None:
    provider.always(script.error(429, "no money for sk-abcdefghijklmnop", code="insufficient_quota"))
    assert held(site) == []
    with site.working():
        job = site.post("/v1/jobs", JOB).json
        assert job["waiting_for"] is None
        found = waiting(site, job)
        (pause,) = held(site)
        assert found == {name: pause[name] for name in ("of", "kind", "reason", "since", "until")}
        assert (pause["covers"], pause["account"], pause["key"], pause["target"]) == ("account", "stub", None, None)
        assert (pause["kind"], pause["probes"]) == ("quota", 0)
        assert pause["reason"] == "account stub has no quota left: no money for ***"
        looked = site.get(job["urls"]["self"])
        assert looked.json["run_at"] == pause["until"]
        assert (looked.json["status"], looked.json["attempts"]) == ("queued", 1)
        provider.always(script.chat("paid"))
        answer = site.post("/v1/providers/stub/resume")
        assert (answer.status_code, answer.json["data"]) == (200, [])
        assert site.get(job["urls"]["self"]).headers["ETag"] != looked.headers["ETag"]
        assert site.get(f"{job['urls']['self']}?wait=10").json["status"] in {"queued", "in_progress", "completed"}
        wait_until(lambda: site.get(job["urls"]["self"]).json["status"] == "completed", "the job to go on", 5)


def test_a_pause_by_hand_holds_jobs_back_without_a_call(site: Web, provider: ScriptedProvider) -> None:
    answer = site.post("/v1/providers/stub/pause", {"reason": "a\ndrill"})
    assert answer.status_code == 200
    (pause,) = answer.json["data"]
    assert (pause["of"], pause["kind"], pause["reason"], pause["until"]) == (
        "provider stub",
        "operator",
        "a drill",
        None,
    )
    with site.working():
        job = site.post("/v1/jobs", JOB).json
        assert waiting(site, job)["reason"] == "a drill"
        assert provider.requests == []
        assert site.post("/v1/providers/stub/resume", {}).json["data"] == []
        wait_until(lambda: site.get(job["urls"]["self"]).json["status"] == "completed", "the job to go on", 5)


def test_a_key_and_a_target_are_held_one_by_one(site: Web) -> None:
    assert site.post("/v1/providers/stub/pause", {"key": "STUB_KEY"}).json["data"][0]["key"] == "STUB_KEY"
    opened = site.post("/v1/targets/open", {"target": "stub/scripted"}).json["data"]
    assert [(one["covers"], one["target"], one["kind"]) for one in opened][1:] == [
        ("target", "stub/scripted", "operator")
    ]
    with site.deps.database.write() as conn:
        pauses.begin(conn, Cause(Scope("grant", "stub", "stub/m", "STUB_KEY"), PauseKind.PERMISSION, "x"))
    left = site.post("/v1/providers/stub/resume", {"key": "STUB_KEY"}).json["data"]
    assert [one["of"] for one in left] == ["stub/scripted"], "with the key goes what it was refused"
    assert [one["of"] for one in site.post("/v1/providers/stub/resume").json["data"]] == ["stub/scripted"]
    assert site.post("/v1/targets/close", {"target": "stub"}).json["data"] == [], "by its default model"


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/providers/stubb/pause", None, 404, "Did you mean stub?"),
        ("/v1/providers/nobody/resume", None, 404, "Known here: stub"),
        ("/v1/providers/stub/pause", {"key": "STUB_KEX"}, 404, "Did you mean STUB_KEY?"),
        ("/v1/providers/stub/pause", {"kee": "x"}, 422, "Did you mean key?"),
        ("/v1/providers/stub/pause", {"reason": "x" * 201}, 422, "reason"),
        ("/v1/targets/open", {"target": "nobody/m"}, 404, "write provider/model"),
        ("/v1/targets/open", {}, 422, "target"),
        ("/v1/targets/close", None, 400, "JSON"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(site: Web, path: str, body: Any, status: int, says: str) -> None:
    answer = site.post(path, body) if body is not None else site.client.post(path, headers=site.auth, data=b"")
    if body is None and "targets" in path:
        answer = site.post(path, data="")
    assert answer.status_code == status
    assert says in answer.get_data(as_text=True)
    assert held(site) == []


def _run(site: Web, monkeypatch: pytest.MonkeyPatch, url: str, *arguments: str, key: str | None = None) -> Result:
    monkeypatch.setenv("COMPLETAR_URL", url)
    monkeypatch.setenv("COMPLETAR_API_KEY", key if key is not None else site.key)
    monkeypatch.setenv("COMPLETAR_DATA_DIR", str(site.deps.settings.data_dir))
    return CliRunner().invoke(root, ["providers", *arguments], obj=Screen())


def test_a_run_over_a_file_says_why_its_lines_stand_still(
    site: Web, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.post("/v1/providers/stub/pause", {"reason": "a drill"})
    monkeypatch.setattr(batch_run, "WAIT_S", 1)
    monkeypatch.setattr(batch_run, "TELL_S", 0.0)
    lines = [Line(number, None, {"model": "stub", "input": {"prompt": "hi"}}) for number in range(1, 4)]
    looks = iter(range(4))

    class Watched(Progress):
        """The way is free once it was looked at a few times."""

        def update(self, sums: Sums, total: int) -> None:
            if next(looks, None) is None:
                site.post("/v1/providers/stub/resume")

    with site.working(), site.served() as url, closing(Client(url, site.key, Screen())) as client:
        run = BatchRun(client, Screen(), Output(StringIO()), Watched(Screen()), lambda: lines)
        run.run()
    assert (run.sums.done, run.sums.ended) == (3, 3)
    assert capsys.readouterr().err.count("Lines wait for provider stub: a drill.") == 1


def test_the_commands(site: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_threshold", 40)  # the server shares this process's output
    with site.served() as url:
        run = lambda *arguments, **more: _run(site, monkeypatch, url, *arguments, **more)  # noqa: E731
        paused = run("pause", "stub", "--key", "STUB_KEY", "--reason", "a drill")
        assert paused.exit_code == 0, paused.output
        assert paused.stdout.split("\t")[:2] == ["key STUB_KEY of stub", "operator"]
        assert run("open", "stub/scripted").stdout.count("\n") == 2
        seen = json.loads(run("pauses", "--json").stdout)["pauses"]
        assert [one["of"] for one in seen] == ["key STUB_KEY of stub", "stub/scripted"]
        assert run("pauses", "other").stdout == ""
        assert run("resume", "stub").stdout.startswith("stub/scripted\t")
        closed = run("close", "stub/scripted")
        assert (closed.exit_code, closed.stdout, closed.stderr) == (0, "", "Nothing is paused.\n")
        assert held(site) == []
        for refused in (run("pause", "nobody"), run("pause", "../jobs"), run("open", "nobody/m")):
            assert refused.exit_code == 1
            assert refused.exception is not None
        _, reader = site.new_key("jobs:read", "jobs:write")
        told = run("pause", "stub", key=reader)
        assert "admin" in str(told.exception)
