"""The body of an event: made once, stored, and sent byte by byte the same on every try. Pure.

It carries both forms of time that readers look for: `created_at` (seconds, as OpenAI has it) and `timestamp` (ISO 8601,
as Standard Webhooks has it). Thin by default: never a prompt, never an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from worker.domain.batch import BatchView
from worker.domain.job import JobView
from worker.domain.money import cost_json, usage_json

FULL_BYTES: Final = 20_000  # beyond this an answer is left out; the specification advises to stay below about 20 kB


def envelope(event_id: str, event_type: str, at: datetime, data: Mapping[str, Any]) -> str:
    """ASCII JSON: a lone surrogate or NUL of a model stays escaped, and the bytes are the same in every encoding."""
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": event_type,
            "created_at": int(at.timestamp()),
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": data,
        },
        ensure_ascii=True,
        allow_nan=False,
        separators=(",", ":"),
    )


def job_data(job: JobView, status: str, version: int) -> dict[str, Any]:
    """`status` and `version` are of the moment that is told, whatever the job has become since."""
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "status": status,
        "version": version,
        "batch_id": job.batch_id,
        "metadata": dict(job.metadata),
        "error": None if job.error is None else {"type": job.error.get("kind"), "code": job.error.get("code")},
        "usage": usage_json(job.usage),
        "cost": cost_json(job.cost_nano, complete=job.cost_complete),
        "served_by": None
        if job.served is None
        else {"provider": job.served.provider, "label": job.served.label, "model": job.served.model},
        "urls": {"get": f"/v1/jobs/{job.id}"},
    }


def batch_data(batch: BatchView, status: str, version: int) -> dict[str, Any]:
    """As `job_data`. The counts are of now: they only grow, and are final with the batch."""
    counts = batch.counts
    return {
        "id": batch.id,
        "object": "batch",
        "status": status,
        "version": version,
        "endpoint": batch.endpoint,
        "metadata": None if batch.metadata is None else dict(batch.metadata),
        "request_counts": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "usage": usage_json(batch.usage),
        "urls": {"get": f"/v1/batches/{batch.id}"},
    }


def with_output(data: Mapping[str, Any], output: Any, room: int) -> dict[str, Any]:
    """The thin data and the answer, where that is JSON of at most `room` bytes; else it says that it was left out."""
    try:
        size = len(json.dumps(output, ensure_ascii=True, allow_nan=False))
    except (TypeError, ValueError):
        size = room + 1
    if size > room:
        return {**data, "output": None, "output_omitted": True}
    return {**data, "output": output, "output_omitted": False}
