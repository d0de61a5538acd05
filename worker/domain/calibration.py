"""How good were the forecasts? Accuracy, Brier score, calibration and weights, from outcomes that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.domain.answer import Json
from worker.domain.question import AnswerSpec, Language
from worker.domain.vote import Vote


@dataclass(frozen=True, slots=True)
class Forecast:
    """One member's answer to a question whose outcome is known.

    right        whether the answer was right; None: a probability of exactly one half
    probability  that the member gave to what is asked by `happened`; None: it named no confidence
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
    """A member's record. None: nothing to tell it from.

    answered   questions with a known outcome          judged      of those, with right or wrong
    brier      mean squared error, 0 is perfect, 0.25 is what always saying one half gets
    log_loss   in nats, probabilities clipped          error       expected calibration error, 0..1
    weight     log-odds of the shrunk accuracy, within FLOOR and CAP
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


def forecast_of(spec: AnswerSpec, member: str, vote: Vote, outcome: Json, tolerance: float = 0.1) -> Forecast | None:
    """None: the member cast no vote."""
    raise NotImplementedError


def check_outcome(spec: AnswerSpec, outcome: Json) -> Json:
    """The outcome in canonical form (of a probability: true or false). Raises BadQuestion."""
    raise NotImplementedError


def scores(forecasts: Iterable[Forecast]) -> tuple[Score, ...]:
    """By member, in the order of their names."""
    raise NotImplementedError


def learned_weights(scored: Sequence[Score], members: Sequence[str]) -> Mapping[str, float]:
    """For a panel; who has no record weighs what an average member does."""
    raise NotImplementedError


def reliability_svg(scored: Sequence[Score], language: Language = "en") -> str:
    """A picture: how often it happened, over what probability was given; on the diagonal is perfect."""
    raise NotImplementedError
