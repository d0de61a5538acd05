"""From votes to one answer: the same whatever order the votes arrive in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from worker.domain import pooling
from worker.domain import schema as schemas
from worker.domain.answer import Json
from worker.domain.consensus import WEIGHING, Ballot, Consensus, Method, Ruling, TieRule, Verdict
from worker.domain.numeral import tidy
from worker.domain.question import AnswerSpec
from worker.domain.tally import Bar, Cast, Standing, by_field, equals, share, standings, weigh
from worker.domain.vote import Usable, same_key


@dataclass(frozen=True, slots=True)
class _Lead:
    """The answer that is ahead, before anybody asks whether it is far enough ahead.

    behind    places of those that stand behind it
    bar       what it needs; None: to be there
    wrong     why it can be no consensus, whatever its share
    """

    value: Json
    behind: frozenset[int]
    agreement: float
    how: str
    bar: Bar | None = None
    tie: TieRule | None = None
    wrong: str | None = None


def decide(spec: AnswerSpec, ballots: Sequence[Ballot], settings: Consensus, ruling: Ruling | None = None) -> Verdict:
    """What the ballots come to. `ruling` of a judge; None: there is none, or it failed, and the vote decides."""
    casts = casts_of(spec, ballots, settings)
    if not casts:
        return Verdict(None, None, 0.0, None, False, "there is no usable vote", None, (), 0)
    lead = _lead(spec, casts, settings, ruling)
    wrong = _wrong(lead, settings, len(casts))
    return Verdict(
        answer=lead.value if wrong is None else None,
        leading=lead.value,
        agreement=lead.agreement,
        confidence=_confidence(spec, casts, lead, settings),
        consensus=wrong is None,
        reason=lead.how if wrong is None else wrong,
        tie_rule_used=lead.tie,
        dissent=tuple(cast.name for cast in casts if lead.behind and cast.place not in lead.behind),
        usable=len(casts),
    )


def casts_of(spec: AnswerSpec, ballots: Sequence[Ballot], settings: Consensus) -> tuple[Cast, ...]:
    """The usable votes in the order of the panel."""
    return tuple(
        Cast(
            ballot.member.name,
            ballot.member.place,
            ballot.member.weight if settings.method in WEIGHING else 1.0,
            ballot.vote.value,
            same_key(spec, ballot.vote.value),
            ballot.vote.confidence,
        )
        for ballot in sorted(ballots, key=lambda one: one.member.place)
        if isinstance(ballot.vote, Usable)
    )


def _wrong(lead: _Lead, settings: Consensus, usable: int) -> str | None:
    if usable < settings.quorum:
        return f"{_votes(usable)}, and the quorum is {settings.quorum}"
    if lead.wrong is not None:
        return lead.wrong
    bar = lead.bar if lead.bar is not None else asked_bar(settings)
    if bar is None or bar.passed(lead.agreement, after_tie=lead.tie is not None):
        return None
    if bar.least is None:
        return f"no answer has more than half: the first has {lead.agreement:.0%}"
    return f"agreement is {lead.agreement:.0%}, and min_agreement is {bar.least:g}"


def asked_bar(settings: Consensus) -> Bar | None:
    least = settings.min_agreement
    return None if least is None else Bar(least, ties_count=settings.tie != "none")


def half_bar(settings: Consensus) -> Bar:
    return Bar(settings.min_agreement, ties_count=settings.tie != "none")


def _votes(usable: int) -> str:
    return "there is 1 usable vote" if usable == 1 else f"there are {usable} usable votes"


def _lead(spec: AnswerSpec, casts: Sequence[Cast], settings: Consensus, ruling: Ruling | None) -> _Lead:
    match settings.method:
        case "majority" | "weighted":
            return _plurality(casts, settings)
        case "unanimous":
            return _unanimous(casts, settings)
        case "quorum":
            return _enough(casts, settings)
        case "mean" | "median" | "trimmed_mean" | "geometric_odds":
            return _pooled(spec, casts, settings, settings.method)
        case "per_field":
            return _composed(spec, casts, settings)
        case "first_valid":
            behind = agreeing(spec, casts, casts[0].value, settings)
            how = f"{casts[0].name} is the first of the panel with a usable vote"
            return _Lead(casts[0].value, behind, _share_of(casts, behind), how)
        case "all":
            vote = _basis(spec, casts, settings)
            return _Lead([cast.value for cast in casts], vote.behind, vote.agreement, "all usable votes, in order")
        case "judge":
            return _judged(spec, casts, settings, ruling)


def _plurality(casts: Sequence[Cast], settings: Consensus) -> _Lead:
    ranked = standings(casts)
    first, tie = first_of(ranked, settings.tie)
    agreement = share(ranked[0].weight, weigh(casts))
    if first is None:
        wrong = f"there is a tie between {len(equals(ranked))} answers, and no rule for it"
        return _Lead(None, frozenset(), agreement, "", wrong=wrong)
    how = f"{first.count} of {len(casts)} usable votes agree"
    if settings.method == "weighted":
        how += f", with {agreement:.0%} of the weight"
    if tie is not None:
        how += f", after a tie: {tie}"
    return _Lead(first.value, first.places, agreement, how, half_bar(settings), tie)


def _unanimous(casts: Sequence[Cast], settings: Consensus) -> _Lead:
    lead = _plurality(casts, settings)
    differ = len({cast.key for cast in casts}) > 1
    return replace(lead, wrong="the votes are not unanimous" if differ else None)


def _enough(casts: Sequence[Cast], settings: Consensus) -> _Lead:
    """Of method quorum: so many for one and the same answer."""
    lead = replace(_plurality(casts, settings), bar=None)
    most = standings(casts)[0].count
    if most < settings.quorum:
        return replace(lead, wrong=f"no answer has {settings.quorum} votes: the first has {most}")
    return lead


def first_of(ranked: Sequence[Standing], rule: TieRule) -> tuple[Standing | None, TieRule | None]:
    """The winner, and the rule if one was needed."""
    tied = equals(ranked)
    if len(tied) == 1:
        return tied[0], None
    match rule:
        case "none":
            return None, None
        case "first_member":
            return tied[0], rule
        case "highest_confidence":  # max takes the first of equals: then the order of the panel decides
            return max(tied, key=lambda one: round(one.confidence, 9)), rule


def _pooled(spec: AnswerSpec, casts: Sequence[Cast], settings: Consensus, method: Method) -> _Lead:
    pairs = [(float(cast.value), cast.weight) for cast in casts]
    match method:
        case "mean":
            value = pooling.mean(pairs)
        case "trimmed_mean":
            value = pooling.trimmed_mean(pairs, settings.trim)
        case "geometric_odds":
            value = pooling.geometric_odds(pairs)
        case _:
            value = pooling.median(pairs)
    answer = tidy(value)
    behind = agreeing(spec, casts, answer, settings)
    name = "geometric mean of the odds" if method == "geometric_odds" else method.replace("_", " ")
    how = f"the {name} of {len(casts)} usable votes"
    return _Lead(answer, behind, _share_of(casts, behind), how)


def _composed(spec: AnswerSpec, casts: Sequence[Cast], settings: Consensus) -> _Lead:
    """Agreement is that of the field with the least of it: every field has to pass."""
    answer: dict[str, Json] = {}
    tie: TieRule | None = None
    agreement, total = 1.0, weigh(casts)
    for name, ranked in fields_of(spec, casts).items():
        first, used = first_of(ranked, settings.tie)
        agreement = min(agreement, share(ranked[0].weight, total))
        if first is None:
            return _Lead(None, frozenset(), agreement, "", wrong=f"there is a tie over the field {name!r}, and no rule")
        tie = used or tie
        if first.value:
            answer[name] = first.value[0]
    key = same_key(spec, answer)
    behind = frozenset(cast.place for cast in casts if cast.key == key)
    misfit = schemas.mismatch(spec.schema or {}, answer)
    wrong = None if misfit is None else f"the fields together do not fit answer.schema: {misfit}"
    how = f"field by field, of {len(casts)} usable votes"
    return _Lead(answer, behind, agreement, how, half_bar(settings), tie, wrong)


def fields_of(spec: AnswerSpec, casts: Sequence[Cast]) -> Mapping[str, tuple[Standing, ...]]:
    keys = {cast.place: {name: same_key(spec, value) for name, value in cast.value.items()} for cast in casts}
    return by_field(casts, keys)


def _basis(spec: AnswerSpec, casts: Sequence[Cast], settings: Consensus) -> _Lead:
    """The plain vote: of numbers the median, of all else the majority."""
    return _pooled(spec, casts, settings, "median") if is_number(spec) else _plurality(casts, settings)


def _judged(spec: AnswerSpec, casts: Sequence[Cast], settings: Consensus, ruling: Ruling | None) -> _Lead:
    vote = _basis(spec, casts, settings)
    chosen = None if ruling is None else _chosen(spec, casts, ruling)
    if chosen is None:
        return replace(vote, how=f"{vote.how}; no judge was heard")
    behind = agreeing(spec, casts, chosen.value, settings)
    if _is_majority(vote) and chosen.place not in vote.behind and not settings.judge_may_overturn:
        how = f"{vote.how}; the judge chose another answer, and may not overturn a majority"
        return replace(vote, how=how)
    how = f"the judge chose it; {len(behind)} of {len(casts)} usable votes agree"
    return _Lead(chosen.value, behind, _share_of(casts, behind), how)


def _chosen(spec: AnswerSpec, casts: Sequence[Cast], ruling: Ruling) -> Cast | None:
    key = same_key(spec, ruling.value)
    return next((cast for cast in casts if cast.key == key), None)


def _is_majority(vote: _Lead) -> bool:
    return bool(vote.behind) and Bar(None, ties_count=False).passed(vote.agreement, after_tie=False)


def is_number(spec: AnswerSpec) -> bool:
    return spec.type in {"number", "probability"}


def agreeing(spec: AnswerSpec, casts: Sequence[Cast], answer: Json, settings: Consensus) -> frozenset[int]:
    """Places of the votes that are the same as an answer or, of numbers, near it."""
    if is_number(spec):
        return frozenset(cast.place for cast in casts if near(spec, cast.value, answer, settings.tolerance))
    key = same_key(spec, answer)
    return frozenset(cast.place for cast in casts if cast.key == key)


def near(spec: AnswerSpec, one: float, other: float, tolerance: float) -> bool:
    """Whether two numbers agree.

    Within `tolerance` itself for probabilities; within that share of the range where the question has a min and a max;
    else within that share of the larger one.
    """
    if spec.type == "probability":
        room = tolerance
    elif spec.min is not None and spec.max is not None:
        room = tolerance * (spec.max - spec.min)
    else:
        room = tolerance * max(abs(one), abs(other))
    return abs(one - other) <= room * (1 + 1e-9)


def _share_of(casts: Sequence[Cast], places: frozenset[int]) -> float:
    return share(weigh(cast for cast in casts if cast.place in places), weigh(casts))


def _confidence(spec: AnswerSpec, casts: Sequence[Cast], lead: _Lead, settings: Consensus) -> float | None:
    """What the members together give the answer: the geometric mean of their odds for it.

    Who stands behind another answer gives this one a part of what it leaves open. Of an answer put together from
    several, nobody has said how sure it is.
    """
    told = [(cast, cast.confidence) for cast in casts if cast.confidence is not None]
    if not told or not lead.behind or settings.method in {"per_field", "all"}:
        return None
    answers = len(spec.options) or (2 if spec.type != "json" else max(2, len({cast.key for cast in casts})))
    pairs = [(said if cast.place in lead.behind else (1 - said) / (answers - 1), cast.weight) for cast, said in told]
    return round(pooling.geometric_odds(pairs), 6)


def needs_judge(spec: AnswerSpec, ballots: Sequence[Ballot], settings: Consensus) -> bool:
    """Whether a judge could change anything: there are two answers, a quorum, and no majority it must not overturn."""
    casts = casts_of(spec, ballots, settings)
    if settings.method != "judge" or len(casts) < settings.quorum or len({cast.key for cast in casts}) < 2:
        return False
    return settings.judge_may_overturn or not _is_majority(_basis(spec, casts, settings))
