"""A full queue and a project's own bounds, as people see them in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_cli import Cli, Inside
from tests.support import scripted_provider as script
from tests.support.processes import Processes
from tests.support.scripted_provider import ScriptedProvider
from tests.support.web import Web, web
from worker.domain import intake as judged
from worker.store import intake

pytestmark = pytest.mark.slow

HI = {"input": {"prompt": "hi"}}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Nobody works yet."""
    monkeypatch.setattr(intake, "FRESH_S", 0.2)
    monkeypatch.setattr(judged, "UNKNOWN_S", 1)
    (tmp_path / "server").mkdir()
    with web(sqlite_url, tmp_path / "server", provider, COMPLETAR_QUEUE_DEPTH="2") as made:
        yield made


def test_a_full_queue_is_told_with_a_way_out(site: Web, tmp_path: Path) -> None:
    with site.served() as url:
        cli = Inside(tmp_path, COMPLETAR_URL=url, COMPLETAR_API_KEY=site.key)
        assert re.search(r"^interactive\t0\t2\t0 s\t3,600 s\topen$", cli("queue").stdout, re.MULTILINE)
        assert site.post("/v1/jobs", HI).status_code == site.post("/v1/jobs", HI).status_code == 202
        refused = cli("run", "hi", code=1)
        assert "2 jobs wait already, and 2 may (lane interactive). Nothing was stored." in refused.stderr
        assert "send it again later" in refused.stderr
        assert re.search(r"^interactive\t2\t2\t.*\tfull$", cli("queue").stdout, re.MULTILINE)
        assert cli.json("queue", "--json")["lanes"][0]["full"] is True


def test_a_batch_needs_no_place(site: Web, tmp_path: Path, processes: Processes) -> None:
    """Its lines wait in their file, not in the queue."""
    lines = Cli(tmp_path).write("in.jsonl", *[{"custom_id": f"n{i}", "input": {"prompt": f"{i}"}} for i in range(2)])
    with site.served() as url:
        assert site.post("/v1/jobs/bulk", {"jobs": [HI] * 2}).status_code == 202
        env = {"COMPLETAR_URL": url, "COMPLETAR_API_KEY": site.key, "COMPLETAR_DATA_DIR": str(tmp_path)}
        batch = processes.python(
            "batch", "-m", "api.cli", "batch", "run", str(lines), "-o", "out.jsonl", env=env, cwd=tmp_path
        )
        with site.working():
            assert batch.wait() == 0, batch.tail()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_project_is_given_bounds_and_loses_them(sqlite_url: str, tmp_path: Path) -> None:
    cli = Inside(tmp_path, DATABASE_URL=sqlite_url)
    cli("keys", "create", "--project", "shop")
    cli("projects", "limit", "shop", "--depth", "5000", "--age", "0")
    assert re.search(r"\tshop\t5,000\tno bound$", cli("projects", "list").stdout, re.MULTILINE)
    (shop,) = cli.json("projects", "list", "--json")
    assert (shop["name"], shop["queue_depth"], shop["queue_age_s"]) == ("shop", 5000, 0.0)
    cli("projects", "limit", "shop", "--depth", "usual")
    assert re.search(r"\tshop\tusual\tno bound$", cli("projects", "list").stdout, re.MULTILINE)
    assert "`completar projects list`" in cli("projects", "limit", "nobody", "--depth", "1", code=1).stderr
    assert "neither `usual` nor a number" in cli("projects", "limit", "shop", "--depth", "many", code=2).stderr
    assert "--depth, --age" in cli("projects", "limit", "shop", code=2).stderr


def test_doctor_says_how_workers_hear_of_jobs(tmp_path: Path, sqlite_url: str) -> None:
    cli = Inside(tmp_path, COMPLETAR_HINTS="sql", REDIS_URL="redis://127.0.0.1:1/0")
    assert re.search(r"^ok +hints +none needed", cli("doctor").stdout, re.MULTILINE)
    found = cli("doctor", DATABASE_URL=sqlite_url, GROQ_API_KEY="k").stdout
    assert re.search(r"^ok +hints +sql, no broker: workers look every 1 s", found, re.MULTILINE)
    away = cli("doctor", code=4, COMPLETAR_HINTS="redis").stdout
    assert "COMPLETAR_HINTS=sql" in away
