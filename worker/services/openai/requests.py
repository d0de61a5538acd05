"""Requests in OpenAI's words, and the jobs they become: of a single call, or of a line of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from worker.domain.answer import Json, Kind
from worker.domain.failure import Lane
from worker.domain.money import nano_of
from worker.services.openai.fields import DeadlineS, MaxCost, Metadata, ModelName, ModelNames, Text
from worker.services.openai.portable import AnyMessages, Dimensions, Inputs, Parameters, set_fields
from worker.services.submit import JobRequest

_OURS: Final = frozenset(
    {"model", "models", "metadata", "deadline_s", "max_cost", "stream", "stream_options", "n", "encoding_format"}
)


class Ours(BaseModel):
    """`models` come after `model`; `metadata`, `deadline_s` and `max_cost` are the job's. All are Completar's own."""

    model: ModelName = "default"
    models: ModelNames | None = None
    metadata: Metadata | None = None
    deadline_s: DeadlineS | None = None
    max_cost: MaxCost | None = None


class ChatRequest(Ours, Parameters):
    """As OpenAI's; fields that Completar does not know are passed on to the provider."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    messages: AnyMessages
    stream: Annotated[bool, WithJsonSchema({"const": False, "description": "Answers are not streamed."})] | None = None
    stream_options: dict[str, Any] | None = None


class CompletionRequest(Ours, Parameters):
    """OpenAI's older completions, as far as a chat can carry them: one text in, one text out."""

    prompt: Text
    stream: bool | None = None


class EmbeddingRequest(Ours):
    """As OpenAI's; fields that Completar does not know are passed on to the provider."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    input: Inputs
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None


def chat_job(asked: ChatRequest, lane: Lane = Lane.INTERACTIVE) -> JobRequest:
    wanted = _wanted(asked)
    return job_of("completion", asked, wanted, lane, strict_schema(wanted))


def completion_job(asked: CompletionRequest, lane: Lane = Lane.INTERACTIVE) -> JobRequest:
    return job_of("completion", asked, _wanted(asked), lane)


def embedding_job(asked: EmbeddingRequest, lane: Lane = Lane.INTERACTIVE) -> JobRequest:
    return job_of("embedding", asked, _wanted(asked), lane)


def _wanted(asked: Ours) -> dict[str, Json]:
    """What is the provider's: what the caller set, null counting as not set."""
    given = set_fields(asked) | (asked.__pydantic_extra__ or {})
    return {name: value for name, value in given.items() if name not in _OURS and value is not None}


def job_of(
    kind: Kind, asked: Ours, wanted: dict[str, Json], lane: Lane, output_schema: Mapping[str, Json] | None = None
) -> JobRequest:
    """`wanted` is the portable request."""
    return JobRequest(
        kind=kind,
        models=tuple(dict.fromkeys((asked.model, *(asked.models or ())))),
        input=wanted,
        lane=lane,
        output_schema=output_schema,
        metadata={} if asked.metadata is None else asked.metadata,
        deadline_s=asked.deadline_s,
        max_cost_nano=None if asked.max_cost is None else nano_of(asked.max_cost),
    )


def strict_schema(wanted: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """A schema that was asked for strictly: then Completar itself sees to it that the answer fits."""
    asked = wanted.get("response_format")
    inner = asked.get("json_schema") if isinstance(asked, dict) and asked.get("type") == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, dict) and inner.get("strict") is True else None
    return schema if isinstance(schema, dict) else None
