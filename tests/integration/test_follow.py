"""Whoever waits for a job hears of its end, whatever befell the thread that looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from worker.domain.failure import Lane
from worker.domain.job import NewJob
from worker.domain.state import JobStatus
from worker.services import follow
from worker.services.follow import Follower
from worker.store import jobs, new_jobs, views
from worker.store.database import Database


def ended_job(database: Database) -> str:
    with database.write() as conn:
        new_jobs.insert(conn, [NewJob("job_1", "proj", "completion", Lane.BATCH, ("m",), {})])
        jobs.cancel(conn, "proj", "job_1")
    return "job_1"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fault", [ValueError, SystemExit])
def test_a_fault_of_the_look_out_is_survived(
    database: Database, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    """SystemExit ends a thread without a word: the next who waits has it begun anew."""
    monkeypatch.setattr(follow, "FAULT_S", 0.01)
    versions, looks = views.versions, 0

    def faulty(conn: Any, ids: Sequence[str]) -> dict[str, tuple[int, JobStatus]]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise fault
        return versions(conn, ids)

    monkeypatch.setattr(views, "versions", faulty)
    follower, job_id = Follower(database, 4), ended_job(database)
    if fault is SystemExit:
        assert not follower.wait(job_id, 1, 0.2)
    assert follower.wait(job_id, 1, 10.0)
