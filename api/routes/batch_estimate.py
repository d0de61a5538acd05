"""What a file of requests would come to."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from api.batch import BatchErrors
from api.desk import Desk
from api.fields import Out, Strict
from api.job import CostBody
from api.operations import Answer, Body, Call, Operations, Reply
from api.problems import NOT_FOUND, Problem
from api.routes.batches import known
from worker.domain.answer import Json
from worker.domain.money import cost_json
from worker.services.batches.endpoints import ENDPOINTS
from worker.services.batches.estimate import Estimate, Share, estimate
from worker.services.files import Gone
from worker.store import files

batch_estimate: Final = Operations("Batches", "openai")


class ToEstimate(Strict):
    input_file_id: Annotated[str, Field(min_length=1, max_length=100, pattern="^[!-~]+$")]
    endpoint: Annotated[str, AfterValidator(known), WithJsonSchema({"type": "string", "enum": list(ENDPOINTS)})] = (
        "/v1/chat/completions"
    )
    dedupe: bool = False


class ShareBody(Out):
    """Of the lines that name one model, as its first target would serve them."""

    model: str
    target: str
    lines: int
    input_tokens: int
    output_tokens: int
    cost: CostBody
    seconds: float | None


class EstimateBody(Out):
    """Tokens in are counted at four characters each; tokens out are the most that is allowed, 1,024 where nothing is
    said. `read`: on how many of the lines this rests; `errors` are the first of the `faulty` ones. `twins`: with
    `dedupe`, the lines that would make no call; they are in no other number but `lines`. `seconds` null: nothing is
    known of the speed.
    """

    object: Literal["batch.estimate"]
    input_file_id: str
    endpoint: str
    lines: int
    read: int
    faulty: int
    twins: int
    errors: BatchErrors | None
    input_tokens: int
    output_tokens: int
    cost: CostBody
    seconds: float | None
    models: list[ShareBody]


@batch_estimate.add(
    "POST",
    "/v1/batches/estimate",
    "batches.estimate",
    "Estimate a batch",
    scope="jobs:read",
    body=Body(ToEstimate),
    answers={200: Answer("What it may come to.", EstimateBody)},
    problems=(NOT_FOUND,),
)
def estimate_batch(desk: Desk, call: Call) -> Reply:
    """Nothing is called and nothing is stored. Of a long file a part is read, and the rest judged by it."""
    asked: ToEstimate = call.body
    with desk.deps.database.read() as conn:
        file = files.get(conn, call.project_id, asked.input_file_id)
    if file is None:
        raise _no_file(asked.input_file_id)
    try:
        made = estimate(desk.deps, file, asked.endpoint, dedupe=asked.dedupe)
    except Gone:
        raise _no_file(asked.input_file_id) from None
    return Reply(_json(asked, made))


def _no_file(file_id: str) -> Problem:
    return Problem(NOT_FOUND, f"No such file: '{file_id[:60]}'.", param="input_file_id")


def _json(asked: ToEstimate, made: Estimate) -> dict[str, Json]:
    shares = sorted(made.shares.values(), key=lambda share: -share.lines)
    priced = [share.most_nano for share in shares if share.most_nano is not None]
    times = [share.seconds for share in shares if share.seconds is not None]
    errors: list[Json] = [error.json() for error in made.errors]
    return {
        "object": "batch.estimate",
        "input_file_id": asked.input_file_id,
        "endpoint": asked.endpoint,
        "lines": made.lines,
        "read": made.read,
        "faulty": made.faulty,
        "twins": made.twins,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_tokens": sum(share.usage.input_tokens or 0 for share in shares),
        "output_tokens": sum(share.usage.output_tokens or 0 for share in shares),
        "cost": cost_json(sum(priced) if priced else None, complete=len(priced) == len(shares)),
        "seconds": max(times) if len(times) == len(shares) and times else None,
        "models": [_share(share) for share in shares],
    }


def _share(share: Share) -> dict[str, Json]:
    return {
        "model": share.model,
        "target": share.target.name,
        "lines": share.lines,
        "input_tokens": share.usage.input_tokens or 0,
        "output_tokens": share.usage.output_tokens or 0,
        "cost": cost_json(share.most_nano, complete=share.most_nano is not None),
        "seconds": share.seconds,
    }
