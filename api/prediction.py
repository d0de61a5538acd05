"""A prediction as it is answered, with its dissent, and what is said of how it came out."""

from __future__ import annotations

from typing import Any, Literal

from api.fields import Out, Strict
from api.job import Count
from worker.domain.answer import Json


class OutcomeFields(Strict):
    """`value` is of the answer's type; of a probability it is whether it happened: true or false."""

    value: Json


# -- what it comes to ---------------------------------------------------------------------------------------------


class OutcomeBody(Out):
    """`corrected_at` tells when another value was given than at first."""

    object: Literal["prediction_outcome"]
    prediction: str
    value: Any
    recorded_at: str
    corrected_at: str | None


class BinBody(Out):
    """Votes whose probability was from `low` up to `high`: what they said on average, and how often it was so."""

    low: float
    high: float
    count: Count
    mean_probability: float | None
    happened_share: float | None


class ScoreBody(Out):
    """Of one model's votes with a known outcome; null where there is nothing to tell it from."""

    model: str
    answered: Count
    judged: Count
    right: Count
    accuracy: float | None
    brier: float | None
    log_loss: float | None
    calibration_error: float | None
    weight: float
    bins: list[BinBody]


class ScoreListBody(Out):
    """`panel` is the record of the verdicts themselves."""

    object: Literal["list"]
    data: list[ScoreBody]
    panel: ScoreBody | None
