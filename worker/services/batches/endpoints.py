"""What lines may ask for: each endpoint with how a body becomes a job, and how a completed job becomes a body.

A new endpoint is one more entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from worker.domain.answer import Json
from worker.domain.failure import Lane
from worker.domain.job import JobView
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

RESPONSES: Final = "/v1/responses"
# OpenAI's other endpoints for batches, and why a line cannot ask for them.
REFUSED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/v1/moderations": "no other provider has them, so there is nothing to fall back to",
        **dict.fromkeys(("/v1/images/generations", "/v1/images/edits", "/v1/videos"), "only texts are made here"),
    }
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`answer` takes the job and the encoding that was asked for its vectors."""

    model: type[BaseModel]
    adapter: TypeAdapter[Any]
    job: Callable[[Any], JobRequest]
    answer: Callable[[JobView, str | None], dict[str, Json]]


ENDPOINTS: Final[Mapping[str, Endpoint]] = MappingProxyType(
    {
        "/v1/chat/completions": Endpoint(
            ChatRequest,
            TypeAdapter(ChatRequest),
            partial(chat_job, lane=Lane.BATCH),
            lambda job, _encoding: chat_completion(job),
        ),
        RESPONSES: Endpoint(
            ResponseRequest,
            TypeAdapter(ResponseRequest),
            partial(response_job, lane=Lane.BATCH),
            lambda job, _encoding: response(job),
        ),
        "/v1/completions": Endpoint(
            CompletionRequest,
            TypeAdapter(CompletionRequest),
            partial(completion_job, lane=Lane.BATCH),
            lambda job, _encoding: text_completion(job),
        ),
        "/v1/embeddings": Endpoint(
            EmbeddingRequest, TypeAdapter(EmbeddingRequest), partial(embedding_job, lane=Lane.BATCH), embedding_list
        ),
    }
)
