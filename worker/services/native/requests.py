"""A job as `POST /v1/jobs` takes it, and the request it becomes: of a single call, or of a line of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from worker.domain.failure import Lane
from worker.domain.money import nano_of
from worker.services.ask import panel_of
from worker.services.native.questions import QuestionFields
from worker.services.native.webhooks import JobWebhook
from worker.services.openai.fields import (
    WHOLE,
    DeadlineS,
    MaxCost,
    Metadata,
    ModelName,
    ModelNames,
    OutputSchema,
    Priority,
    Strict,
    fault,
)
from worker.services.openai.portable import EmbeddingInput, PortableInput, set_fields
from worker.services.submit import JobRequest
from worker.settings import PanelConfig


class JobOptions(Strict):
    """What every job can be given, whatever its kind."""

    lane: Literal["interactive", "batch"] | None = None
    metadata: Metadata | None = None
    priority: Priority = 0
    deadline_s: DeadlineS | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100), WHOLE] | None = None
    max_cost: MaxCost | None = None
    on_interruption: Literal["retry", "fail"] = "retry"
    webhook: JobWebhook | None = None


class _JobFields(JobOptions):
    """`model` is a route (`default`), a target (`provider/model`) or a provider; `models` are several, in order."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["model", "models"]}})

    model: ModelName = "default"
    models: ModelNames = Field(default_factory=list)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if {"model", "models"} <= self.model_fields_set:
            raise fault("cannot stand beside model", "Give one of the two.", "models")
        return self


class CompletionJob(_JobFields):
    kind: Literal["completion"] = "completion"
    input: PortableInput
    output_schema: OutputSchema | None = None


class EmbeddingJob(_JobFields):
    kind: Literal["embedding"]
    input: EmbeddingInput


class PredictionJob(JobOptions):
    """`input` is what POST /v1/predictions takes; `max_attempts` is of each member."""

    kind: Literal["prediction"]
    input: QuestionFields


def _kind(given: Any) -> Any:
    return given.get("kind", "completion") if isinstance(given, dict) else getattr(given, "kind", "completion")


NewJob = Annotated[
    Annotated[CompletionJob, Tag("completion")]
    | Annotated[EmbeddingJob, Tag("embedding")]
    | Annotated[PredictionJob, Tag("prediction")],
    Discriminator(
        _kind,
        custom_error_type="fault",
        custom_error_message="{message}",
        custom_error_context={
            "message": "must be completion, embedding or prediction",
            "remedy": "Leave it out for a completion.",
            "field": "kind",
        },
    ),
]
AnyJob = CompletionJob | EmbeddingJob | PredictionJob


def request_of(job: AnyJob, panels: Mapping[str, PanelConfig], lane: Lane) -> JobRequest:
    """`panels` of the settings. Raises BadQuestion, whose field is within `input`. Whether its models are known is not
    looked at.
    """
    if isinstance(job, PredictionJob):
        return prediction_request(job.input, job, panels, lane)
    return JobRequest(
        kind=job.kind,
        models=tuple(job.models) or (job.model,),
        input=set_fields(job.input),
        output_schema=job.output_schema if isinstance(job, CompletionJob) else None,
        **_options(job, lane),
    )


def prediction_request(
    question: QuestionFields, options: JobOptions, panels: Mapping[str, PanelConfig], lane: Lane
) -> JobRequest:
    """As `request_of`."""
    panel = panel_of(panels, question.asked())
    return JobRequest(kind="prediction", models=panel.models, input=panel.stored(), **_options(options, lane))


def _options(job: JobOptions, lane: Lane) -> dict[str, Any]:
    return {
        "lane": lane if job.lane is None else Lane(job.lane),
        "metadata": {} if job.metadata is None else job.metadata,
        "priority": job.priority,
        "deadline_s": job.deadline_s,
        "max_attempts": job.max_attempts,
        "on_interruption": job.on_interruption,
        "max_cost_nano": None if job.max_cost is None else nano_of(job.max_cost),
        "webhook": None if job.webhook is None else job.webhook.value,
    }
