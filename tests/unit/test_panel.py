"""A panel as it is stored, the names of its seats, and what a judge is shown."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from worker.domain.consensus import Ballot, Consensus, Member
from worker.domain.judging import candidates, messages, ruling_of, schema_for
from worker.domain.panel import Panel, Place, alike, places_of, read_panel
from worker.domain.question import AnswerSpec, Question
from worker.domain.route import Target
from worker.domain.vote import Abstained, Unusable, Usable

CHOICE = AnswerSpec("choice", options=("Lima", "Cusco", "Puno"))
QUESTION = Question("Which?", "Peru.", CHOICE, "en")


def test_a_panel_is_read_as_it_was_stored() -> None:
    places = places_of([Place("a/x", ("a/x", "b/y")), Place("c/z", ("c/z",))])
    panel = Panel(QUESTION, places, Consensus(quorum=2, weights={"a/x": 2.0, "c/z": 1.0}), None, {"temperature": 0.5})
    assert read_panel(json.loads(json.dumps(panel.stored()))) == panel
    assert panel.models == ("a/x", "b/y", "c/z")
    learned = Panel(QUESTION, places, Consensus(weights="learned"), {"a/x": 2.0, "c/z": 0.5})
    assert [one.weight for one in read_panel(json.loads(json.dumps(learned.stored()))).members()] == [2.0, 0.5]


def test_who_sits_twice_is_counted() -> None:
    names = [place.name for place in places_of([Place(name, (name,)) for name in ("a", "b", "a")])]
    assert names == ["a#1", "b", "a#2"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("groq", "openai/gpt-oss-20b"), ("huggingface", "openai/gpt-oss-20b:cheapest"), True),
        (("a", "m"), ("a", "m"), True),
        (("groq", "Qwen3-32B"), ("local", "qwen/qwen3-32b"), True),
        (("a", "gpt-4o"), ("a", "gpt-4o-mini"), False),
    ],
)
def test_the_same_model_at_two_providers_is_one_voice(one: tuple[str, str], other: tuple[str, str], same: bool) -> None:
    first, second = (Target(provider, model, "") for provider, model in (one, other))
    assert alike(first, second) is alike(second, first) is same


def ballots() -> list[Ballot]:
    votes = [
        Usable("Lima", 0.9, "It is the capital."),
        Usable("Cusco", 0.8, "It was."),
        Usable("Lima", 0.7, "Everybody says so, at length."),
        Abstained(),
        Unusable("no answer"),
        Usable("Lima", 0.7, "A third reason."),
    ]
    return [Ballot(Member(f"groq/model-{n}", n), cast) for n, cast in enumerate(votes)]


def test_a_judge_sees_answers_and_reasons_but_no_names_and_no_counts() -> None:
    shown = candidates(QUESTION, ballots(), "job_1")
    assert {one.value for one in shown} == {"Lima", "Cusco"}
    assert max(len(one.rationales) for one in shown) == 2, "how many there are would tell how many voted for it"
    said = json.dumps(messages(QUESTION, shown))
    assert "groq" not in said
    assert "model-" not in said
    assert messages(QUESTION, shown)[1]["content"] == "Peru."


def test_the_order_does_not_depend_on_the_order_of_the_votes_and_differs_between_jobs() -> None:
    cast = ballots()
    assert len({candidates(QUESTION, order, "job_1") for order in permutations(cast)}) == 1
    first = {candidates(QUESTION, cast, f"job_{n}")[0].value for n in range(20)}
    assert first == {"Lima", "Cusco"}, "no answer always stands first"


def test_a_ruling_is_one_of_what_was_shown() -> None:
    shown = candidates(QUESTION, ballots(), "job_1")
    assert schema_for(shown)["properties"]["choice"]["enum"] == ["A", "B"]
    ruling = ruling_of(shown, {"rationale": "better", "choice": " b "})
    assert ruling is not None
    assert (ruling.value, ruling.rationale) == (shown[1].value, "better")
    assert ruling_of(shown, {"choice": "C"}) is None
    assert ruling_of(shown, ["A"]) is None
