"""What lines may ask for: each endpoint with how a body becomes a job, and how a completed job becomes a body.

A new endpoint is one more entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter

from worker.domain.answer import Json
from worker.domain.failure import Lane
from worker.domain.job import JobView
from worker.services.native.answers import job_json
from worker.services.native.requests import AnyJob, NewJob, request_of
from worker.services.openai.answers import chat_completion, embedding_list, response, text_completion
from worker.services.openai.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    chat_job,
    completion_job,
    embedding_job,
)
from worker.services.openai.responses import ResponseRequest, response_job
from worker.services.submit import JobRequest
from worker.settings import PanelConfig

NATIVE: Final = "/v1/jobs"  # a job of whatever kind as a line, and that job as its answer

_Panels = Mapping[str, PanelConfig]

RESPONSES: Final = "/v1/responses"
# OpenAI's other endpoints for batches, and why a line cannot ask for them.
REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/v1/moderations": "no other provider has them, so there is nothing to fall back to",
        **dict.fromkeys(("/v1/images/generations", "/v1/images/edits", "/v1/videos"), "only texts are made here"),
    }
)


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """`job` takes the body and the panels of the settings, and may raise BadQuestion; `answer` the job and the encoding
    that was asked for its vectors; `failure` the job, and what went wrong in OpenAI's words.
    """

    model: Any
    adapter: TypeAdapter[Any]
    job: Callable[[Any, _Panels], JobRequest]
    answer: Callable[[JobView, str | None], dict[str, Json]]
    failure: Callable[[JobView, Json], dict[str, Json]] = lambda _job, error: {"error": error}


def _line(job: Callable[[Any, Lane], JobRequest]) -> Callable[[Any, _Panels], JobRequest]:
    return lambda asked, _panels: job(asked, Lane.BATCH)


def _native(asked: AnyJob, panels: _Panels) -> JobRequest:
    """In the lane of its batch, whatever it says: that is the one that is claimed with it."""
    return replace(request_of(asked, panels, Lane.BATCH), lane=Lane.BATCH)


ENDPOINTS: Final[Mapping[str, BatchEndpoint]] = MappingProxyType(
    {
        "/v1/chat/completions": BatchEndpoint(
            ChatRequest,
            TypeAdapter(ChatRequest),
            _line(chat_job),
            lambda job, _encoding: chat_completion(job),
        ),
        RESPONSES: BatchEndpoint(
            ResponseRequest,
            TypeAdapter(ResponseRequest),
            _line(response_job),
            lambda job, _encoding: response(job),
        ),
        "/v1/completions": BatchEndpoint(
            CompletionRequest,
            TypeAdapter(CompletionRequest),
            _line(completion_job),
            lambda job, _encoding: text_completion(job),
        ),
        "/v1/embeddings": BatchEndpoint(
            EmbeddingRequest, TypeAdapter(EmbeddingRequest), _line(embedding_job), embedding_list
        ),
        NATIVE: BatchEndpoint(
            NewJob,
            TypeAdapter(NewJob),
            _native,
            lambda job, _encoding: job_json(job),
            lambda job, _error: job_json(job),
        ),
    }
)
