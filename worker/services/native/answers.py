"""Jobs as JSON, in Completar's own words, whether somebody asked for one or it is a line of a batch."""

from __future__ import annotations

from datetime import datetime

from worker.domain.answer import Json
from worker.domain.job import JobView, Waiting
from worker.domain.money import NANO, cost_json, usage_json


def job_json(job: JobView) -> dict[str, Json]:
    base = url_of(job.id)
    served = job.served
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "status": job.status.value,
        "version": job.version,
        "model": job.models[0],
        "models": list(job.models),
        "lane": job.lane.value,
        "priority": job.priority,
        "on_interruption": job.on_interruption,
        "max_cost": None if job.max_cost_nano is None else job.max_cost_nano / NANO,
        "created_at": instant(job.created_at),
        "queued_at": instant(job.queued_at),
        "started_at": instant(job.started_at),
        "ended_at": instant(job.ended_at),
        "run_at": instant(job.run_at),
        "waiting_for": _waiting_json(job.waiting_for),
        "deadline": instant(job.deadline_at),
        "attempts": job.attempts,
        "result": job.result,
        "error": job.error,
        "usage": usage_json(job.usage),
        "cost": cost_json(job.cost_nano, complete=job.cost_complete),
        "served_by": None
        if served is None
        else {"provider": served.provider, "label": served.label, "model": served.model},
        "metadata": dict(job.metadata),
        "batch_id": job.batch_id,
        "retry_of": job.retry_of,
        "urls": {
            "self": base,
            "attempts": f"{base}/attempts",
            "events": f"{base}/events",
            "cancel": f"{base}/cancel",
        },
    }


def _waiting_json(waiting: Waiting | None) -> dict[str, Json] | None:
    if waiting is None:
        return None
    return {
        "of": waiting.of,
        "kind": waiting.kind,
        "reason": waiting.reason,
        "since": instant(waiting.since_at),
        "until": instant(waiting.until_at),
    }


def instant(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds."""
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def url_of(job_id: str) -> str:
    return f"/v1/jobs/{job_id}"
