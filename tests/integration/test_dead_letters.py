"""Jobs that kill their workers: counted, isolated, convicted, listed and run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.web import Web, web
from worker import clock
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Ending, NewJob
from worker.domain.state import AttemptState, JobStatus
from worker.store import attempts, claims, deaths, jobs, new_jobs, orphans, settling, views, workers
from worker.store.database import Database
from worker.store.settling import Settle

PROJECT = "proj_a"
HI = {"input": {"prompt": "hi"}}


def stored(database: Database, n: int, lane: Lane = Lane.BATCH) -> list[str]:
    new = [NewJob(clock.new_id("job"), PROJECT, "completion", lane, ("a/m",), {}) for _ in range(n)]
    with database.write() as conn:
        new_jobs.insert(conn, new)
    return [job.id for job in new]


def kill(database: Database, claim: Any = None, *, calling: str | None = None) -> list[str]:
    """A worker claims, and dies. The ids it had."""
    worker_id = clock.new_id("wrk")
    with database.write() as conn:
        workers.register(conn, worker_id=worker_id, host="box", pid=77, lanes=["batch"], release="1")
        if claim is None:
            held = claims.claim_block(conn, Lane.BATCH, 50, worker_id=worker_id, claim_id=clock.new_id("clm"))
        else:
            one = claims.claim_suspect(conn, claim, worker_id=worker_id, claim_id=clock.new_id("clm"))
            held = [one] if one is not None else []
        for job in held:
            if job.id == calling:
                row = AttemptRow(
                    clock.new_id("att"),
                    job.id,
                    job.claim_id,
                    1,
                    AttemptState.SENT,
                    target="a/m",
                    provider="a",
                    model="m",
                )
                attempts.begin(conn, [row])
        orphans.take_back(conn, worker_id)
    return [job.id for job in held]


def test_three_deaths_without_a_call_convict_and_say_what_happened(database: Database) -> None:
    (job_id,) = stored(database, 1)
    assert kill(database) == [job_id]
    assert kill(database, calling=job_id) == [job_id]
    assert kill(database) == [], "a suspect is not claimed with others"
    assert kill(database, [Lane.INTERACTIVE]) == [], "nor by a worker that does not serve its lane"
    assert kill(database, [Lane.INTERACTIVE, Lane.BATCH]) == [job_id]
    with database.read() as conn:
        job = views.get(conn, PROJECT, job_id)
        seen = deaths.of_jobs(conn, [job_id])[job_id]
    assert job is not None
    assert (job.status, job.error["kind"], job.error["retryable"]) == (JobStatus.FAILED, "poison", False)
    assert [(d.host, d.pid, d.in_flight, d.open_target) for d in seen] == [
        ("box", 77, 1, None),
        ("box", 77, 1, "a/m"),
        ("box", 77, 1, None),
    ]
    assert all(d.heartbeat_at is not None and d.heartbeat_at <= d.found_at for d in seen)


def test_of_a_crowd_only_one_is_convicted_by_a_death(database: Database) -> None:
    ids = stored(database, 20)
    assert set(kill(database)) == set(kill(database)) == set(ids)
    (culprit,) = kill(database, [Lane.BATCH])
    with database.read() as conn:
        found = views.many(conn, PROJECT, ids)
    assert {job_id: job.status for job_id, job in found.items()} == {
        job_id: JobStatus.FAILED if job_id == culprit else JobStatus.QUEUED for job_id in ids
    }


def test_two_processes_take_two_suspects(database: Database) -> None:
    ids = stored(database, 2)
    kill(database)
    kill(database)
    with database.write() as conn:
        taken = [claims.claim_suspect(conn, [Lane.BATCH], worker_id=w, claim_id=w) for w in ("w1", "w2", "w3")]
        assert claims.claim(conn, ids, worker_id="w4", claim_id="w4") == [], "nor is one claimed by its id"
    assert sorted(job.id for job in taken if job is not None) == sorted(ids)
    assert taken[2] is None
    assert all(job.suspect and job.deaths == 2 for job in taken if job is not None)


def test_what_is_purged_leaves_no_deaths_behind(database: Database) -> None:
    (job_id,) = stored(database, 1)
    kill(database)
    kill(database)
    kill(database, [Lane.BATCH])
    with database.write() as conn:
        assert jobs.purge(conn, -1.0) == 1
        assert deaths.of_jobs(conn, [job_id]) == {job_id: []}
        assert views.listed(conn, PROJECT, views.Filter(dead_letter=True)) == ([], False)


# -- the API and the command line ---------------------------------------------------------------------------------


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Web]:
    with web(database_url, tmp_path) as made:
        yield made


def broken(site: Web, kind: FailureKind) -> str:
    """A job that ended so."""
    from worker.domain.answer import Failure

    job_id: str = site.post("/v1/jobs", HI).json["id"]
    with site.deps.database.write() as conn:
        (job,) = claims.claim(conn, [job_id], worker_id="wrk_x", claim_id=clock.new_id("clm"))
        end = Ending(JobStatus.FAILED, error=Failure(kind, "it broke"))
        settling.settle(conn, [Settle(job.id, job.claim_id, end)])
    return job_id


def poisoned(site: Web) -> str:
    job_id: str = site.post("/v1/jobs", {**HI, "lane": "batch"}).json["id"]
    kill(site.deps.database)
    kill(site.deps.database)
    kill(site.deps.database, [Lane.BATCH])
    return job_id


def test_dead_letters_are_listed_shown_and_replayed_as_new_jobs(site: Web) -> None:
    broken(site, FailureKind.SERVER_ERROR)
    internal, poison = broken(site, FailureKind.INTERNAL), poisoned(site)
    page = site.get("/v1/dead_letters").json
    assert [(one["id"], one["job"]["error"]["kind"], len(one["deaths"])) for one in page["data"]] == [
        (poison, "poison", 3),
        (internal, "internal", 0),
    ]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, poison, internal)
    again = site.post(f"/v1/dead_letters/{poison}/replay", headers={"Idempotency-Key": "once"})
    assert again.status_code == 202
    assert again.json["retry_of"] == poison
    same = site.post(f"/v1/dead_letters/{poison}/replay", headers={"Idempotency-Key": "once"})
    assert same.json["id"] == again.json["id"]
    assert site.get(f"/v1/dead_letters/{poison}").json["replays"] == [again.json["id"]]
    assert [one["id"] for one in site.get("/v1/dead_letters?replayed=false").json["data"]] == [internal]
    assert [one["id"] for one in site.get("/v1/dead_letters?replayed=true").json["data"]] == [poison]
    first = site.get("/v1/dead_letters?limit=1").json
    assert (first["has_more"], first["last_id"]) == (True, poison)
    assert [one["id"] for one in site.get(f"/v1/dead_letters?after={poison}").json["data"]] == [internal]


def test_what_is_no_dead_letter_is_not_found_and_others_see_none(site: Web) -> None:
    failed, dead = broken(site, FailureKind.SERVER_ERROR), broken(site, FailureKind.INTERNAL)
    assert site.get(f"/v1/dead_letters/{failed}").status_code == 404
    assert site.post(f"/v1/dead_letters/{failed}/replay").status_code == 404
    assert site.get("/v1/dead_letters?replayed=perhaps").status_code == 422
    _, other = site.new_key(project="other")
    auth = {"Authorization": f"Bearer {other}"}
    assert site.client.get("/v1/dead_letters", headers=auth).json["data"] == []
    assert site.client.get(f"/v1/dead_letters/{dead}", headers=auth).status_code == 404


def test_the_command_line_lists_shows_and_replays(sqlite_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    from api.cli.main import root
    from api.cli.screen import Screen

    with web(sqlite_url, tmp_path) as site, site.served() as url:
        poison = poisoned(site)
        monkeypatch.setenv("COMPLETAR_URL", url)
        monkeypatch.setenv("COMPLETAR_API_KEY", site.key)

        def run(*words: str) -> str:
            done = CliRunner().invoke(root, ["dead-letters", *words], obj=Screen(), catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.stdout

        assert poison in run("list")
        shown = run("show", poison)
        assert "3 times" in shown
        assert shown.count("box") == 3
        new = run("replay", poison).strip()
        assert json.loads(run("show", poison, "--json"))["replays"] == [new]
        assert poison not in run("list")
        assert poison in run("list", "--all")
