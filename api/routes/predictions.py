"""Predictions: a question for a panel of models, what turned out to be true, and how good each model was."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from api import preference
from api.desk import Desk
from api.fields import Moment
from api.job import JobBody
from api.operations import Answer, Body, Call, Operations, Reply
from api.prediction import OutcomeBody, OutcomeFields, ScoreListBody
from api.problems import CONFLICT, GONE, KEY_REUSED, NOT_FOUND, QUEUE_FULL, UNKNOWN_MODEL, Fault, invalid
from api.routes.jobs import JOB_MADE, find, made, prediction_request
from worker.domain.answer import Json
from worker.domain.calibration import Score
from worker.domain.failure import Lane
from worker.domain.question import AnswerType, BadQuestion
from worker.services.native.answers import instant
from worker.services.native.questions import QuestionFields
from worker.services.native.requests import JobOptions
from worker.services.outcomes import record_outcome, scores_of
from worker.services.submit import submit
from worker.store.predictions import Outcome

predictions: Final = Operations("Predictions")


class NewPrediction(QuestionFields, JobOptions):
    """The fields of a question beside those of a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "Will it rain in Lima tomorrow?",
                    "answer": {"type": "boolean"},
                    "panel": ["groq", "gemini", "openai"],
                    "consensus": {"method": "majority", "min_agreement": 0.6},
                }
            ]
        }
    )


@predictions.add(
    "POST",
    "/v1/predictions",
    "predictions.create",
    "Put a question to a panel",
    scope="jobs:write",
    body=Body(NewPrediction),
    headers=(preference.PREFER, preference.IDEMPOTENCY_KEY),
    answers={
        200: Answer("The prediction ended while the request waited.", JobBody, JOB_MADE),
        202: Answer("The prediction is stored, and will run.", JobBody, JOB_MADE),
    },
    problems=(UNKNOWN_MODEL, KEY_REUSED, QUEUE_FULL),
)
def create(desk: Desk, call: Call) -> Reply:
    """A job of kind `prediction`: GET /v1/jobs/{id} shows it, and its result is one answer with the votes behind it."""
    key = preference.idempotency_key(call, "predictions.create", call.given)
    request = prediction_request(desk, call.body, call.body, Lane.INTERACTIVE)
    return made(desk, call, lambda: submit(desk.deps, call.project_id, [request], key, key_id=call.key_id))


@predictions.add(
    "POST",
    "/v1/predictions/<job_id>/outcome",
    "predictions.outcome",
    "Say what turned out to be true",
    scope="jobs:write",
    body=Body(OutcomeFields),
    answers={200: Answer("It is recorded, and every vote is scored by it.", OutcomeBody)},
    problems=(NOT_FOUND, GONE, CONFLICT),
)
def outcome(desk: Desk, call: Call) -> Reply:
    """The same value again changes nothing; another one corrects it, and the scores with it."""
    job = find(desk, call.project_id, call.path["job_id"])
    try:
        return Reply(_outcome_json(record_outcome(desk.deps, job, call.body.value)))
    except BadQuestion as exc:
        raise invalid(Fault("value", exc.says, exc.remedy)) from None


class ScoresQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Annotated[AnswerType | None, Field(description="Only questions with this type of answer.")] = None
    since: Annotated[Moment | None, Field(description="RFC 3339; votes of predictions that ended from then on.")] = None


@predictions.add(
    "GET",
    "/v1/predictions/scores",
    "predictions.scores",
    "How good each model was",
    scope="jobs:read",
    query=ScoresQuery,
    answers={200: Answer("By model, in the order of their names.", ScoreListBody)},
)
def scores(desk: Desk, call: Call) -> Reply:
    """Of the project's predictions whose outcome is known: accuracy, Brier score, calibration, and learned weight."""
    models, panel = scores_of(desk.deps, call.project_id, kind=call.query.type, since=call.query.since)
    return Reply(
        {
            "object": "list",
            "data": [score_json(one) for one in models],
            "panel": None if panel is None else score_json(panel),
        }
    )


def _outcome_json(found: Outcome) -> dict[str, Json]:
    return {
        "object": "prediction_outcome",
        "prediction": found.job_id,
        "value": found.value,
        "recorded_at": instant(found.recorded_at),
        "corrected_at": instant(found.corrected_at),
    }


def score_json(score: Score) -> dict[str, Json]:
    return {
        "model": score.member,
        "answered": score.answered,
        "judged": score.judged,
        "right": score.right,
        "accuracy": score.accuracy,
        "brier": score.brier,
        "log_loss": score.log_loss,
        "calibration_error": score.error,
        "weight": score.weight,
        "bins": [
            {
                "low": one.low,
                "high": one.high,
                "count": one.count,
                "mean_probability": one.mean_probability,
                "happened_share": one.happened_share,
            }
            for one in score.bins
        ],
    }
