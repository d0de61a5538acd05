"""The Celery tasks: hand over to the engine's loop, no logic. Names and arguments never change."""

from __future__ import annotations

from worker.celery_app import DRAIN, RUN_JOBS, app, process
from worker.domain.failure import Lane


@app.task(name=RUN_JOBS)
def run_jobs(ids: list[str]) -> None:
    """These interactive jobs are due."""
    if process.worker is not None:
        process.worker.engine.hint(ids)


@app.task(name=DRAIN)
def drain(lane: str) -> None:
    """This lane has due rows."""
    if process.worker is not None and lane in set(Lane):
        process.worker.engine.wake(Lane(lane))
