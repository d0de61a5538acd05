"""A job's events over a real socket: told as they happen, resumed where they broke off, bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from api.routes import job_events
from tests.support import scripted_provider as script
from tests.support.panel import says
from tests.support.scripted_provider import Hold, ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web

Json = Any
HI = {"input": {"prompt": "hi"}}
WAIT = {"Prefer": "wait=20"}


class Event(NamedTuple):
    name: str
    id: str
    data: Json


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        yield started


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(database_url, tmp_path, provider, COMPLETAR_WAITERS="2") as made:
        yield made


@pytest.fixture
def http(site: Web) -> Iterator[httpx.Client]:
    with site.served() as url, httpx.Client(base_url=url, headers=site.auth, timeout=20, trust_env=False) as client:
        yield client


def _read(lines: Iterator[str]) -> Iterator[Event]:
    """Events as a browser reads them; comments and the hint when to come back are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "event" in fields:
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


def _all(http: httpx.Client, path: str, last: str | None = None) -> list[Event]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        return list(_read(answer.iter_lines()))


def test_events_come_as_they_happen(site: Web, http: httpx.Client, provider: ScriptedProvider) -> None:
    job = site.post("/v1/jobs", HI).json
    held = provider.hold(script.chat("Hello"))
    with http.stream("GET", job["urls"]["events"]) as answer:
        events = _read(answer.iter_lines())
        queued = next(events)
        assert (queued.name, queued.id, queued.data["version"]) == ("job.queued", "1.0", 1)
        assert queued.data["job"]["status"] == "queued"
        with site.working():
            running = next(events)
            assert (running.name, running.id, running.data["job"]["status"]) == (
                "job.in_progress",
                "2.0",
                "in_progress",
            )
            calling = next(events)
            assert (calling.name, calling.id, calling.data["attempt"]["state"]) == ("job.attempt", "2.0", "sent")
            held.release()
            called, done = list(events)
    assert (called.name, called.id, called.data["attempt"]["state"]) == ("job.attempt", "2.1", "answered")
    assert (done.name, done.id, done.data["version"]) == ("job.completed", "3.1", 3)
    assert done.data["job"] == site.get(job["urls"]["self"]).json
    assert {event.data["job_id"] for event in (queued, running, calling, called, done)} == {job["id"]}


def test_who_comes_late_is_told_everything(site: Web, http: httpx.Client, provider: ScriptedProvider) -> None:
    provider.error(500, "broken")
    provider.chat("Hello")
    with site.working():
        job = site.post("/v1/jobs", HI, WAIT).json
    events = _all(http, job["urls"]["events"])
    assert [(event.name, event.id) for event in events] == [
        ("job.queued", "1.0"),
        ("job.in_progress", "2.0"),
        ("job.attempt", "2.1"),
        ("job.attempt", "2.2"),
        ("job.completed", "3.2"),
    ]
    assert [event.data.get("job") is None for event in events] == [True, True, True, True, False]


def test_a_stream_goes_on_from_every_place_it_may_have_broken_off(
    site: Web, http: httpx.Client, provider: ScriptedProvider
) -> None:
    provider.error(500, "broken")
    provider.chat("Hello")
    with site.working():
        job = site.post("/v1/jobs", HI, WAIT).json
    whole = _all(http, job["urls"]["events"])
    for place, event in enumerate(whole[:-1]):
        assert _all(http, job["urls"]["events"], event.id) == whole[place + 1 :]
    known = http.get(job["urls"]["events"], headers={"Last-Event-ID": whole[-1].id})
    assert (known.status_code, known.content) == (204, b"")
    assert _all(http, job["urls"]["events"], "no id of ours") == whole


