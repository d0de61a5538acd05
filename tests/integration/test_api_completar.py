"""POST /completar, in both languages, and what operators are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web

Json = Any
TURNS = [{"role": "user", "content": "hola"}]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        yield started


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(database_url, tmp_path, provider) as made:
        yield made


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"prompt": "hola"}, {"messages": TURNS}),
        ({"mensajes": TURNS}, {"messages": TURNS}),
        ({"messages": TURNS}, {"messages": TURNS}),
        (
            {"prompt": "hola", "system": "Be brief.", "max_tokens": 9, "temperature": 0},
            {"messages": [{"role": "system", "content": "Be brief."}, *TURNS], "max_tokens": 9, "temperature": 0},
        ),
        (
            {"mensajes": TURNS, "sistema": "Sé breve.", "temperatura": 0.5, "proveedor": "stub", "espera_s": 20},
            {"messages": [{"role": "system", "content": "Sé breve."}, *TURNS], "temperature": 0.5},
        ),
        ({"prompt": "hola", "provider": "Stub", "wait_s": 20}, {"messages": TURNS}),
    ],
)
def test_a_text_in_a_text_out(site: Web, provider: ScriptedProvider, asked: Json, sent: Json) -> None:
    provider.chat("¡Hola!", tokens=(4, 2))
    with site.working():
        answer = site.post("/completar", asked)
    assert answer.status_code == 200
    job_id = answer.headers["x-completar-job"]
    assert answer.json == {
        "id": job_id,
        "texto": "¡Hola!",
        "proveedor": "Stub Provider",
        "llave": "STUB_KEY",
        "modelo": "scripted-model",
        "uso": {"input_tokens": 4, "output_tokens": 2, "cached_tokens": None, "reasoning_tokens": None},
        "intentos": 1,
    }
    assert "¡Hola!" in answer.get_data(as_text=True)  # as it is, for people who read it
    assert json.loads(provider.requests[0].body) == {"model": "scripted", **sent}
    assert site.get(f"/v1/jobs/{job_id}").json["status"] == "completed"


def test_not_done_in_time_it_tells_where_to_ask(site: Web, provider: ScriptedProvider) -> None:
    held = provider.hold(script.chat("tarde"))
    with site.working():
        answer = site.post("/completar", {"prompt": "hola", "espera_s": 0.3})
        assert answer.status_code == 202
        assert set(answer.json) == {"id", "estado", "url"}
        assert answer.json["estado"] == "in_progress"
        assert answer.headers["Location"] == answer.json["url"]
        held.release()
        wait_until(lambda: site.get(answer.json["url"]).json["status"] == "completed", "the job's end")
    assert site.post("/completar", {"prompt": "hola", "espera_s": 0}).json["estado"] == "queued"


@pytest.mark.parametrize(
    ("status", "code", "told", "spanish"),
    [
        (400, "context_length_exceeded", 400, "Demasiado largo para el modelo"),
        (500, None, 502, "Ningún proveedor respondió"),
        (503, None, 503, "Un proveedor está saturado y ningún otro respondió"),
    ],
)
def test_a_failure_is_told_in_both_languages(
    site: Web, provider: ScriptedProvider, status: int, code: str | None, told: int, spanish: str
) -> None:
    provider.always(script.error(status, "no", code=code))
    with site.working():
        answer = site.post("/completar", {"prompt": "hola"})
    assert answer.status_code == told
    assert answer.mimetype == "application/problem+json"
    assert spanish in answer.json["detail"]
    assert answer.json["title"] in answer.json["detail"]
    assert answer.json["job"] == answer.headers["x-completar-job"]


def test_a_key_makes_one_job(site: Web) -> None:
    answers = [
        site.post("/completar", {"prompt": "hola", "espera_s": 0}, {"Idempotency-Key": "k"}).json for _ in range(2)
    ]
    assert answers[0]["id"] == answers[1]["id"]


def test_operators_see_what_workers_see(site: Web, provider: ScriptedProvider) -> None:
    assert site.client.get("/healthz").json == {"status": "ok"}
    ready = site.client.get("/readyz")
    assert (ready.status_code, ready.json) == (
        200,
        {"status": "ready", "database": "up", "migrations": "current", "hints": "local", "broker": "none"},
    )
    assert site.get("/v1/providers").json["workers"] == 0
    (route,) = site.get("/v1/routes").json["data"]
    assert (route["name"], route["targets"], route["max_attempts"]) == ("default", ["stub/scripted"], 2)

    provider.always(script.error(503, "down"))
    with site.working() as worker:
        site.post("/v1/jobs/bulk", {"jobs": [{"input": {"prompt": "hi"}, "lane": "interactive"}] * 8})

        def listed() -> Json:
            worker._beat()
            return site.get("/v1/providers").json

        wait_until(lambda: listed()["data"][0]["targets"][0]["state"] == "open", "the breaker to open")
        seen = listed()
    assert seen["workers"] == 1
    (stub,) = seen["data"]
    assert (stub["name"], stub["label"], stub["format"], stub["is_sandbox"]) == (
        "stub",
        "Stub Provider",
        "openai",
        False,
    )
    (target,) = stub["targets"]
    assert target["name"] == "stub/scripted"
    assert target["wait_s"] > 0
