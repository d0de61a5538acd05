"""From votes to one answer: no order matters, early stops change nothing, weights are proportions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain import pooling
from worker.domain.closing import closed
from worker.domain.consensus import (
    METHODS,
    WEIGHING,
    Ballot,
    Consensus,
    Member,
    Ruling,
    Verdict,
    check_consensus,
    default_method,
    seated,
)
from worker.domain.decision import decide, near, needs_judge
from worker.domain.question import AnswerSpec, BadQuestion
from worker.domain.vote import Abstained, Unusable, Usable, Vote, same_key

BOOLEAN = AnswerSpec("boolean")
CHOICE = AnswerSpec("choice", ("a", "b", "c"))
NUMBER = AnswerSpec("number")
RANGE = AnswerSpec("number", min=0, max=10)
PROBABILITY = AnswerSpec("probability")
JSON = AnswerSpec("json", schema={"type": "object"})
SPECS = (BOOLEAN, CHOICE, NUMBER, RANGE, PROBABILITY, JSON)


def ballots(*votes: Any, weights: Sequence[float] | None = None) -> list[Ballot]:
    """A vote is a value, (value, confidence), None for an abstention, or a Vote."""
    return [
        Ballot(Member(f"m{n}", n, 1.0 if weights is None else weights[n]), as_vote(vote))
        for n, vote in enumerate(votes)
    ]


def as_vote(vote: Any) -> Vote:
    match vote:
        case Usable() | Abstained() | Unusable():
            return vote
        case None:
            return Abstained()
        case (value, confidence):
            return Usable(value, confidence)
        case _:
            return Usable(vote)


def told(spec: AnswerSpec, verdict: Verdict) -> tuple[bool, str | None]:
    """What a program acts on. How an answer is written may differ in case."""
    if not verdict.consensus:
        return False, None
    if isinstance(verdict.answer, list):
        return True, repr(verdict.answer)
    return True, same_key(spec, verdict.answer)


# -- by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "settings", "votes", "answer", "agreement"),
    [
        (BOOLEAN, Consensus(), (True, True, False), True, 2 / 3),
        (BOOLEAN, Consensus(), (True, False), None, 1 / 2),
        (BOOLEAN, Consensus(tie="first_member"), (None, False, True), False, 1 / 2),
        (BOOLEAN, Consensus(tie="highest_confidence"), ((True, 0.6), (False, 0.9)), False, 1 / 2),
        (BOOLEAN, Consensus(tie="highest_confidence"), (True, False), True, 1 / 2),
        (CHOICE, Consensus(), ("a", "a", "b", "c"), None, 1 / 2),
        (CHOICE, Consensus(min_agreement=0.4), ("a", "a", "b", "c", "c"), None, 2 / 5),
        (CHOICE, Consensus(min_agreement=0.4, tie="first_member"), ("b", "a", "a", "b", "c"), "b", 2 / 5),
        (CHOICE, Consensus(tie="first_member"), ("b", "a", "a", "b", "c"), None, 2 / 5),
        (BOOLEAN, Consensus(min_agreement=0.6), (True, True, True, False, False), True, 3 / 5),
        (BOOLEAN, Consensus(quorum=2), (True, None, Unusable("down")), None, 1.0),
        (BOOLEAN, Consensus("unanimous"), (True, True, None), True, 1.0),
        (BOOLEAN, Consensus("unanimous"), (True, True, False), None, 2 / 3),
        (CHOICE, Consensus("quorum", quorum=2), ("a", "b", "c", "b"), "b", 1 / 2),
        (CHOICE, Consensus("quorum", quorum=3), ("a", "b", "c", "b"), None, 1 / 2),
        (NUMBER, Consensus("median"), (10, 11, 500), 11, 2 / 3),
        (NUMBER, Consensus("median"), (1, 2, 3, 10), 2.5, 0.0),
        (NUMBER, Consensus("median", tolerance=0.25), (1, 2, 3, 10), 2.5, 2 / 4),
        (NUMBER, Consensus("mean"), (1, 2, 6), 3, 0.0),
        (RANGE, Consensus("mean"), (1, 2, 6), 3, 1 / 3),
        (NUMBER, Consensus("trimmed_mean"), (1, 2, 3, 4, 1000), 3, 1 / 5),
        (NUMBER, Consensus(), (42, 42.0, 41), 42, 2 / 3),
        (NUMBER, Consensus("first_valid"), (Unusable("down"), 7, 8, 7), 7, 2 / 3),
        (NUMBER, Consensus("all"), (7, None, 8, 8), [7, 8, 8], 2 / 3),
        (PROBABILITY, Consensus("geometric_odds"), (0.9, 0.9, 0.9), 0.9, 1.0),
        (PROBABILITY, Consensus("mean", min_agreement=0.5), (0.0, 1.0), None, 0.0),
        (JSON, Consensus(), ({"x": "Lima"}, {"x": " lima "}, {"x": "Cusco"}), {"x": "Lima"}, 2 / 3),
        (
            JSON,
            Consensus("per_field"),
            ({"x": 1, "y": 1}, {"x": 1, "y": 2}, {"x": 2, "y": 2, "z": 9}),
            {"x": 1, "y": 2},
            2 / 3,
        ),
        (JSON, Consensus("per_field"), ({"x": 1}, {"x": 2}), None, 1 / 2),
    ],
)
def test_votes_become_an_answer(
    spec: AnswerSpec, settings: Consensus, votes: tuple[Any, ...], answer: Any, agreement: float
) -> None:
    verdict = decide(spec, ballots(*votes), settings)
    assert (verdict.answer, verdict.consensus) == (answer, answer is not None)
    assert verdict.agreement == pytest.approx(agreement)
    assert verdict.reason


def test_the_odds_keep_what_the_mean_pulls_to_the_middle() -> None:
    votes = ballots(0.99, 0.9, 0.9)
    odds = decide(PROBABILITY, votes, Consensus("geometric_odds")).answer
    assert odds == pytest.approx(1 / (1 + (99 * 9 * 9) ** (-1 / 3)))
    assert odds > decide(PROBABILITY, votes, Consensus("mean")).answer


def test_one_certain_member_is_no_veto() -> None:
    assert 0.5 < decide(PROBABILITY, ballots(0, 0.95, 0.95, 0.95), Consensus("geometric_odds")).answer < 0.95


def test_weights_decide() -> None:
    votes = ballots(True, False, False, weights=(3, 1, 1))
    verdict = decide(BOOLEAN, votes, Consensus("weighted", weights={}))
    assert (verdict.answer, verdict.agreement, verdict.dissent) == (True, 3 / 5, ("m1", "m2"))
    assert decide(BOOLEAN, votes, Consensus()).answer is False, "a majority counts heads"
    tie = ballots(True, True, False, weights=(0.1, 0.2, 0.3))
    assert "tie" in decide(BOOLEAN, tie, Consensus("weighted", weights={})).reason


def test_no_vote_is_no_consensus() -> None:
    verdict = decide(BOOLEAN, ballots(None, Unusable("down")), Consensus())
    assert (verdict.answer, verdict.consensus, verdict.agreement, verdict.usable) == (None, False, 0.0, 0)


def test_without_consensus_the_leading_answer_is_told_apart() -> None:
    verdict = decide(CHOICE, ballots("a", "a", "b", "c"), Consensus())
    assert (verdict.answer, verdict.leading, verdict.dissent) == (None, "a", ("m2", "m3"))
    assert "more than half" in verdict.reason


def test_the_answers_written_form_is_that_of_its_first_supporter() -> None:
    votes = ballots({"x": "LIMA"}, {"x": "lima"})
    assert decide(JSON, votes[::-1], Consensus()).answer == {"x": "LIMA"}


@pytest.mark.parametrize(
    ("votes", "confidence"),
    [
        (((True, 0.8), (True, 0.8)), 0.8),
        (((True, 0.8), (False, 0.2), (True, 0.8)), 0.8),
        (((True, 0.9), (True, None)), 0.9),
        ((True, True), None),
    ],
)
def test_confidence_is_what_the_members_give_the_answer(votes: tuple[Any, ...], confidence: float | None) -> None:
    assert decide(BOOLEAN, ballots(*votes), Consensus()).confidence == pytest.approx(confidence)


def test_fields_that_do_not_fit_together_are_no_consensus() -> None:
    spec = AnswerSpec("json", schema={"type": "object", "not": {"required": ["x", "y"]}})
    votes = ballots({"x": 1}, {"y": 1}, {"x": 1}, {"y": 1}, {"x": 1, "y": 1})
    verdict = decide(spec, votes, Consensus("per_field"))
    assert verdict.answer is None
    assert "answer.schema" in verdict.reason


# -- judges ------------------------------------------------------------------------------------------------------

JUDGE = Consensus("judge", judge="j")


@pytest.mark.parametrize(
    ("spec", "settings", "votes", "ruling", "answer"),
    [
        (CHOICE, JUDGE, ("a", "a", "b"), "b", "a"),
        (CHOICE, replace(JUDGE, judge_may_overturn=True), ("a", "a", "b"), "b", "b"),
        (CHOICE, JUDGE, ("a", "b", "c"), "c", "c"),
        (CHOICE, JUDGE, ("a", "b"), None, None),
        (CHOICE, replace(JUDGE, tie="first_member"), ("a", "b"), None, "a"),
        (CHOICE, replace(JUDGE, min_agreement=0.5), ("a", "b", "c"), "c", None),
        (CHOICE, JUDGE, ("a", "b"), "c", None),  # what nobody said is no ruling
        (NUMBER, JUDGE, (10, 10.1, 90), 90, 10.1),
        (NUMBER, JUDGE, (10, 50, 90), 90, 90),
        (NUMBER, JUDGE, (10, 50, 90), None, 50),
        (JSON, JUDGE, ({"x": 1}, {"x": 2}), {"x": 2.0}, {"x": 2}),
    ],
)
def test_a_judge_chooses_where_there_is_no_majority(
    spec: AnswerSpec, settings: Consensus, votes: tuple[Any, ...], ruling: Any, answer: Any
) -> None:
    said = None if ruling is None else Ruling(ruling)
    assert decide(spec, ballots(*votes), settings, said).answer == answer


@pytest.mark.parametrize(
    ("settings", "votes", "needed"),
    [
        (JUDGE, ("a", "b", "c"), True),
        (JUDGE, ("a", "a", "b"), False),
        (replace(JUDGE, judge_may_overturn=True), ("a", "a", "b"), True),
        (replace(JUDGE, judge_may_overturn=True), ("a", "a"), False),
        (replace(JUDGE, quorum=3), ("a", "b", None), False),
        (JUDGE, (), False),
        (Consensus(), ("a", "b"), False),
    ],
)
def test_a_judge_is_asked_only_where_it_can_change_something(
    settings: Consensus, votes: tuple[Any, ...], needed: bool
) -> None:
    assert needs_judge(CHOICE, ballots(*votes), settings) is needed


# -- when to stop ------------------------------------------------------------------------------------------------

OPEN2 = (Member("o8", 8), Member("o9", 9))


@pytest.mark.parametrize(
    ("spec", "settings", "votes", "is_closed"),
    [
        (BOOLEAN, Consensus(), (True, True, True), True),
        (BOOLEAN, Consensus(early_stop=False), (True, True, True), False),
        (BOOLEAN, Consensus(quorum=4), (True, True, True), False),
        (BOOLEAN, Consensus(min_agreement=0.8), (True, True, True), False),
        (BOOLEAN, Consensus(min_agreement=0.6), (True, True, True), True),
        (BOOLEAN, Consensus(), (True, True, False), False),
        (BOOLEAN, Consensus(), (True, True), False),
        (CHOICE, Consensus(min_agreement=0.4), ("a", "a"), False),  # a tie may come
        (CHOICE, Consensus(min_agreement=0.9), ("a", "b"), True),  # hopeless
        (CHOICE, Consensus(quorum=4), ("a", None), True),  # hopeless: three at most
        (BOOLEAN, Consensus("unanimous"), (True, False), True),
        (BOOLEAN, Consensus("unanimous"), (True, True), False),
        (CHOICE, Consensus("quorum", quorum=3), ("a", "a", "a"), True),
        (CHOICE, Consensus("quorum", quorum=3), ("a", "a", "b"), False),
        (CHOICE, Consensus("quorum", quorum=4), ("a", "b", "c"), True),
        (NUMBER, Consensus("median"), (7, 7, 7), True),
        (NUMBER, Consensus("median"), (7, 7, 8), False),
        (NUMBER, Consensus("median", min_agreement=0.9), (7, 7, 7), False),
        (NUMBER, Consensus("mean"), (7, 7, 7), False),
        (NUMBER, Consensus("first_valid"), (7,), True),
        (NUMBER, Consensus("first_valid", min_agreement=0.9), (7,), False),
        (NUMBER, Consensus("first_valid", quorum=2), (7,), False),
        (NUMBER, Consensus("all"), (7, 7, 7), False),
        (JSON, Consensus("per_field"), ({"x": 1}, {"x": 1}, {"x": 1}), True),
        (JSON, Consensus("per_field"), ({"x": 1}, {"x": 1, "y": 2}, {"x": 1}), False),
        (JSON, Consensus("per_field"), ({},), False),
        (CHOICE, replace(JUDGE, min_agreement=0.3), ("a",) * 5 + ("b",) * 2 + ("c",) * 2, False),  # first, no majority
        (CHOICE, JUDGE, ("a", "a", "a"), True),
        (CHOICE, replace(JUDGE, judge_may_overturn=True), ("a", "a", "a"), False),
        (CHOICE, JUDGE, ("a", "a", "b"), False),
        (BOOLEAN, Consensus(posterior=0.85), (True, True), True),
        (BOOLEAN, Consensus(posterior=0.9), (True, True), False),
        (BOOLEAN, Consensus(posterior=0.85, quorum=3), (True, True), False),
    ],
)
def test_a_panel_stops_when_the_rest_cannot_change_it(
    spec: AnswerSpec, settings: Consensus, votes: tuple[Any, ...], is_closed: bool
) -> None:
    assert closed(spec, ballots(*votes), OPEN2, settings) is is_closed


def test_first_valid_waits_for_whoever_sits_before() -> None:
    heard = [Ballot(Member("b", 1), Usable(7))]
    assert not closed(NUMBER, heard, [Member("a", 0), *OPEN2], Consensus("first_valid"))
    assert closed(NUMBER, [*heard, Ballot(Member("a", 0), Unusable("down"))], OPEN2, Consensus("first_valid"))


@pytest.mark.parametrize(("leader", "second"), [(0, 0), (1, 0), (3, 0), (4, 1), (7, 3), (25, 0), (13, 12)])
def test_the_posterior_is_that_of_the_binomial(leader: int, second: int) -> None:
    tosses = leader + second + 1
    exact = sum(math.comb(tosses, k) for k in range(leader + 1)) / 2**tosses
    assert pooling.stays_ahead(leader, second) == pytest.approx(exact, abs=1e-7)


# -- whatever is asked, whoever votes ----------------------------------------------------------------------------

WEIGHTS = st.sampled_from((0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0))
SHARES = st.sampled_from((0.0, 0.1, 0.2, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0))
OBJECTS = st.dictionaries(st.sampled_from("xyz"), st.sampled_from((1, 2, "Lima", "lima", None)), max_size=3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "choice": st.sampled_from(CHOICE.options),
    "number": st.sampled_from((0, 1, 2, 2.5, 3, 7.25, 10)) | st.integers(0, 10),
    "probability": SHARES,
    "json": OBJECTS,
}


@st.composite
def settings_for(draw: st.DrawFn, spec: AnswerSpec, size: int) -> Consensus:
    method = draw(st.sampled_from(METHODS[spec.type]))
    return Consensus(
        method=method,
        quorum=draw(st.integers(1, size)),
        min_agreement=draw(st.none() | SHARES),
        tie=draw(st.sampled_from(("none", "first_member", "highest_confidence"))),
        tolerance=draw(st.sampled_from((0.0, 0.1, 0.3))),
        judge="j" if method == "judge" else None,
        judge_may_overturn=method == "judge" and draw(st.booleans()),
    )


@st.composite
def panels(draw: st.DrawFn) -> tuple[AnswerSpec, Consensus, list[Ballot]]:
    spec = draw(st.sampled_from(SPECS))
    vote = st.builds(Usable, VALUES[spec.type], st.none() | SHARES)
    votes = draw(
        st.lists(vote | vote | vote | st.just(Abstained()) | st.just(Unusable("down")), min_size=1, max_size=6)
    )
    weights = draw(st.lists(WEIGHTS, min_size=len(votes), max_size=len(votes)))
    return spec, draw(settings_for(spec, len(votes))), ballots(*votes, weights=weights)


def rulings(spec: AnswerSpec) -> st.SearchStrategy[Ruling | None]:
    return st.none() | st.builds(Ruling, VALUES[spec.type])


@given(panels(), st.data())
def test_the_order_of_arrival_never_matters(
    panel: tuple[AnswerSpec, Consensus, list[Ballot]], data: st.DataObject
) -> None:
    spec, settings, heard = panel
    ruling = data.draw(rulings(spec))
    other = data.draw(st.permutations(heard))
    assert decide(spec, heard, settings, ruling) == decide(spec, other, settings, ruling)
    cut = data.draw(st.integers(0, len(heard)))
    rest = [ballot.member for ballot in heard[cut:]]
    shuffled = data.draw(st.permutations(heard[:cut]))
    assert closed(spec, heard[:cut], rest, settings) == closed(spec, shuffled, rest[::-1], settings)


NEW: dict[str, tuple[Any, ...]] = {
    "boolean": (True, False),
    "choice": CHOICE.options,
    "number": (0, 5, 10),
    "probability": (0.0, 0.5, 1.0),
    "json": ({}, {"x": 1}, {"x": 2}, {"q": 1}),
}


@given(panels(), st.data())
def test_an_early_stop_equals_the_full_vote(
    panel: tuple[AnswerSpec, Consensus, list[Ballot]], data: st.DataObject
) -> None:
    """Against every one of some, and against all that are open in chorus, whatever they say."""
    spec, settings, everyone = panel
    arrived = data.draw(st.permutations(everyone))
    ruling = data.draw(rulings(spec))
    far = (-1e6, 1e6) if spec is NUMBER else ()
    pool = [*map(Usable, (*NEW[spec.type], *far)), *(one.vote for one in everyone), Unusable("down")]
    for cut in range(len(arrived)):
        heard, rest = arrived[:cut], [ballot.member for ballot in arrived[cut:]]
        if not closed(spec, heard, rest, settings):
            continue
        known = told(spec, decide(spec, heard, settings))
        votes = [tuple(one.vote for one in arrived[cut:]), *((vote,) * len(rest) for vote in pool)]
        votes.append(tuple(data.draw(st.lists(st.sampled_from(pool), min_size=len(rest), max_size=len(rest)))))
        for chorus in votes:
            full = [*heard, *(Ballot(member, vote) for member, vote in zip(rest, chorus, strict=True))]
            assert told(spec, decide(spec, full, settings, ruling)) == known
        return


@given(panels(), st.sampled_from((1e-3, 0.25, 3.0, 7.0, 1e3)), st.data())
def test_weights_are_proportions(
    panel: tuple[AnswerSpec, Consensus, list[Ballot]], scale: float, data: st.DataObject
) -> None:
    spec, settings, heard = panel
    ruling = data.draw(rulings(spec))
    scaled = [Ballot(replace(ballot.member, weight=ballot.member.weight * scale), ballot.vote) for ballot in heard]
    one, other = decide(spec, heard, settings, ruling), decide(spec, scaled, settings, ruling)
    assert (one.consensus, one.dissent, one.tie_rule_used) == (other.consensus, other.dissent, other.tie_rule_used)
    assert one.agreement == pytest.approx(other.agreement)
    assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
    if isinstance(one.leading, float | int) and not isinstance(one.leading, bool):
        assert one.leading == pytest.approx(other.leading)
    else:
        assert one.leading == other.leading
    rest = [ballot.member for ballot in heard[1:]], [ballot.member for ballot in scaled[1:]]
    assert closed(spec, heard[:1], rest[0], settings) == closed(spec, scaled[:1], rest[1], settings)


@given(panels(), st.data())
def test_shares_are_shares_and_only_usable_votes_count(
    panel: tuple[AnswerSpec, Consensus, list[Ballot]], data: st.DataObject
) -> None:
    spec, settings, heard = panel
    verdict = decide(spec, heard, settings, data.draw(rulings(spec)))
    usable = [ballot for ballot in heard if isinstance(ballot.vote, Usable)]
    assert 0 <= verdict.agreement <= 1
    assert verdict.confidence is None or 0 <= verdict.confidence <= 1
    assert verdict.usable == len(usable)
    assert set(verdict.dissent) <= {ballot.member.name for ballot in usable}
    assert verdict.consensus == (verdict.answer is not None)
    if verdict.consensus:
        assert len(usable) >= settings.quorum
        assert verdict.agreement >= (settings.min_agreement or 0) * (1 - 1e-6)
    assert decide(spec, usable, settings) == decide(spec, heard, settings)


NUMBERS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.01, 100)), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "pool",
    [pooling.mean, pooling.median, lambda pairs: pooling.trimmed_mean(pairs, 0.2)],
    ids=["mean", "median", "trim"],
)
@given(NUMBERS)
def test_what_is_pooled_lies_between(pool: Callable[[pooling.Pairs], float], pairs: list[tuple[float, float]]) -> None:
    values = [value for value, _ in pairs]
    assert min(values) <= pool(pairs) <= max(values)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_nearness_has_no_direction(one: float, other: float, tolerance: float) -> None:
    for spec in (NUMBER, RANGE, PROBABILITY):
        assert near(spec, one, other, tolerance) == near(spec, other, one, tolerance)
        assert near(spec, one, one, tolerance)


# -- settings ----------------------------------------------------------------------------------------------------

NAMES = ("groq/x#1", "groq/x#2", "kimi/y")


@pytest.mark.parametrize(
    ("spec", "settings", "field", "says"),
    [
        (PROBABILITY, Consensus(), "consensus.method", "Use one of geometric_odds"),
        (BOOLEAN, Consensus("mean"), "consensus.method", "mean does not go with boolean answers"),
        (BOOLEAN, Consensus("vote"), "consensus.method", "majority"),  # type: ignore[arg-type]
        (AnswerSpec("json", schema={}), Consensus("per_field"), "answer.schema", "type"),
        (BOOLEAN, Consensus(quorum=4), "consensus.quorum", "of a panel of 3"),
        (BOOLEAN, Consensus(quorum=0), "consensus.quorum", "Use 1 to 3"),
        (BOOLEAN, Consensus("quorum"), "consensus.quorum", "any one vote"),
        (BOOLEAN, Consensus(min_agreement=60), "consensus.min_agreement", "Use 0 to 1"),
        (BOOLEAN, Consensus(tie="coin"), "consensus.tie", "first_member"),  # type: ignore[arg-type]
        (NUMBER, Consensus("median", tolerance=-1), "consensus.tolerance", "Use 0 to 1"),
        (NUMBER, Consensus("trimmed_mean", trim=0.5), "consensus.trim", "both ends"),
        (BOOLEAN, Consensus(posterior=1.0), "consensus.posterior", "0.95"),
        (NUMBER, Consensus("median", posterior=0.9), "consensus.posterior", "majority"),
        (BOOLEAN, Consensus(posterior=0.9, early_stop=False), "consensus.posterior", "early_stop"),
        (BOOLEAN, Consensus("weighted"), "consensus.weights", "is missing"),
        (BOOLEAN, Consensus(weights="learned"), "consensus.weights", "all votes count the same"),
        (BOOLEAN, Consensus("weighted", weights="taught"), "consensus.weights", "learned"),  # type: ignore[arg-type]
        (BOOLEAN, Consensus("weighted", weights={"groq/z": 1}), "consensus.weights", "names 'groq/z'"),
        (BOOLEAN, Consensus("weighted", weights={"groq/x": 1}), "consensus.weights", "has none for 'kimi/y'"),
        (BOOLEAN, Consensus("weighted", weights={"kimi/y": 0}), "consensus.weights.kimi/y", "leave out of the panel"),
        (BOOLEAN, Consensus("judge"), "consensus.judge", "is missing"),
        (BOOLEAN, Consensus(judge="kimi/y"), "consensus.judge", "use judge"),
        (BOOLEAN, Consensus(judge_may_overturn=True), "consensus.judge_may_overturn", "use judge"),
    ],
)
def test_settings_that_do_not_fit_are_told_with_their_remedy(
    spec: AnswerSpec, settings: Consensus, field: str, says: str
) -> None:
    with pytest.raises(BadQuestion) as caught:
        check_consensus(spec, settings, NAMES)
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_every_type_has_a_method_that_needs_no_settings(spec: AnswerSpec) -> None:
    check_consensus(spec, Consensus(default_method(spec)), NAMES)
    assert {method for method in METHODS[spec.type] if method in WEIGHING}


def test_an_empty_panel_is_refused() -> None:
    with pytest.raises(BadQuestion, match="panel is empty"):
        check_consensus(BOOLEAN, Consensus(), ())


def test_who_sits_twice_shares_the_weight_of_the_model() -> None:
    fixed = Consensus("weighted", weights={"groq/x": 2, "kimi/y": 0.5})
    check_consensus(BOOLEAN, fixed, NAMES)
    assert [member.weight for member in seated(NAMES, fixed)] == [2, 2, 0.5]
    learned = Consensus("weighted", weights="learned")
    assert [member.weight for member in seated(NAMES, learned, {"groq/x": 3.0})] == [3.0, 3.0, 3.0]
    assert [member.weight for member in seated(NAMES, learned)] == [1.0, 1.0, 1.0]
