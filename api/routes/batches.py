"""Batches, as OpenAI's clients know them: made and stopped here, run by the workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from api import preference
from api.batch import BatchBody, BatchList, batch_json
from api.desk import Desk
from api.fields import DIGITS, MaxAge, MaxCost, Metadata, Priority, Strict, fault
from api.openai_fields import BATCH_ID, Expiry
from api.operations import Answer, Body, Call, Operations, Reply
from api.page import page_json
from api.problems import CONFLICT, KEY_REUSED, NO_SECRET_KEY, NOT_FOUND, Fault, Problem, invalid
from api.webhook_fields import BatchWebhook, refusal
from worker.deps import Deps
from worker.domain.batch import FINAL, BatchStatus, BatchView, window_s
from worker.domain.money import nano_of
from worker.services.batches.create import BatchRequest, NotRetriable, StillRunning, WrongPurpose, create
from worker.services.batches.create import cancel as cancel_batch
from worker.services.batches.endpoints import ENDPOINTS, REFUSED
from worker.services.batches.pause import pause, resume
from worker.services.batches.retry import retry
from worker.store import batch_views

_BATCH_ID: Final = re.compile(BATCH_ID)

batches: Final = Operations("Batches", "openai")


def _window(value: str) -> str:
    if window_s(value) is None:
        raise fault("must be hours or days, seven days at most", "Send 24h, or such as 1h or 7d.")
    return value


def known(value: str) -> str:
    """Raises a fault."""
    if value in REFUSED:
        served = ", ".join(ENDPOINTS)
        raise fault(f"cannot be {value}: {REFUSED[value]}", f"Batches here are of {served}.")
    if value not in ENDPOINTS:
        raise fault(f"must be one of {', '.join(ENDPOINTS)}", "Choose one of these.")
    return value


class Cache(Strict):
    """A line is answered, without a call, with what the same request was answered in this project no longer ago."""

    max_age: MaxAge


class NewBatch(Strict):
    """The file has one request a line: `{"custom_id", "method": "POST", "url", "body"}`, `url` being the endpoint.

    `max_cost`, `priority`, `webhook`, `dedupe` and `cache` are Completar's own: no line is started that could pass the
    first, lines of a higher priority go first, and the third is told of the batch. With `dedupe` lines that ask the
    same make one call and share what comes of it; with `cache` a line is answered with what was answered before.
    """

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    input_file_id: Annotated[str, Field(min_length=1, max_length=100, pattern="^[!-~]+$")]
    endpoint: Annotated[str, AfterValidator(known), WithJsonSchema({"type": "string", "enum": list(ENDPOINTS)})]
    completion_window: Annotated[
        str,
        AfterValidator(_window),
        WithJsonSchema({"type": "string", "pattern": "^([1-9]|[1-9][0-9]|1[0-5][0-9]|16[0-8])h$|^[1-7]d$"}),
    ]
    metadata: Metadata | None = None
    output_expires_after: Expiry | None = None
    max_cost: MaxCost | None = None
    priority: Priority = 0
    webhook: BatchWebhook | None = None
    dedupe: bool = False
    cache: Cache | None = None


@batches.add(
    "POST",
    "/v1/batches",
    "batches.create",
    "Run a file of requests",
    scope="jobs:write",
    body=Body(NewBatch),
    headers=(preference.IDEMPOTENCY_KEY, preference.RETRY_COUNT),
    answers={200: Answer("The batch; its file is yet to be read.", BatchBody, (preference.REPLAYED,))},
    problems=(KEY_REUSED, NO_SECRET_KEY),
)
def create_batch(desk: Desk, call: Call) -> Reply:
    """A faulty file is found when it is read: then the batch is `failed`, and no line has run."""
    asked: NewBatch = call.body
    key = preference.repeatable(call, "batches.create", call.given)
    seconds = window_s(asked.completion_window)
    assert seconds is not None
    webhook = None if asked.webhook is None else asked.webhook.value
    if webhook is not None and (refused := desk.guard.refused([webhook.url])):
        raise invalid(refusal(refused[webhook.url], "webhook.url"))
    request = BatchRequest(
        endpoint=asked.endpoint,
        input_file_id=asked.input_file_id,
        window=asked.completion_window,
        window_s=seconds,
        metadata=asked.metadata,
        output_expires_s=None if asked.output_expires_after is None else asked.output_expires_after.seconds,
        priority=asked.priority,
        max_cost_nano=None if asked.max_cost is None else nano_of(asked.max_cost),
        webhook=webhook,
        dedupe=asked.dedupe,
        cache_age=None if asked.cache is None else asked.cache.max_age,
    )
    try:
        made = create(desk.deps, call.project_id, request, key, key_id=call.key_id)
    except WrongPurpose as exc:
        remedy = "Upload the file with purpose `batch`."
        raise invalid(Fault("input_file_id", f"names a file that is not for batches: {exc}", remedy)) from None
    return Reply(batch_json(made.batch), 200, preference.replay_header(replayed=made.replayed))


class BatchesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: Annotated[str, Field(pattern=BATCH_ID, description="The last id of the page before.")] | None = None
    limit: Annotated[int, Field(ge=1, le=100), DIGITS] = 20


@batches.add(
    "GET",
    "/v1/batches",
    "batches.list",
    "List batches",
    scope="jobs:read",
    query=BatchesQuery,
    answers={200: Answer("A page of batches.", BatchList)},
)
def list_batches(desk: Desk, call: Call) -> Reply:
    """Newest first."""
    query: BatchesQuery = call.query
    with desk.deps.database.read() as conn:
        page, more = batch_views.listed(conn, call.project_id, after=query.after, limit=query.limit)
    return Reply(page_json((batch_json(batch) for batch in page), more=more))


@batches.add(
    "GET",
    "/v1/batches/<batch:batch_id>",
    "batches.retrieve",
    "Look at a batch",
    scope="jobs:read",
    answers={200: Answer("The batch.", BatchBody)},
    problems=(NOT_FOUND,),
)
def retrieve_batch(desk: Desk, call: Call) -> Reply:
    """The ids of its files are there with the final status, not before."""
    return Reply(batch_json(find(desk, call)))


@batches.add(
    "POST",
    "/v1/batches/<batch:batch_id>/cancel",
    "batches.cancel",
    "Stop a batch",
    scope="jobs:write",
    answers={200: Answer("The batch, stopping or stopped.", BatchBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def stop_batch(desk: Desk, call: Call) -> Reply:
    """No further line is started. What is done is kept; lines that were not run are in the error file."""
    before = find(desk, call)
    if before.status in FINAL and before.cancelled_at is None:
        detail = f"Cannot cancel a batch with status '{before.status.value}'."
        raise Problem(CONFLICT, detail, headers={"x-should-retry": "false"})
    after = cancel_batch(desk.deps, call.project_id, before.id)
    assert after is not None, "rows are never deleted"
    if after.status in FINAL and after.cancelled_at is None:
        detail = f"Cannot cancel a batch with status '{after.status.value}'."
        raise Problem(CONFLICT, detail, headers={"x-should-retry": "false"})
    return Reply(batch_json(after))


class RetryQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_cost: MaxCost | None = None


@batches.add(
    "POST",
    "/v1/batches/<batch:batch_id>/retry",
    "batches.retry",
    "Run what was not answered again",
    scope="jobs:write",
    query=RetryQuery,
    headers=(preference.IDEMPOTENCY_KEY, preference.RETRY_COUNT),
    answers={200: Answer("The new batch; `completar.retry_of` names the old one.", BatchBody, (preference.REPLAYED,))},
    problems=(NOT_FOUND, CONFLICT, KEY_REUSED),
)
def retry_batch(desk: Desk, call: Call) -> Reply:
    """A new batch of the lines that failed, expired or were cancelled, and that no other retry has answered since.

    It has the window, the metadata and the bounds of the old one, its `dedupe` and its `cache`; `max_cost` may be
    another.
    """
    before = find(desk, call)
    key = preference.repeatable(call, "batches.retry", {"id": before.id, "max_cost": call.query.max_cost})
    asked: RetryQuery = call.query
    seconds = window_s(before.window)
    assert seconds is not None
    bound = None if asked.max_cost is None else nano_of(asked.max_cost)
    try:
        made = retry(desk.deps, before, key, window_s=seconds, max_cost_nano=bound, key_id=call.key_id)
    except (NotRetriable, StillRunning) as exc:
        raise Problem(CONFLICT, f"Nothing is retried: {exc}.", headers={"x-should-retry": "false"}) from None
    return Reply(batch_json(made.batch), 200, preference.replay_header(replayed=made.replayed))


@batches.add(
    "POST",
    "/v1/batches/<batch:batch_id>/pause",
    "batches.pause",
    "Pause a batch",
    scope="jobs:write",
    answers={200: Answer("The batch; `completar.paused_at` says since when.", BatchBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def pause_batch(desk: Desk, call: Call) -> Reply:
    """No further line is started, within two seconds for large ones. Its window goes on."""
    return _moved(desk, call, pause, "pause")


@batches.add(
    "POST",
    "/v1/batches/<batch:batch_id>/resume",
    "batches.resume",
    "Go on with a paused batch",
    scope="jobs:write",
    answers={200: Answer("The batch.", BatchBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def resume_batch(desk: Desk, call: Call) -> Reply:
    """One that is not paused stays as it is."""
    return _moved(desk, call, resume, "resume")


def _moved(desk: Desk, call: Call, move: Callable[[Deps, str, str], BatchView | None], verb: str) -> Reply:
    after = move(desk.deps, call.project_id, find(desk, call).id)
    assert after is not None, "rows are never deleted"
    if after.status not in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
        detail = f"Cannot {verb} a batch with status '{after.status.value}'."
        raise Problem(CONFLICT, detail, headers={"x-should-retry": "false"})
    return Reply(batch_json(after))


def find(desk: Desk, call: Call) -> BatchView:
    """The batch of the path. Raises Problem."""
    batch_id = call.path["batch_id"]
    found = None
    if _BATCH_ID.fullmatch(batch_id):
        with desk.deps.database.read() as conn:
            found = batch_views.get(conn, call.project_id, batch_id)
    if found is None:
        raise Problem(NOT_FOUND, f"No batch found with id '{batch_id[:60]}'.", param="batch_id")
    return found
