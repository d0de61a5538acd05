"""Hold a prediction against what turned out to be true, and read what that says of each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from worker.deps import Deps
from worker.domain.answer import Json
from worker.domain.calibration import Score, check_outcome, forecast_of, learned_weights, scores
from worker.domain.job import JobView
from worker.domain.panel import Panel, read_panel
from worker.domain.state import JobStatus
from worker.domain.vote import Usable
from worker.store import predictions, views
from worker.store.predictions import PANEL, Outcome, Scored


class NoResult(ValueError):
    """The job is no prediction with a result to be judged."""


def record_outcome(deps: Deps, job: JobView, value: Json) -> Outcome:
    """Record, or correct, what turned out to be true, and score every vote by it. Raises NoResult, BadQuestion."""
    if job.kind != "prediction":
        raise NoResult(f"job {job.id} is no prediction")
    if job.status is not JobStatus.COMPLETED or job.ended_at is None:
        raise NoResult(f"prediction {job.id} is {job.status}; only a completed one has votes to be judged")
    with deps.database.read() as conn:
        stored = views.request_of(conn, job.project_id, job.id)
    if stored is None:
        raise NoResult(f"the request of prediction {job.id} is no longer kept, or a newer release stored it")
    panel = read_panel(stored["input"])
    truth = check_outcome(panel.question.answer, value)
    with deps.database.write() as conn:
        kind = panel.question.answer.type
        predictions.record(
            conn, job.project_id, job.id, kind, truth, job.ended_at, list(_scored(panel, job.result, truth))
        )
        found = predictions.outcome_of(conn, job.project_id, job.id)
    assert found is not None, "it was recorded just now"
    return found


def _scored(panel: Panel, result: Mapping[str, Any], truth: Json) -> Iterable[Scored]:
    """A vote counts for the model that answered, not for the one that was asked first."""
    spec, tolerance = panel.question.answer, panel.consensus.tolerance
    for vote in result["votes"]:
        if vote["usable"]:
            cast = Usable(vote["answer"], vote["confidence"], None)
            forecast = forecast_of(spec, vote["model"], cast, truth, tolerance)
            if forecast is not None:
                yield Scored(vote["member"], forecast)
    if result["consensus"]:
        whole = forecast_of(spec, PANEL, Usable(result["answer"], result["confidence"], None), truth, tolerance)
        if whole is not None:
            yield Scored("", whole)


def scores_of(
    deps: Deps, project_id: str, *, kind: str | None = None, since: datetime | None = None
) -> tuple[Sequence[Score], Score | None]:
    """Of each model, and of the verdicts of panels; None: there was none."""
    with deps.database.read() as conn:
        found = predictions.forecasts(conn, project_id, kind=kind, since=since)
    every = scores(found)
    return [one for one in every if one.member != PANEL], next((one for one in every if one.member == PANEL), None)


def learned(deps: Deps, project_id: str, panel: Panel) -> Mapping[str, float]:
    """Weights for the seats of a panel, from the record of the models they speak for."""
    first = {place.name: deps.catalog.resolve(place.models).targets[0].name for place in panel.places}
    with deps.database.read() as conn:
        found = predictions.forecasts(conn, project_id, models=sorted(set(first.values())))
    weights = learned_weights(scores(found), sorted(set(first.values())))
    return {name: weights[model] for name, model in first.items()}