def test_every_end_of_calls_that_overlap_is_told_also_after_a_cut(
    site: Web, http: httpx.Client, provider: ScriptedProvider
) -> None:
    """The calls of a panel end in any order."""
    held = {name: Hold() for name in ("x", "y", "z")}
    provider.always(lambda request: replace(says(True), hold=held[request.json["model"]]))
    asked = {"question": "Will it rain?", "answer": {"type": "boolean"}, "panel": [f"stub/{name}" for name in held]}
    job = site.post("/v1/predictions", {**asked, "consensus": {"early_stop": False}}).json
    path = job["urls"]["events"]
    with site.working(), http.stream("GET", path) as answer:
        events = _read(answer.iter_lines())
        sent = list(islice((event for event in events if event.name == "job.attempt"), 3))
        models = {event.data["attempt"]["number"]: event.data["attempt"]["model"] for event in sent}
        seen = []
        for number in (3, 1, 2):
            held[models[number]].release()
            seen.append(next(events))
        rest = list(events)
    told = [(event.data["attempt"]["number"], event.data["attempt"]["state"], event.id) for event in seen]
    assert told == [(3, "answered", "2.0"), (1, "answered", "2.1"), (2, "answered", "2.3")]
    assert [event.name for event in rest] == ["job.completed"]
    for event, missing in zip(seen, ([1, 2, 3], [2, 3], []), strict=True):
        again = _all(http, path, event.id)
        assert [one.data["attempt"]["number"] for one in again[:-1]] == missing, "3 once more rather than never"
        assert again[-1] == rest[-1]


@pytest.mark.parametrize("end", ["cancelled", "failed", "expired"])
def test_every_end_is_told(site: Web, http: httpx.Client, provider: ScriptedProvider, end: str) -> None:
    if end == "cancelled":
        job = site.post("/v1/jobs", HI).json
        site.post(job["urls"]["cancel"])
    else:
        provider.always(script.error(400, "no") if end == "failed" else script.hang())
        with site.working():
            job = site.post("/v1/jobs", {**HI, "deadline_s": 1 if end == "expired" else 60}, WAIT).json
    events = _all(http, job["urls"]["events"])
    assert events[0].name == "job.queued"
    assert events[-1].name == f"job.{end}"
    assert events[-1].data["job"]["status"] == end


def test_a_parked_job_is_told_as_queued_again(site: Web, http: httpx.Client, provider: ScriptedProvider) -> None:
    provider.error(429, "wait", code="rate_limit_exceeded", headers={"retry-after": "30"})
    job = site.post("/v1/jobs", {**HI, "lane": "batch"}).json
    with http.stream("GET", job["urls"]["events"]) as answer:
        events = _read(answer.iter_lines())
        with site.working():
            parked = next(event for event in events if event.name == "job.queued" and event.data["version"] > 1)
    assert (parked.id, parked.data["job"]["status"]) == ("3.1", "queued")
    assert parked.data["job"]["run_at"] > job["run_at"]


def test_a_stream_is_closed_in_time_and_says_that_it_lives(
    site: Web, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "LONGEST_S", 1.0)
    monkeypatch.setattr(job_events, "COMMENT_S", 0.3)
    job = site.post("/v1/jobs", HI).json
    with http.stream("GET", job["urls"]["events"]) as answer:
        lines = list(answer.iter_lines())
    assert lines[0].startswith("retry: ")
    assert 2 <= len([line for line in lines if line.startswith(":")]) <= 4
    assert [line for line in lines if line.startswith("event")] == ["event: job.queued"]


def test_streams_are_bounded_and_a_place_comes_back(
    site: Web, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events, "COMMENT_S", 0.1)
    job = site.post("/v1/jobs", HI).json
    with http.stream("GET", job["urls"]["events"]) as first:
        next(first.iter_lines())
        refused = http.get(job["urls"]["events"])
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "?wait=" in refused.json()["detail"]
    for _ in range(3):
        assert http.head(job["urls"]["events"]).status_code == 200  # takes no place, so gives none back

    def back() -> bool:
        with http.stream("GET", job["urls"]["events"]) as again:
            return again.status_code == 200

    wait_until(back, "the place of the client that left")
