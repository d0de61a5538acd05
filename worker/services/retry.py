"""Run a failed job again, as a new job that names the old one."""

from __future__ import annotations

from worker.deps import Deps
from worker.domain.job import JobView
from worker.domain.ramp import URGENT
from worker.domain.state import JobStatus
from worker.services.idempotency import IdempotencyKey
from worker.services.submit import JobRequest, Submitted, submit
from worker.store import views

RETRIED = frozenset({JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELLED})


class NotRetriable(ValueError):
    """The job has not failed."""


def retry(
    deps: Deps,
    project_id: str,
    job: JobView,
    idempotent: IdempotencyKey | None = None,
    *,
    key_id: str | None = None,
) -> Submitted:
    """`key_id`: the API key of who asks, and pays.

    Raises NotRetriable for a job that is open, completed, or whose request is no longer kept.
    """
    if job.status not in RETRIED:
        raise NotRetriable(f"job {job.id} is {job.status}; only failed, expired and cancelled jobs can be retried")
    with deps.database.read() as conn:
        stored = views.request_of(conn, project_id, job.id)
    if stored is None:
        raise NotRetriable(f"the request of job {job.id} is no longer kept, or a newer release stored it")
    again = JobRequest(
        kind=job.kind,
        models=tuple(job.models),
        input=stored["input"],
        lane=job.lane,
        output_schema=stored["output_schema"],
        metadata=job.metadata,
        priority=min(job.priority, URGENT - 1),
        deadline_s=None if job.deadline_at is None else (job.deadline_at - job.created_at).total_seconds(),
        max_attempts=job.max_attempts,
        on_interruption=job.on_interruption,
        retry_of=job.id,
        max_cost_nano=job.max_cost_nano,
    )
    return submit(deps, project_id, [again], idempotent, key_id=key_id)
