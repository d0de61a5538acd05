"""Predictions from the command line: one question, a file of them, what turned out to be true, and the scores."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_cli import Cli, Inside
from tests.support.processes import ROOT, Processes

pytestmark = pytest.mark.slow

MEMBERS = ("-m", "sandbox/panelist-90", "-m", "sandbox/panelist-80", "-m", "sandbox/panelist-70")


@pytest.fixture(scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("predictions")
    with Processes(folder) as processes:
        process, url = processes.up({"COMPLETAR_DATA_DIR": str(folder / "data"), "COMPLETAR_LOG_LEVEL": "error"})
        process.wait_for_line(r"^with PowerShell:")
        yield {"COMPLETAR_URL": url, "COMPLETAR_API_KEY": (folder / "data" / "api_key").read_text().strip()}


@pytest.fixture
def cli(tmp_path: Path, _served: dict[str, str]) -> Inside:
    return Inside(tmp_path, **_served)


def test_a_question_is_answered_with_the_votes_behind_it(cli: Inside) -> None:
    done = cli("predictions", "ask", "Is the Pacific the largest ocean?", *MEMBERS)
    answer, *rows = done.stdout.splitlines()
    assert answer == "true"
    assert [row.split("\t")[0] for row in rows] == list(MEMBERS[1::2])
    assert re.search(r"Agreement \d\.\d\d, confidence", done.stderr) or "Agreement" in done.stderr
    job_id = re.search(r"outcome (job_\w+) VALUE", done.stderr)
    assert job_id is not None
    said = cli("predictions", "outcome", job_id[1], "yes")
    assert "Recorded: true" in said.stderr
    assert "Corrected: false" in cli("predictions", "outcome", job_id[1], "no").stderr


def test_every_way_to_ask(cli: Inside) -> None:
    options = ("--type", "choice", "--option", "Lima", "--option", "Cusco")
    job = cli.json("predictions", "ask", "Which is the capital of Peru?", *options, *MEMBERS, "--json")
    assert job["result"]["votes"][0]["answer"] in {"Lima", "Cusco"}
    samples = cli.json(
        "predictions", "ask", "How likely is rain?", "--type", "probability", "--model", "sandbox/panelist-80", "-n",
        "3", "--method", "median", "--context", "It is dry.", "--json",
    )  # fmt: skip
    assert samples["result"]["requested"] == 3
    assert samples["result"]["method"] == "median"
    weighed = cli.json("predictions", "ask", "Is it?", "--method", "weighted", "--learned", *MEMBERS, "--json")
    assert weighed["result"]["method"] == "weighted"
    refused = cli("predictions", "ask", "Who?", "--type", "choice", *MEMBERS, code=2)
    assert "answer.options" in refused.stderr
    assert "cannot stand beside" in cli("predictions", "ask", "Is it?", "--panel", "x", *MEMBERS, code=2).stderr


def test_a_file_of_questions_is_run_and_scored(cli: Inside) -> None:
    cli.write(
        "in.csv",
        "custom_id,question,type,options,outcome",
        "one,Is Canberra the capital of Australia?,boolean,,true",
        "two,Which of these is the longest river?,choice,Nile|Rhine|Thames,Nile",
        "three,Which is it?,choice,,x",
        "four,Nobody knows?,boolean,,",
    )
    done = cli("predictions", "run", "in.csv", *MEMBERS, "-o", "out.jsonl", "--outcomes", code=3)
    records = [json.loads(line) for line in (cli.folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    by_id = {one["custom_id"]: one for one in records}
    assert by_id["one"]["answer"] is True
    assert by_id["two"]["answer"] == "Nile"
    assert by_id["three"]["status"] == "rejected"
    assert "input.answer.options" in by_id["three"]["error"]["message"]
    assert "2 outcomes recorded" in done.stderr
    assert (
        "out.jsonl holds 4 records" in cli("predictions", "run", "in.csv", *MEMBERS, "-o", "out.jsonl", code=2).stderr
    )
    wrong = {"COMPLETAR_API_KEY": "ck_wrong"}
    cli("predictions", "run", "in.csv", *MEMBERS, "-o", "out.jsonl", "--overwrite", code=4, **wrong)
    assert len((cli.folder / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    table = cli("predictions", "scores", "--svg", "plot.svg").stdout
    assert {line.split("\t")[0] for line in table.splitlines()} >= {*MEMBERS[1::2], "the panel"}
    assert (cli.folder / "plot.svg").read_text(encoding="utf-8").lstrip().startswith("<svg")
    assert cli.json("predictions", "scores", "--type", "number", "--json")["data"] == []


def test_lines_of_json_bring_their_own_panel(cli: Inside) -> None:
    question = {"question": "Is Venus hotter than Mercury?", "answer": {"type": "boolean"}}
    cli.write("in.jsonl", {**question, "custom_id": "own", "panel": ["sandbox/panelist-95"]}, question, "{broken")
    done = cli("predictions", "run", "in.jsonl", *MEMBERS, code=3)
    records = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda one: one["line"])
    assert [one.get("requested") for one in records] == [1, 3, None]
    assert "is not valid JSON" in records[2]["error"]["message"]


def test_a_file_that_asks_nothing_is_told_so(cli: Inside) -> None:
    cli.write("bad.csv", "text,type", "Is it?,boolean")
    assert "column 'text'" in cli("predictions", "run", "bad.csv", *MEMBERS, code=2).stderr


def test_the_demo_of_predictions_ends_in_the_scores(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    done = cli("demo", "--predictions")
    assert re.match(r"50 questions in .*: \d+ with a consensus, \d+ without, 0 failed; 50 outcomes", done.stdout)
    scores = {cells[0]: cells for line in done.stdout.splitlines() if len(cells := line.split("\t")) == 8}
    assert set(scores) == {
        *(f"sandbox/panelist-{name}" for name in ("92", "78", "70-bold", "84-shy")),
        "the panel",
    }
    accuracy = {name: float(cells[3]) for name, cells in scores.items()}
    assert accuracy["sandbox/panelist-92"] > accuracy["sandbox/panelist-70-bold"]
    assert accuracy["the panel"] > accuracy["sandbox/panelist-92"], "together they know more than the best of them"
    again = cli("demo", "--predictions").stdout
    assert [line for line in again.splitlines() if "\t" in line] == [
        line for line in done.stdout.splitlines() if "\t" in line
    ], "the sandbox is the same every time"
    assert not (tmp_path / "data").exists(), "it leaves nothing behind"


def test_the_examples_are_fifty_questions_whose_outcome_is_known() -> None:
    with (ROOT / "examples" / "questions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["question"] for row in rows}) == len(rows) == 50
    assert all(row["outcome"] for row in rows)
    assert {row["type"] for row in rows} == {"boolean", "choice", "probability"}
