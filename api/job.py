"""A job, its attempts and its list as JSON: models for the document, and plain builders, which cost less, for answers.

A test holds the two together. What lines of a batch are told with too is the worker's.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal
from zlib import crc32

from pydantic import Field

from api.fields import JOB_ID, Out
from worker import clock
from worker.domain.answer import JobKind, Json
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import JobView
from worker.domain.money import cost_json, usage_json
from worker.domain.state import FINAL, AttemptState, JobStatus
from worker.services.native.answers import instant
from worker.store.attempts import Attempt

_LONGEST_S: Final = 60  # a poller looks again within a minute whatever the job waits for

Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]


class UsageBody(Out):
    """Tokens over all attempts; null is unknown, not 0."""

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None


class CostBody(Out):
    """`amount` null: unknown. `complete` false: a part of it is unknown, and was perhaps billed."""

    amount: float | None
    currency: Literal["USD"]
    complete: bool


class ServedBody(Out):
    """`label` is the provider's name for people; `model` as the provider names what served."""

    provider: str
    label: str
    model: str


class ErrorBody(Out):
    kind: FailureKind
    code: str | None
    message: str | None
    provider: str | None
    retryable: bool


class WaitingBody(Out):
    """The pause that stands in the way of every target; `until` is its next probe, null: it ends by command alone."""

    of: str
    kind: str
    reason: str
    since: Instant
    until: Instant | None


class UrlsBody(Out):
    self: str
    attempts: str
    events: str
    cancel: str


class JobBody(Out):
    """`model` is the first of `models`, as asked for; `attempts` counts calls. A failed job has an `error`, one that is
    queued because of a pause of its providers `waiting_for`.
    """

    id: Annotated[str, Field(pattern=JOB_ID)]
    object: Literal["job"]
    kind: JobKind
    status: JobStatus
    version: int
    model: str
    models: list[str]
    lane: Lane
    priority: int
    on_interruption: Literal["retry", "fail"]
    max_cost: float | None
    created_at: Instant
    queued_at: Instant
    started_at: Instant | None
    ended_at: Instant | None
    run_at: Instant
    waiting_for: WaitingBody | None
    deadline: Instant | None
    attempts: Count
    result: dict[str, Any] | None
    error: ErrorBody | None
    usage: UsageBody
    cost: CostBody
    served_by: ServedBody | None
    metadata: dict[str, str]
    batch_id: str | None
    retry_of: str | None
    urls: UrlsBody


class JobListBody(Out):
    """Newest first. The next page is asked for with `after=` the id in `last_id`."""

    object: Literal["list"]
    data: list[JobBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class MadeListBody(Out):
    """In the order of the requests."""

    object: Literal["list"]
    data: list[JobBody]


class AttemptBody(Out):
    """One call of one target, or one target passed over. `kind` is null for a good answer."""

    number: int
    target: str
    provider: str
    model: str
    returned_model: str | None
    key_name: str | None
    member: str | None
    state: AttemptState
    kind: FailureKind | None
    http_status: int | None
    sent_at: Instant | None
    ended_at: Instant | None
    first_byte_s: float | None
    total_s: float | None
    retry_after_s: float | None
    reason: str | None
    usage: UsageBody
    cost: CostBody
    provider_request_id: str | None


class AttemptListBody(Out):
    object: Literal["list"]
    data: list[AttemptBody]


def attempt_json(attempt: Attempt) -> dict[str, Json]:
    row = attempt.row
    return {
        "number": row.number,
        "target": row.target,
        "provider": row.provider,
        "model": row.model,
        "returned_model": row.returned_model,
        "key_name": row.key_name,
        "member": row.member,
        "state": row.state.value,
        "kind": None if row.kind is None else row.kind.value,
        "http_status": row.http_status,
        "sent_at": instant(attempt.sent_at),
        "ended_at": instant(attempt.ended_at),
        "first_byte_s": row.first_byte_s,
        "total_s": row.total_s,
        "retry_after_s": row.retry_after_s,
        "reason": row.reason,
        "usage": usage_json(row.usage),
        "cost": cost_json(row.cost_nano, complete=row.cost_nano is not None or row.state is AttemptState.SKIPPED),
        "provider_request_id": row.provider_request_id,
    }


def etag(job: JobView) -> str:
    """Strong: the same version is the same bytes, and of a job that waits for a pause the same state of that."""
    if job.waiting_for is None:
        return f'"{job.id}.{job.version}"'
    return f'"{job.id}.{job.version}.{crc32(repr(job.waiting_for).encode()):08x}"'


def retry_after(job: JobView) -> dict[str, str]:
    """When to look again, while the job is not final. `run_at` is by the database's clock, so this is a hint."""
    if job.status in FINAL:
        return {}
    wait_s = (job.run_at - clock.now()).total_seconds() if job.status is JobStatus.QUEUED else 0.0
    return {"Retry-After": str(min(_LONGEST_S, max(1, math.ceil(wait_s))))}
