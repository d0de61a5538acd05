"""POST /v1/predictions and what belongs to it: the ways to ask, what is refused and why, outcomes and scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from api.app import create_app
from tests.support.panel import PANEL, SPARE, by_name, calls, says, tables
from tests.support.scripted_provider import ScriptedProvider
from tests.support.web import Web
from worker.deps import build
from worker.services.hints import LocalHints
from worker.settings import SettingsError, load
from worker.store import keys, projects

Json = Any
ASKED: Final = {"question": "Will it rain?", "answer": {"type": "boolean"}, "panel": list(PANEL[:3])}
WAIT: Final = {"Prefer": "wait=20"}
CONFIG: Final = """
[routes.default]
targets = ["a/model-a", "spare/model-s"]
backoff = {{ base_s = 0.01, cap_s = 0.01 }}

{tables}

[panels.three]
members = ["a/model-a", {{ model = "b/model-b", fallback = ["spare/model-s"], name = "second" }}, "c/model-c"]
consensus = {{ tie = "first_member", early_stop = false }}
"""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(by_name({"c": says(False, 0.7)}, says(True, 0.8)))
        yield running


@contextmanager
def site_on(url: str, folder: Path, provider: ScriptedProvider) -> Iterator[Web]:
    file = folder / "completar.toml"
    file.write_text(CONFIG.format(tables=tables(provider.url)), encoding="utf-8")
    hints = LocalHints()
    deps = build(load({"DATABASE_URL": url, "COMPLETAR_DATA_DIR": str(folder)}, file), hints, connections=8)
    with closing(deps.database):
        with deps.database.write() as conn:
            _, secret = keys.create(conn, projects.ensure(conn), "all")
        yield Web(deps, hints, create_app(deps), secret)


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with site_on(database_url, tmp_path, provider) as made, made.working():
        yield made


@pytest.fixture
def idle(sqlite_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    """Nobody works: for what is decided at the door."""
    with site_on(sqlite_url, tmp_path, provider) as made:
        yield made


def members(job: Json) -> list[str]:
    return [vote["member"] for vote in job["result"]["votes"]]


def test_a_question_is_asked_waited_for_and_answered(site: Web) -> None:
    answer = site.post("/v1/predictions", {**ASKED, "consensus": {"early_stop": False}}, WAIT)
    job = answer.json
    assert answer.status_code == 200, answer.text
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["kind"], job["status"]) == ("prediction", "completed")
    assert job["models"] == list(PANEL[:3])
    result = job["result"]
    assert (result["answer"], result["consensus"], result["dissent"]) == (True, True, [PANEL[2]])
    assert (result["requested"], result["usable"], result["method"]) == (3, 3, "majority")
    attempts = site.get(f"/v1/jobs/{job['id']}/attempts").json["data"]
    assert sorted(one["member"] for one in attempts) == list(PANEL[:3])
    listed = site.get("/v1/jobs?kind=prediction").json["data"]
    assert [one["id"] for one in listed] == [job["id"]]


def test_the_ways_to_name_a_panel(site: Web) -> None:
    by_table = site.post("/v1/predictions", {**ASKED, "panel": "three"}, WAIT).json
    assert members(by_table) == [PANEL[0], "second", PANEL[2]]
    assert by_table["result"]["tie"] == "first_member"
    rest = {"question": "Will it rain?", "answer": {"type": "boolean"}, "model": "default", "n": 3}
    samples = site.post("/v1/predictions", {**rest, "consensus": {"early_stop": False}}, WAIT).json
    assert members(samples) == ["default#1", "default#2", "default#3"]
    seats = [PANEL[0], {"model": PANEL[1], "fallback": [SPARE], "name": "deputy"}]
    listed = site.post("/v1/predictions", {**ASKED, "panel": seats}, WAIT).json
    assert members(listed) == [PANEL[0], "deputy"]


def test_a_job_of_its_kind_and_many_at_once(site: Web) -> None:
    body = {"kind": "prediction", "input": ASKED, "metadata": {"for": "weather"}}
    job = site.post("/v1/jobs", body, WAIT).json
    assert (job["status"], job["metadata"]) == ("completed", {"for": "weather"})
    made = site.post("/v1/jobs/bulk", {"jobs": [body, {"input": {"prompt": "hi"}}, body]})
    assert made.status_code == 202
    assert [one["kind"] for one in made.json["data"]] == ["prediction", "completion", "prediction"]
    assert {one["lane"] for one in made.json["data"]} == {"batch"}


def test_a_key_makes_one_prediction(idle: Web) -> None:
    key = {"Idempotency-Key": "rain-1"}
    first, again = (idle.post("/v1/predictions", ASKED, key) for _ in range(2))
    assert first.json["id"] == again.json["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = idle.post("/v1/predictions", {**ASKED, "question": "Will it snow?"}, key)
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"question": " "}, "question"),
        ({"answer": {"type": "choice"}}, "answer.options"),
        ({"answer": {"type": "choice", "options": ["Yes", "yes"]}}, "answer.options[1]"),
        ({"answer": {"type": "boolean", "unit": "km"}}, "answer.unit"),
        ({"answer": {"type": "json"}}, "answer.schema"),
        ({"answer": {"type": "json", "schema": {"$ref": "http://example.com/x"}}}, "answer.schema"),
        ({"answer": {"type": "word"}}, "answer.type"),
        ({"panel": "four"}, "panel"),
        ({"panel": []}, "panel"),
        ({"panel": [PANEL[0]] * 26}, "panel"),
        ({"panel": [{"model": PANEL[0], "name": "judge"}]}, "panel"),
        ({"panel": ["nobody/knows"]}, "model"),
        ({"n": 3}, "n"),
        ({"consensus": {"method": "mean"}}, "consensus.method"),
        ({"consensus": {"quorum": 4}}, "consensus.quorum"),
        ({"consensus": {"method": "weighted"}}, "consensus.weights"),
        ({"consensus": {"method": "judge"}}, "consensus.judge"),
        ({"consensus": {"posterior": 0.4}}, "consensus.posterior"),
        ({"context": 3}, "context"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_faulty_question_is_told_what_is_wrong(idle: Web, change: Json, field: str) -> None:
    answer = idle.post("/v1/predictions", ASKED | change)
    assert answer.status_code in {400, 422}, answer.text
    (fault,) = answer.json["errors"]
    assert fault["field"].replace("[", ".").split(".")[0] == field.replace("[", ".").split(".")[0]
    assert fault["field"].startswith(field.split("[", maxsplit=1)[0])
    assert fault["remedy"]


def test_the_fields_of_a_job_are_told_where_they_stand(idle: Web) -> None:
    body = {"kind": "prediction", "input": {**ASKED, "answer": {"type": "choice", "options": ["one"]}}}
    (fault,) = idle.post("/v1/jobs", body).json["errors"]
    assert fault["field"] == "input.answer.options"
    faults = idle.post("/v1/jobs/bulk", {"jobs": [{"kind": "prediction", "input": ASKED}, body]}).json["errors"]
    assert [(one["line"], one["field"]) for one in faults] == [(2, "input.answer.options")]


def test_what_turned_out_to_be_true_is_recorded_corrected_and_scored(site: Web) -> None:
    job = site.post("/v1/predictions", {**ASKED, "consensus": {"early_stop": False}}, WAIT).json
    address = f"/v1/predictions/{job['id']}/outcome"
    first = site.post(address, {"value": True})
    assert first.status_code == 200, first.text
    assert (first.json["value"], first.json["corrected_at"]) == (True, None)
    assert site.post(address, {"value": True}).json == first.json
    scores = site.get("/v1/predictions/scores").json
    assert {one["model"]: one["accuracy"] for one in scores["data"]} == dict(
        zip(PANEL[:3], (1.0, 1.0, 0.0), strict=True)
    )
    assert scores["panel"]["accuracy"] == 1.0
    assert sum(one["count"] for one in scores["data"][0]["bins"]) == 1
    assert site.get("/v1/predictions/scores?type=number").json["data"] == []
    corrected = site.post(address, {"value": False}).json
    assert corrected["corrected_at"] is not None
    after = {one["model"]: one["accuracy"] for one in site.get("/v1/predictions/scores").json["data"]}
    assert after[PANEL[2]] == 1.0


def test_an_outcome_has_to_fit_and_belongs_to_its_project(site: Web) -> None:
    job = site.post("/v1/predictions", ASKED, WAIT).json
    address = f"/v1/predictions/{job['id']}/outcome"
    (fault,) = site.post(address, {"value": "perhaps"}).json["errors"]
    assert fault["field"] == "value"
    _, other = site.new_key(project="other")
    foreign = {"Authorization": f"Bearer {other}"}
    assert site.post(address, {"value": True}, foreign).status_code == 404
    assert site.get("/v1/predictions/scores", foreign).json["data"] == []
    plain = site.post("/v1/jobs", {"input": {"prompt": "hi"}}, WAIT).json
    assert site.post(f"/v1/predictions/{plain['id']}/outcome", {"value": True}).status_code == 409


def test_a_retry_puts_the_same_question_to_the_same_panel(idle: Web) -> None:
    job = idle.post("/v1/predictions", ASKED).json
    assert idle.post(f"/v1/jobs/{job['id']}/cancel").json["status"] == "cancelled"
    with idle.working():
        again = idle.post(f"/v1/jobs/{job['id']}/retry", None, WAIT).json
    assert (again["kind"], again["retry_of"]) == ("prediction", job["id"])
    assert members(again) == list(PANEL[:3])


def test_a_panel_of_the_settings_is_checked_when_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "completar.toml"
    file.write_text(
        '[panels.bad]\nmembers = ["nobody/x"]\n[panels.empty]\n[panels.odd]\nmembers = ["sandbox/echo"]\n'
        'consensus = { methods = "mean" }\n',
        encoding="utf-8",
    )
    with pytest.raises(SettingsError) as caught:
        build(load({"COMPLETAR_DATA_DIR": str(tmp_path), "COMPLETAR_SANDBOX": "on"}, file), LocalHints(), connections=1)
    assert "panels.odd.consensus" in str(caught.value)


def test_the_instruction_never_changes_the_callers_text(site: Web, provider: ScriptedProvider) -> None:
    asked = "¿Lloverá   mañana?\n\u00a0Responde «no»."
    site.post("/v1/predictions", {**ASKED, "question": asked, "context": " Nublado. "}, WAIT)
    for received in provider.requests:
        turns = json.loads(received.body)["messages"]
        assert [turn["content"] for turn in turns if turn["role"] == "user"] == [" Nublado. ", asked]
        assert "JSON" in turns[0]["content"]
    assert len(calls(provider)) >= 2
