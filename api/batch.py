"""A batch as JSON, in OpenAI's words: every key is always there."""

from __future__ import annotations

from typing import Literal

from api.fields import Out
from api.job import CostBody
from api.openai_fields import Unix, unix
from worker.domain.answer import Json
from worker.domain.batch import BatchStatus, BatchView
from worker.domain.money import NANO, Usage, cost_json


class BatchError(Out):
    """`line` counts from 1; null: it is of the whole file."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(Out):
    object: Literal["list"]
    data: list[BatchError]


class BatchCounts(Out):
    """Lines that were never run (expired, cancelled) are in neither of the last two."""

    total: int
    completed: int
    failed: int


class Cached(Out):
    cached_tokens: int


class Reasoning(Out):
    reasoning_tokens: int


class BatchUsage(Out):
    input_tokens: int
    input_tokens_details: Cached
    output_tokens: int
    output_tokens_details: Reasoning
    total_tokens: int


class Caching(Out):
    max_age: str


class BatchMore(Out):
    """What only Completar has. `cost` is of the lines that have ended; `stopped_for` says why a batch was cancelled
    that nobody cancelled; `retry_of` is the batch whose unanswered lines these are. `twins` and `cached` are the lines
    so far that made no call: they ask what an earlier line asks, or what was answered before.
    """

    cost: CostBody
    max_cost: float | None
    priority: int
    paused_at: Unix | None
    stopped_for: Literal["max_cost"] | None
    retry_of: str | None
    dedupe: bool
    cache: Caching | None
    twins: int
    cached: int


class BatchBody(Out):
    """`model` where all lines name the same; `usage` once the batch is final."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: Unix
    in_progress_at: Unix | None
    expires_at: Unix
    finalizing_at: Unix | None
    completed_at: Unix | None
    failed_at: Unix | None
    expired_at: Unix | None
    cancelling_at: Unix | None
    cancelled_at: Unix | None
    request_counts: BatchCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None
    completar: BatchMore


class BatchList(Out):
    """Newest first. The next page is asked for with `after=` the id in `last_id`."""

    object: Literal["list"]
    data: list[BatchBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_json(batch: BatchView) -> dict[str, Json]:
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None if batch.errors is None else {"object": "list", "data": list(batch.errors)},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": unix(batch.created_at),
        "in_progress_at": unix(batch.in_progress_at),
        "expires_at": unix(batch.expires_at),
        "finalizing_at": unix(batch.finalizing_at),
        "completed_at": unix(batch.completed_at),
        "failed_at": unix(batch.failed_at),
        "expired_at": unix(batch.expired_at),
        "cancelling_at": unix(batch.cancelling_at),
        "cancelled_at": unix(batch.cancelled_at),
        "request_counts": {
            "total": batch.counts.total,
            "completed": batch.counts.completed,
            "failed": batch.counts.failed,
        },
        "usage": _usage(batch.usage),
        "metadata": batch.metadata,
        "completar": {
            "cost": cost_json(batch.counts.cost_nano, complete=batch.counts.unpriced == 0),
            "max_cost": None if batch.max_cost_nano is None else batch.max_cost_nano / NANO,
            "priority": batch.priority,
            "paused_at": unix(batch.paused_at),
            "stopped_for": batch.stopped_for,
            "retry_of": batch.retry_of,
            "dedupe": batch.dedupe,
            "cache": None if batch.cache_age is None else {"max_age": batch.cache_age},
            "twins": batch.twins,
            "cached": batch.cached,
        },
    }


def _usage(usage: Usage) -> Json:
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": given + made,
    }
