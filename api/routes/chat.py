"""The OpenAI-compatible face: chat completions and embeddings as jobs that are waited for, and the names of models."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from api import preference
from api.desk import Desk
from api.failed import NO_RETRY, problem_of
from api.fields import Out
from api.operations import Answer, Body, Call, Header, Operations, Reply
from api.problems import (
    BUSY,
    KEY_REUSED,
    NO_STREAM,
    NOT_FOUND,
    NOT_YET,
    QUEUE_FULL,
    UNKNOWN_MODEL,
    Fault,
    Problem,
    invalid,
    sorts_of_failed_jobs,
)
from worker.domain.answer import Json
from worker.domain.job import JobView
from worker.domain.state import FINAL, JobStatus
from worker.services.native.answers import url_of
from worker.services.openai.answers import chat_completion, embedding_list
from worker.services.openai.requests import ChatRequest, EmbeddingRequest, chat_job, embedding_job
from worker.services.submit import JobRequest, submit
from worker.store import views

LONGEST_S: Final = 600.0  # as long as the official client waits by default
BUSY_S: Final = 1

chat: Final = Operations("OpenAI-compatible", "openai")


class ServedBy(Out):
    """Not OpenAI's: which job answered, and which provider."""

    job: str
    provider: str | None


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["assistant"]
    content: str | None


class ChatChoice(Out):
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    logprobs: None


class CachedTokens(Out):
    cached_tokens: int


class ReasoningTokens(Out):
    reasoning_tokens: int


class ChatUsage(Out):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class ChatCompletion(Out):
    """`model` is the one that served; `usage` is null where the provider told none."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage | None
    completar: ServedBy


class EmbeddingItem(Out):
    """`embedding`: numbers, or little-endian 32-bit floats in base64 where that was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Out):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Out):
    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage | None
    completar: ServedBy


class ModelBody(Out):
    """A route, or a target of one; `created` is 0: they are configured, not made."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Out):
    object: Literal["list"]
    data: list[ModelBody]


JOB: Final = Header("x-completar-job", "The job behind this answer.")
ANSWERED: Final = (JOB, preference.REPLAYED)
PROBLEMS: Final = (UNKNOWN_MODEL, KEY_REUSED, QUEUE_FULL, BUSY, NOT_YET, *sorts_of_failed_jobs())


@chat.add(
    "POST",
    "/v1/chat/completions",
    "chat.completions.create",
    "Chat completion",
    scope="jobs:write",
    body=Body(ChatRequest),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={200: Answer("The answer.", ChatCompletion, ANSWERED)},
    problems=(NO_STREAM, *PROBLEMS),
)
def create_chat_completion(desk: Desk, call: Call) -> Reply:
    """An interactive job that is waited for. Not done in time: 504, the job goes on, `x-completar-job` names it."""
    asked: ChatRequest = call.body
    whole(asked.stream)
    job, headers = answered(desk, call, "chat.completions", chat_job(asked))
    return Reply(chat_completion(job), 200, headers)


@chat.add(
    "POST",
    "/v1/embeddings",
    "embeddings.create",
    "Embeddings",
    scope="jobs:write",
    body=Body(EmbeddingRequest),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={200: Answer("The vectors, in the order of the inputs.", EmbeddingList, ANSWERED)},
    problems=PROBLEMS,
)
def create_embedding(desk: Desk, call: Call) -> Reply:
    """An interactive job that is waited for, as a chat completion is."""
    asked: EmbeddingRequest = call.body
    job, headers = answered(desk, call, "embeddings", embedding_job(asked))
    return Reply(embedding_list(job, asked.encoding_format), 200, headers)


@chat.add(
    "GET",
    "/v1/models",
    "models.list",
    "List models",
    scope="jobs:read",
    answers={200: Answer("Routes and targets.", ModelList)},
)
def list_models(desk: Desk, _call: Call) -> Reply:
    """What `model` may name. Any `provider/model` may be asked for, whether or not it is listed."""
    return Reply({"object": "list", "data": list(_models(desk).values())})


@chat.add(
    "GET",
    "/v1/models/<path:model>",
    "models.retrieve",
    "Look at a model",
    scope="jobs:read",
    answers={200: Answer("The route or target.", ModelBody)},
    problems=(NOT_FOUND,),
)
def retrieve_model(desk: Desk, call: Call) -> Reply:
    """Those that are listed."""
    found = _models(desk).get(call.path["model"])
    if found is None:
        fault = Fault("model", "is not listed", "GET /v1/models lists those that are.")
        raise Problem(NOT_FOUND, "There is no such model.", faults=(fault,))
    return Reply(found)


def whole(stream: bool | None) -> None:
    """Raises Problem where a stream is asked for."""
    if stream:
        remedy = "Send `stream: false`, or make a job at POST /v1/jobs and follow it at /v1/jobs/{id}/events."
        raise invalid(Fault("stream", "cannot be true: this server does not stream answers", remedy), sort=NO_STREAM)


def answered(desk: Desk, call: Call, route: str, request: JobRequest) -> tuple[JobView, dict[str, str]]:
    """The completed job and the headers that name it. Raises Problem for every other end."""
    key = preference.idempotency_key(call, route, call.given)
    with desk.waiting.seat(call.project_id) as seated:
        if not seated:
            detail = "Too many requests wait for an answer. Come again, or make a job at POST /v1/jobs."
            raise Problem(BUSY, detail, headers={"Retry-After": str(BUSY_S)})
        submitted = submit(desk.deps, call.project_id, [request], key, key_id=call.key_id)
        (job_id,) = submitted.ids
        desk.waiting.until_final(job_id, LONGEST_S)
    with desk.deps.database.read() as conn:
        job = views.get(conn, call.project_id, job_id)
    assert job is not None, "rows are never deleted"
    headers = {"x-completar-job": job.id} | preference.replay_header(replayed=submitted.replayed)
    if job.status not in FINAL:
        detail = f"The job goes on: GET {url_of(job.id)}"
        raise Problem(NOT_YET, detail, headers=headers | NO_RETRY)
    if job.status is not JobStatus.COMPLETED or job.result is None:
        raise problem_of(job)
    return job, headers


def _models(desk: Desk) -> dict[str, dict[str, Json]]:
    catalog = desk.deps.catalog
    owners = dict.fromkeys(catalog.routes, "completar")
    for route in catalog.routes.values():
        owners |= {target.name: target.label for target in route.targets}
    for spec in catalog.providers.values():
        owners |= {target.name: target.label for target in spec.models.values()}
    return {name: {"id": name, "object": "model", "created": 0, "owned_by": owner} for name, owner in owners.items()}
