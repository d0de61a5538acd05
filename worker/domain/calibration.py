"""How good were the forecasts? Accuracy, Brier score, calibration and weights, from outcomes that are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from worker.domain.answer import Json
from worker.domain.decision import near
from worker.domain.pooling import log_odds
from worker.domain.question import AnswerSpec, BadQuestion
from worker.domain.vote import NoValue, Usable, Vote, same_key, value_of

BINS: Final = 10
FLOOR: Final = 0.1  # nobody is silenced, nor turned round: a member that is mostly wrong may be so by bad luck
CAP: Final = 3.0  # log-odds of 95 right in 100
STRENGTH: Final = 10.0  # the record of an average member counts as so many questions of one's own
_CLIP: Final = 0.001  # of log loss: one certain mistake must not be infinite


@dataclass(frozen=True, slots=True)
class Forecast:
    """One member's answer to a question whose outcome is known.

    right        whether the answer was right; None: a probability of exactly one half
    probability  that the member gave to what is told by `happened`; None: it named no confidence
    happened     of a probability: the outcome; of other answers: whether the answer was right
    """

    member: str
    right: bool | None
    probability: float | None
    happened: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Forecasts with a probability from `low` up to `high` (the last one: included)."""

    low: float
    high: float
    count: int
    mean_probability: float | None
    happened_share: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """A member's record. None: there is nothing to tell it from.

    answered   questions with a known outcome          judged      of those, with right or wrong
    brier      mean squared error: 0 is perfect, and always saying one half gets 0.25
    log_loss   in nats, probabilities clipped          error       expected calibration error, 0..1
    weight     log-odds of the accuracy, shrunk towards that of all, within FLOOR and CAP
    """

    member: str
    answered: int
    judged: int
    right: int
    accuracy: float | None
    brier: float | None
    log_loss: float | None
    error: float | None
    bins: tuple[Bin, ...]
    weight: float


# -- outcomes ----------------------------------------------------------------------------------------------------


def check_outcome(spec: AnswerSpec, outcome: Json) -> Json:
    """The outcome in the form it is kept in; of a probability it is whether it happened. Raises BadQuestion."""
    if spec.type == "probability":
        if isinstance(outcome, bool):
            return outcome
        raise BadQuestion("outcome", "is neither true nor false", "Say whether it happened: true or false.")
    if outcome is None or (spec.type in {"boolean", "number"} and isinstance(outcome, str)):
        raise BadQuestion("outcome", f"is no {spec.type}", "Give what turned out to be true, as an answer would be.")
    try:
        # What came true may lie beyond what members were allowed to say.
        return value_of(replace(spec, min=None, max=None), outcome)
    except NoValue as exc:
        raise BadQuestion("outcome", str(exc), "Give what turned out to be true, as an answer would be.") from None


def forecast_of(spec: AnswerSpec, member: str, vote: Vote, outcome: Json, tolerance: float = 0.1) -> Forecast | None:
    """None: the member cast no vote. A number is right within `tolerance` (as in Consensus) of the outcome."""
    if not isinstance(vote, Usable):
        return None
    match spec.type:
        case "probability":
            happened = bool(outcome)
            right = None if vote.value == 0.5 else (vote.value > 0.5) is happened
            return Forecast(member, right, float(vote.value), happened)
        case "number":
            right = near(spec, vote.value, outcome, tolerance)
        case _:
            right = same_key(spec, vote.value) == same_key(spec, outcome)
    return Forecast(member, right, vote.confidence, right)


# -- scores ------------------------------------------------------------------------------------------------------


def scores(forecasts: Iterable[Forecast]) -> tuple[Score, ...]:
    """By member, in the order of their names; the order of the forecasts does not matter."""
    by_member: dict[str, list[Forecast]] = {}
    for one in forecasts:
        by_member.setdefault(one.member, []).append(one)
    usual = _usual([one for found in by_member.values() for one in found])
    return tuple(_score(member, by_member[member], usual) for member in sorted(by_member))


def _usual(forecasts: Sequence[Forecast]) -> float:
    """The accuracy of all together; of none, one half."""
    judged = [one.right for one in forecasts if one.right is not None]
    return (sum(judged) + 1) / (len(judged) + 2)


def _score(member: str, forecasts: Sequence[Forecast], usual: float) -> Score:
    judged = [one.right for one in forecasts if one.right is not None]
    said = [(one.probability, one.happened) for one in forecasts if one.probability is not None]
    bins = _bins(said)
    return Score(
        member=member,
        answered=len(forecasts),
        judged=len(judged),
        right=sum(judged),
        accuracy=sum(judged) / len(judged) if judged else None,
        brier=_mean([(probability - happened) ** 2 for probability, happened in said]),
        log_loss=_mean([_surprise(probability, happened=happened) for probability, happened in said]),
        error=_error(bins),
        bins=bins,
        weight=_weight(sum(judged), len(judged), usual),
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _surprise(probability: float, *, happened: bool) -> float:
    given = probability if happened else 1 - probability
    return -math.log(min(max(given, _CLIP), 1 - _CLIP))


def _bins(said: Sequence[tuple[float, bool]]) -> tuple[Bin, ...]:
    inside: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for probability, happened in said:
        inside[min(int(probability * BINS), BINS - 1)].append((probability, happened))
    return tuple(
        Bin(
            n / BINS,
            (n + 1) / BINS,
            len(found),
            _mean([probability for probability, _ in found]),
            _mean([float(happened) for _, happened in found]),
        )
        for n, found in enumerate(inside)
    )


def _error(bins: Sequence[Bin]) -> float | None:
    total = sum(one.count for one in bins)
    gaps = [
        one.count * abs(one.mean_probability - one.happened_share)
        for one in bins
        if one.mean_probability is not None and one.happened_share is not None
    ]
    return math.fsum(gaps) / total if total else None


def _weight(right: int, judged: int, usual: float) -> float:
    shrunk = (right + STRENGTH * usual) / (judged + STRENGTH)
    return min(max(log_odds(shrunk), FLOOR), CAP)


def learned_weights(scored: Sequence[Score], members: Sequence[str]) -> dict[str, float]:
    """By member; who has no record weighs what all together would."""
    known = {score.member: score.weight for score in scored}
    right, judged = sum(score.right for score in scored), sum(score.judged for score in scored)
    newcomer = _weight(0, 0, (right + 1) / (judged + 2))
    return {member: known.get(member, newcomer) for member in members}
