"""The members of the sandbox: right as often as they say, sure in their own ways, and the same every time."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from tests.support.processes import ROOT
from worker.domain.question import AnswerSpec, schema_for
from worker.domain.vote import Abstained, Usable, read_vote
from worker.providers.sandbox.panelist import Manner, truth, vote

BOOLEAN = AnswerSpec("boolean")
QUESTIONS = [f"Is number {n} one of them?" for n in range(1000)]


def votes(percent: int, manner: Manner = "", spec: AnswerSpec = BOOLEAN) -> list[Any]:
    return [read_vote(spec, vote(question, schema_for(spec), percent, manner)) for question in QUESTIONS]


@pytest.mark.parametrize("percent", [55, 70, 92])
def test_a_member_is_right_as_often_as_its_name_says(percent: int) -> None:
    cast = votes(percent)
    right = sum(one.value == (truth(question, 2) == 0) for question, one in zip(QUESTIONS, cast, strict=True))
    assert abs(right / len(QUESTIONS) - percent / 100) < 0.05
    assert cast == votes(percent), "the same every time"


def test_members_differ_in_what_they_know_and_in_how_sure_they_are() -> None:
    assert sum(a.value != b.value for a, b in zip(votes(80), votes(81), strict=True)) > 200
    mean = {manner: _mean(votes(80, manner)) for manner in ("", "-bold", "-shy")}
    assert mean["-bold"] > 0.93
    assert 0.75 < mean[""] < 0.85
    assert mean["-shy"] < 0.65
    assert any(isinstance(one, Abstained) for one in votes(80, "-shy"))


def _mean(cast: list[Any]) -> float:
    sure = [one.confidence for one in cast if isinstance(one, Usable) and one.confidence is not None]
    return sum(sure) / len(sure)


def test_every_type_that_can_be_true_is_voted_on() -> None:
    choice = AnswerSpec("choice", options=("red", "green", "blue"))
    assert {one.value for one in votes(50, "", choice)} == {"red", "green", "blue"}
    assert all(0 <= one.value <= 1 for one in votes(80, "", AnswerSpec("probability")))


def test_what_is_no_question_of_a_panel_is_left_to_others() -> None:
    assert vote("Hello", {"type": "object", "properties": {"name": {"type": "string"}}}, 80, "") is None
    assert vote("Hello", {"properties": {"answer": True, "abstain": True, "confidence": True}}, 80, "") is None


def test_the_examples_are_worded_so_that_the_sandbox_takes_for_true_what_is() -> None:
    with (ROOT / "examples" / "questions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["type"] == "choice":
                options = row["options"].split("|")
                assert options[truth(row["question"], len(options))] == row["outcome"], row
            else:
                assert (truth(row["question"], 2) == 0) is json.loads(row["outcome"]), row
