"""Stop a job: at once when it waits, after its open call when it runs."""

from __future__ import annotations

from worker.deps import Deps
from worker.domain.job import JobView
from worker.store import jobs, views


def cancel(deps: Deps, project_id: str, job_id: str) -> JobView | None:
    """The job after the request, or None where it is unknown. A final job is left as it is."""
    with deps.database.write() as conn:
        status = jobs.cancel(conn, project_id, job_id)
    if status is None:
        return None
    with deps.database.read() as conn:
        return views.get(conn, project_id, job_id)
