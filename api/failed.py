"""A job that did not complete, told to a caller who waited for its answer."""

from __future__ import annotations

from api.problems import FAILED, JOB_CANCELLED, JOB_TIMEOUT, Problem, Sort
from worker.domain.failure import FailureKind
from worker.domain.job import JobView
from worker.domain.state import JobStatus

# Retries are ours and are over: the official client would make the same job again, and pay again.
NO_RETRY = {"x-should-retry": "false"}


def problem_of(job: JobView) -> Problem:
    """For a final job without a result."""
    sort: Sort = {JobStatus.CANCELLED: JOB_CANCELLED, JobStatus.EXPIRED: JOB_TIMEOUT}.get(job.status, JOB_TIMEOUT)
    message = sort.title
    if job.error is not None:
        message = job.error["message"] or message
        if job.status is JobStatus.FAILED:
            sort = FAILED[FailureKind(job.error["kind"])]
    return Problem(sort, message, headers=NO_RETRY | {"x-completar-job": job.id}, members={"job": job.id})
