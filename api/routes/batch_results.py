"""The results of a batch while it runs."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from api.desk import Desk
from api.fields import DIGITS, Out, fault
from api.job import CostBody, UsageBody
from api.operations import Answer, Call, Operations, Reply
from api.problems import GONE, NOT_FOUND, Problem
from api.routes.batches import find
from worker import clock
from worker.domain.answer import Json
from worker.domain.batch import BatchStatus
from worker.domain.batch_cursor import PATTERN, Cursor
from worker.domain.money import NO_USAGE, cost_json, usage_json
from worker.domain.state import JobStatus
from worker.services.batches import results
from worker.services.batches.results import Forgotten, Page, Result

LOOK_S: Final = 0.2
MOST: Final = 1_000

batch_results: Final = Operations("Batches", "openai")


def _cursor(value: str) -> str:
    try:
        Cursor.parse(value)
    except ValueError:
        raise fault("is no cursor", "Send the `next` of the page before, or leave it out.") from None
    return value


class ResultsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: (
        Annotated[
            str,
            AfterValidator(_cursor),
            Field(max_length=300, description="`next` of the page before."),
            WithJsonSchema({"type": "string", "pattern": PATTERN, "maxLength": 300, "examples": ["start"]}),
        ]
        | None
    ) = None
    limit: Annotated[int, Field(ge=1, le=MOST), DIGITS] = 100
    wait: Annotated[
        int,
        Field(ge=0, le=60, description="Seconds to wait for a result where there is none yet."),
        DIGITS,
    ] = 0


class ResultLedger(Out):
    """What the line came to. `job` null: it never became one. `twin_of` is the `custom_id` of the line that was asked
    in its stead, `cached_from` the job whose stored answer it has.
    """

    line: int
    job: str | None
    status: JobStatus
    provider: str | None
    model: str | None
    attempts: int
    usage: UsageBody
    cost: CostBody
    twin_of: str | None
    cached_from: str | None


class ResultBody(BaseModel):
    """As in the files of results, and what it cost."""

    id: str
    custom_id: str
    response: dict[str, Any] | None
    error: dict[str, Any] | None
    completar: ResultLedger


class ResultList(Out):
    """In the order in which lines ended. Go on with `after=` the `next`, as long as `over` is false."""

    object: Literal["list"]
    data: list[ResultBody]
    next: str
    over: bool
    status: BatchStatus


@batch_results.add(
    "GET",
    "/v1/batches/<batch:batch_id>/results",
    "batches.results",
    "Read results while a batch runs",
    scope="jobs:read",
    query=ResultsQuery,
    answers={200: Answer("Lines that have ended since, each once; there may be none yet.", ResultList)},
    problems=(NOT_FOUND, GONE),
)
def list_results(desk: Desk, call: Call) -> Reply:
    """Whoever goes on from `next` gets every line once, however workers come and go. The order is that of ending."""
    batch = find(desk, call)
    query: ResultsQuery = call.query
    cursor = Cursor() if query.after is None else Cursor.parse(query.after)
    with desk.waiting.seat(call.project_id, wanted=query.wait > 0) as seated:
        until_s = clock.monotonic_s() + (query.wait if seated else 0)
        while True:
            try:
                page = results.page(desk.deps, call.project_id, batch.id, cursor, query.limit)
            except Forgotten:
                detail = f"What the lines of batch {batch.id} came to is no longer kept. Its files may be."
                raise Problem(GONE, detail) from None
            assert page is not None, "rows are never deleted"
            left_s = until_s - clock.monotonic_s()
            if page.results or page.over or left_s <= 0:
                return Reply(_page(page))
            time.sleep(min(LOOK_S, left_s))


def _page(page: Page) -> dict[str, Json]:
    unrun = JobStatus.EXPIRED if page.batch.expired_at is not None else JobStatus.CANCELLED
    return {
        "object": "list",
        "data": [_result(one, unrun) for one in page.results],
        "next": str(page.cursor),
        "over": page.over,
        "status": page.batch.status.value,
    }


def _result(one: Result, unrun: JobStatus) -> dict[str, Json]:
    job = one.job
    served = None if job is None else job.served
    made: dict[str, Json] = json.loads(one.text)
    shared = made.get("completar", {})
    made["completar"] = {
        "line": one.line,
        "job": None if job is None else job.id,
        "status": unrun.value if job is None else job.status.value,
        "provider": None if served is None else served.provider,
        "model": None if served is None else served.model,
        "attempts": 0 if job is None else job.attempts,
        "usage": usage_json(NO_USAGE if job is None else job.usage),
        "cost": cost_json(0, complete=True) if job is None else cost_json(job.cost_nano, complete=job.cost_complete),
        "twin_of": shared.get("twin_of"),
        "cached_from": shared.get("cached_from"),
    }
    return made
