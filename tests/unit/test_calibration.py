"""Scores of forecasts whose outcome is known, the weights that follow, and the picture."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.calibration import (
    BINS,
    CAP,
    FLOOR,
    STRENGTH,
    Forecast,
    Score,
    check_outcome,
    forecast_of,
    learned_weights,
    scores,
)
from worker.domain.question import AnswerSpec, BadQuestion
from worker.domain.reliability import reliability_svg
from worker.domain.vote import Abstained, Unusable, Usable

BOOLEAN = AnswerSpec("boolean")
CHOICE = AnswerSpec("choice", ("Lima", "Cusco"))
NUMBER = AnswerSpec("number", max=100)
PROBABILITY = AnswerSpec("probability")
JSON = AnswerSpec("json", schema={"type": "object"})


@pytest.mark.parametrize(
    ("spec", "vote", "outcome", "right", "probability", "happened"),
    [
        (BOOLEAN, Usable(True, 0.8), True, True, 0.8, True),
        (BOOLEAN, Usable(True, 0.8), False, False, 0.8, False),
        (BOOLEAN, Usable(True), True, True, None, True),
        (CHOICE, Usable("Lima", 0.6), "Lima", True, 0.6, True),
        (NUMBER, Usable(95, 0.6), 100, True, 0.6, True),
        (NUMBER, Usable(80, 0.6), 100, False, 0.6, False),
        (PROBABILITY, Usable(0.8, 0.1), True, True, 0.8, True),
        (PROBABILITY, Usable(0.2), True, False, 0.2, True),
        (PROBABILITY, Usable(0.2), False, True, 0.2, False),
        (PROBABILITY, Usable(0.5), False, None, 0.5, False),
        (JSON, Usable({"x": "LIMA"}, 1.0), {"x": "lima"}, True, 1.0, True),
    ],
)
def test_a_vote_is_held_against_what_came_true(
    spec: AnswerSpec, vote: Usable, outcome: Any, right: bool | None, probability: float | None, happened: bool
) -> None:
    assert forecast_of(spec, "m", vote, outcome) == Forecast("m", right, probability, happened)


@pytest.mark.parametrize("vote", [Abstained(), Unusable("down")])
def test_who_cast_no_vote_is_not_judged(vote: Any) -> None:
    assert forecast_of(BOOLEAN, "m", vote, outcome=True) is None


@pytest.mark.parametrize(
    ("spec", "given_", "kept"),
    [
        (BOOLEAN, False, False),
        (CHOICE, " lima", "Lima"),
        (NUMBER, 120.0, 120),  # beyond the asked maximum, and true all the same
        (PROBABILITY, True, True),
        (JSON, {"x": 1}, {"x": 1}),
    ],
)
def test_an_outcome_is_kept_as_an_answer_would_be(spec: AnswerSpec, given_: Any, kept: Any) -> None:
    assert check_outcome(spec, given_) == kept


@pytest.mark.parametrize(
    ("spec", "outcome"),
    [
        (BOOLEAN, "yes"),
        (BOOLEAN, None),
        (BOOLEAN, 1),
        (CHOICE, "Quito"),
        (NUMBER, "12"),
        (NUMBER, True),
        (PROBABILITY, 0.7),
        (JSON, [1]),
        (JSON, None),
    ],
)
def test_an_outcome_that_is_none_is_told(spec: AnswerSpec, outcome: Any) -> None:
    with pytest.raises(BadQuestion) as caught:
        check_outcome(spec, outcome)
    assert caught.value.field == "outcome"


def test_scores_by_hand() -> None:
    said = [(0.9, True), (0.9, True), (0.9, False), (0.1, False)]
    (score,) = scores(Forecast("m", (p > 0.5) is h, p, h) for p, h in said)
    assert (score.answered, score.judged, score.right, score.accuracy) == (4, 4, 3, 0.75)
    assert score.brier == pytest.approx((0.01 + 0.01 + 0.81 + 0.01) / 4)
    assert score.log_loss == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)
    assert [(one.low, one.count) for one in score.bins if one.count] == [(0.1, 1), (0.9, 3)]
    assert score.error == pytest.approx((0.1 * 1 + (0.9 - 2 / 3) * 3) / 4)
    assert score.weight == pytest.approx(math.log((3 + 10 * 4 / 6) / (1 + 10 * 2 / 6)))


def test_a_probability_on_a_border_is_in_the_bin_that_begins_there() -> None:
    found = scores(Forecast("m", None, n / BINS, True) for n in range(BINS + 1))[0].bins
    assert [one.count for one in found] == [1] * (BINS - 1) + [2]


def test_one_certain_mistake_is_not_infinite() -> None:
    (score,) = scores([Forecast("m", False, 1.0, False)])
    assert score.log_loss == pytest.approx(-math.log(0.001))


def test_nothing_known_is_none() -> None:
    assert scores([]) == ()
    (score,) = scores([Forecast("m", None, None, True)])
    assert (score.accuracy, score.brier, score.log_loss, score.error) == (None, None, None, None)


# -- laws --------------------------------------------------------------------------------------------------------

FORECASTS = st.lists(
    st.builds(Forecast, st.sampled_from("abc"), st.none() | st.booleans(), st.none() | st.floats(0, 1), st.booleans()),
    max_size=40,
)


@given(FORECASTS, st.data())
def test_scores_add_up_in_any_order(forecasts: list[Forecast], data: st.DataObject) -> None:
    made = scores(forecasts)
    assert made == scores(data.draw(st.permutations(forecasts)))
    assert [score.member for score in made] == sorted({one.member for one in forecasts})
    for score in made:
        own = [one for one in forecasts if one.member == score.member]
        said = [one for one in own if one.probability is not None]
        assert score.answered == len(own) >= score.judged >= score.right
        assert sum(one.count for one in score.bins) == len(said)
        happened = sum(one.count * (one.happened_share or 0) for one in score.bins)
        assert happened == pytest.approx(sum(one.happened for one in said))
        for one in score.bins:
            assert one.mean_probability is None or one.low - 1e-9 <= one.mean_probability <= one.high + 1e-9
        assert (score.brier is None) == (not said)
        assert score.brier is None or 0 <= score.brier <= 1
        assert score.error is None or 0 <= score.error <= 1
        assert FLOOR <= score.weight <= CAP


@given(st.integers(0, 200), st.integers(0, 200))
def test_more_right_answers_never_weigh_less(right: int, wrong: int) -> None:
    others = [Forecast("o", right=True, probability=None, happened=True)] * 300

    def weight(rights: int) -> float:
        own = [Forecast("m", n < rights, None, n < rights) for n in range(right + wrong + 1)]
        return scores([*own, *others])[0].weight

    assert weight(right) <= weight(right + 1)


def test_a_newcomer_weighs_what_the_usual_member_does() -> None:
    good = [Forecast("good", n % 10 != 0, None, True) for n in range(100)]
    bad = [Forecast("bad", n % 10 == 0, None, True) for n in range(100)]
    weights = learned_weights(scores([*good, *bad]), ["good", "new", "bad"])
    assert list(weights) == ["good", "new", "bad"]
    assert weights["good"] > 1.5
    assert weights["new"] == weights["bad"] == FLOOR
    assert learned_weights([], ["a", "b"]) == {"a": FLOOR, "b": FLOOR}, "all alike: a plain majority"


def test_a_short_record_weighs_little() -> None:
    crowd = [Forecast("crowd", n % 5 != 0, None, True) for n in range(1000)]
    lucky, proven = (scores([*crowd, *[Forecast("m", True, None, True)] * n])[1].weight for n in (2, 200))
    assert scores(crowd)[0].weight < lucky < proven == CAP
    assert STRENGTH > 2


# -- the picture -------------------------------------------------------------------------------------------------


def record(*members: str) -> tuple[Score, ...]:
    return scores(Forecast(member, None, n / 20, n % 3 > 0) for member in members for n in range(21))


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("members", [(), ("groq/x",), tuple(f"p/m{n}" for n in range(25))])
def test_the_plot_is_well_formed_and_shows_every_member(members: tuple[str, ...], language: Any) -> None:
    root = ET.fromstring(reliability_svg(record(*members), language))
    dots = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(dots) == BINS * len(members)
    texts = [one.text or "" for one in root.iter() if one.tag.endswith("}text")]
    assert all(any(text.startswith(member) for text in texts) for member in members)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= width
        assert 0 <= float(dot.attrib["cy"]) <= height


@given(st.text())
def test_no_name_breaks_out_of_the_plot(name: str) -> None:
    hostile = f'"/><script>alert(1)</script>&{name}'
    root = ET.fromstring(reliability_svg(record(hostile)))
    assert {one.tag.rpartition("}")[2] for one in root.iter()} <= {"svg", "title", "rect", "text", "path", "circle"}
