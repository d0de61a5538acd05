"""Who works, as an operator sees it: also when nobody is left to say that a worker died."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_cli import Inside
from tests.support.web import Web, web
from worker.domain.release import RELEASE
from worker.store import workers
from worker.store.moment import later
from worker.store.tables import worker


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "server").mkdir()
    with web(database_url, tmp_path / "server") as made:
        yield made


def killed(site: Web) -> None:
    """Every worker was heard of a minute ago, and there is no other to declare it dead."""
    with site.deps.database.write() as conn:
        conn.execute(worker.update().where(worker.c.dead_at.is_(None)).values(heartbeat_at=later(-60.0)))


def test_a_worker_that_was_killed_is_not_counted_as_alive(site: Web) -> None:
    with site.working():
        assert site.get("/v1/providers").json["workers"] == 1
        killed(site)
        assert site.get("/v1/providers").json["workers"] == 0


def test_each_process_is_listed_with_its_state(site: Web) -> None:
    with site.working() as working:
        working._beat()
        told = site.get("/v1/workers").json
        (one,) = told["data"]
        assert (told["alive"], one["id"], one["state"], one["release"]) == (1, working.id, "alive", RELEASE)
        assert {lane["lane"]: lane["in_flight"] for lane in one["lanes"]} == {"batch": 0, "interactive": 0}
        assert one["gone_at"] is None
        killed(site)
        assert [one["state"] for one in site.get("/v1/workers").json["data"]] == ["silent"]
    told = site.get("/v1/workers").json
    assert (told["alive"], told["data"][0]["state"]) == (0, "gone")
    assert told["data"][0]["gone_at"] >= told["data"][0]["started_at"]


def test_the_command_ends_well_only_where_one_is_alive(site: Web, tmp_path: Path) -> None:
    with site.served() as url:
        cli = Inside(tmp_path, COMPLETAR_URL=url, COMPLETAR_API_KEY=site.key)
        assert "No worker is alive" in cli("workers", code=1).stderr
        with site.deps.database.write() as conn:
            workers.register(conn, worker_id="wrk_1", host="box", pid=7, lanes=["batch"], release="0.1")
        assert re.search(r"^wrk_1\talive\tbatch\t0.1\tbox\t7\t", cli("workers").stdout, re.MULTILINE)
        assert cli.json("workers", "--json")["alive"] == 1
