"""The OpenAPI document is valid, tells the truth, and says all of it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from openapi_spec_validator import validate
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from api.app import OPERATIONS
from api.openapi import document
from api.problems import FAILED, SORTS
from api.routes import job_events
from tests.support.processes import ROOT
from tests.support.scripted_provider import Received, Script, ScriptedProvider, chat, embeddings
from tests.support.web import Web, web
from worker.domain.failure import FailureKind
from worker.domain.release import RELEASE

Json = Any


def _answer(request: Received) -> Script:
    if not request.path.endswith("/embeddings"):
        return chat("Hello")
    asked = json.loads(request.body)["input"]
    several = isinstance(asked, list) and not isinstance(asked[0], int)
    return embeddings([[0.5, 0.25]] * (len(asked) if several else 1))


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    """With a worker and a provider that always answers."""
    with (
        ScriptedProvider() as provider,
        web(sqlite_url, tmp_path, provider, COMPLETAR_LOG_LEVEL="error", COMPLETAR_SECRET_KEY="k" * 32) as made,
        made.working(),
    ):
        provider.always(_answer)
        yield made


@pytest.fixture
def hooks() -> Iterator[None]:
    """What JSON Schema cannot say of a valid request is seen to here."""

    @schemathesis.hook
    def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
        case.headers.pop("Idempotency-Key", None)  # the same one with another body is refused, as it should be
        if case.meta.generation.mode.is_positive:
            _name_what_exists(case.body)

    yield
    schemathesis.hooks.unregister_all()


def _name_what_exists(body: Json) -> None:
    if isinstance(body, list):
        for part in body:
            _name_what_exists(part)
    if not isinstance(body, dict):
        return
    if "question" in body:  # which answers go with which settings, JSON Schema cannot say
        body.update(question="Is it so?", answer={"type": "boolean"}, panel=None, consensus=None)
    for name, value in body.items():
        if name == "model" and value:
            body[name] = "default"
        elif name == "models" and value:
            body[name] = ["default"]
        elif name in {"provider", "proveedor"} and value:
            body[name] = "stub"
        elif name == "output_schema":
            body[name] = None
        elif name == "url":  # no schema can say what may be called; a literal asks no resolver
            body[name] = "https://1.1.1.1/"
        elif name == "headers":
            body[name] = {"X-Known": "value"}
        elif name in {"since", "until"}:
            body[name] = "2026-01-31T12:00:00Z"
        elif name in {"webhook", "jobs"} or (name == "input" and isinstance(value, dict) and "question" in value):
            _name_what_exists(value)


def _found(schema: Any) -> Iterator[str]:
    """What schemathesis finds: broken promises of the document, in words."""
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            yield f"{event.label}: {event.info}"
        if isinstance(event, events.FatalError):
            yield str(event.exception)
        if isinstance(event, events.ScenarioFinished):
            for checks in event.recorder.checks.values():
                for check in checks:
                    if check.failure_info is not None:
                        fault = check.failure_info.failure
                        yield f"{event.recorder.label}: {fault.title} {fault.message}\n{check.failure_info.code_sample}"


@pytest.mark.slow
@pytest.mark.usefixtures("hooks")
@pytest.mark.timeout(1000)
def test_schemathesis_finds_nothing(site: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(job_events, "LONGEST_S", 1.0)
    monkeypatch.chdir(tmp_path)  # it keeps notes in the working folder
    config = SchemathesisConfig.from_dict(
        {
            "auth": {"openapi": {"bearer": {"bearer": site.key}}},
            # Its own check of keys does not work over WSGI; tests/contract/test_api_keys.py walks all routes.
            "checks": {"ignored_auth": {"enabled": False}},
            "generation": {"deterministic": True, "max-examples": 5, "database": "none"},
            "phases": {"stateful": {"max-steps": 3}},
            "suppress-health-check": ["filter_too_much"],
            "operations": [
                {  # which parts there are, no schema can say
                    "include-name": "POST /v1/uploads/{upload_id}/complete",
                    "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "404", "409"]}},
                }
            ],
        }
    )
    schema = schemathesis.openapi.from_wsgi("/openapi.json", site.app, config=config)
    seen = sorted(set(_found(schema)))
    assert not seen, "\n\n".join(seen[:5])


def test_the_document_is_valid_openapi() -> None:
    made = document(OPERATIONS)
    validate(made)
    assert made["openapi"] == "3.1.0"


def test_the_document_names_every_operation_with_its_key_and_its_problems() -> None:
    made = document(OPERATIONS)
    for operation in OPERATIONS:
        told = made["paths"][operation.path][operation.method.lower()]
        assert told["security"] == ([] if operation.scope is None else [{"bearer": []}])
        statuses = {sort.openai[0] if operation.face == "openai" else sort.status for sort in operation.possible}
        assert {str(status) for status in {*operation.answers, *statuses}} == set(told["responses"])
        assert all("x-request-id" in answer["headers"] for answer in told["responses"].values())
    assert len(OPERATIONS) == sum(len(methods) for methods in made["paths"].values())


def test_the_document_has_no_titles_that_repeat_names_and_no_bounds_that_vanished() -> None:
    text = json.dumps(document(OPERATIONS))
    assert '"ge":' not in text
    assert '"title": "Input Tokens"' not in text


def test_the_version_is_the_programs() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == RELEASE


def test_every_kind_of_failure_has_a_status_and_every_sort_is_documented() -> None:
    assert set(FAILED) == set(FailureKind)
    assert set(FAILED.values()) <= set(SORTS)
    assert len({sort.slug for sort in SORTS}) == len(SORTS)


def test_the_page_shows_everything_and_fetches_nothing(site: Web) -> None:
    answer = site.client.get("/docs")
    page = answer.get_data(as_text=True)
    assert answer.content_type == "text/html; charset=utf-8"
    for operation in OPERATIONS:
        assert f"<code>{operation.path}</code>" in page
    for sort in SORTS:
        assert f'id="{sort.slug}"' in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_links_of_the_page_lead_somewhere(site: Web) -> None:
    page = site.client.get("/docs").get_data(as_text=True)
    anchors = set(re.findall(r'id="([^"]+)"', page))
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links
    assert links <= anchors
