"""OpenAI's Responses: one request, one answer. Nothing is kept that a later request could refer to but the job."""

from __future__ import annotations

from typing import Final, Literal

from api import preference
from api.desk import Desk
from api.fields import Out
from api.openai_fields import Unix
from api.operations import Answer, Body, Call, Operations, Reply
from api.problems import NO_STREAM
from api.routes.chat import ANSWERED, PROBLEMS, CachedTokens, ReasoningTokens, ServedBy, answered, whole
from worker.services.openai.answers import response
from worker.services.openai.responses import ResponseRequest, response_job
from worker.services.pictures import ForbiddenPicture

responses: Final = Operations("OpenAI-compatible", "openai")

Status = Literal["completed", "incomplete"]


class OutputText(Out):
    type: Literal["output_text"]
    text: str
    annotations: list[None]
    logprobs: list[None]


class OutputMessage(Out):
    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Status
    content: list[OutputText]


class OutputCall(Out):
    """`arguments` is JSON text, as the model wrote it."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class InputTokens(CachedTokens):
    cache_write_tokens: Literal[0]


class ResponseUsage(Out):
    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Incomplete(Out):
    reason: Literal["max_output_tokens", "content_filter"]


class ResponseBody(Out):
    """`model` is the one that served; `usage` is null where the provider told none. What the request said is not
    repeated: `tools`, `tool_choice` and `parallel_tool_calls` are OpenAI's defaults.
    """

    id: str
    object: Literal["response"]
    created_at: Unix
    completed_at: Unix | None
    status: Status
    background: Literal[False]
    error: None
    incomplete_details: Incomplete | None
    instructions: None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: Literal[True]
    previous_response_id: None
    tool_choice: Literal["auto"]
    tools: list[None]
    usage: ResponseUsage | None
    completar: ServedBy


@responses.add(
    "POST",
    "/v1/responses",
    "responses.create",
    "Response",
    scope="jobs:write",
    body=Body(ResponseRequest),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={200: Answer("The answer.", ResponseBody, ANSWERED)},
    problems=(NO_STREAM, *PROBLEMS),
)
def create_response(desk: Desk, call: Call) -> Reply:
    """An interactive job that is waited for, as a chat completion is. Tools are functions; no conversation is kept."""
    whole(call.body.stream)
    try:
        job, headers = answered(desk, call, "responses", response_job(call.body))
    except ForbiddenPicture as exc:
        raise ForbiddenPicture(None, "input", exc.why) from None  # the place in the job means nothing to who asked
    return Reply(response(job), 200, headers)
