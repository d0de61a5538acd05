"""The work that is measured: the same small request again and again, stored as the API would store it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from worker import clock
from worker.domain.answer import JobKind
from worker.domain.failure import Lane
from worker.domain.job import NewJob
from worker.domain.state import JobStatus
from worker.store import attempts, new_jobs, projects
from worker.store.database import Database
from worker.store.tables import job

MODEL: Final = "mock-1"
PAGE: Final = 1_000  # rows in one transaction
_PROMPT: Final = "Summarise in one sentence what the customer asks for, and name the product if there is one. "

CONFIG: Final = """\
[providers.mock]
format = "openai"
base_url = "{base_url}"
api_keys = []
label = "Mock"
default_model = "{model}"

[routes.default]
targets = ["mock"]
"""


def configured(folder: Path, base_url: str) -> Path:
    """A completar.toml that knows the mock and nothing else."""
    path = folder / "completar.toml"
    path.write_text(CONFIG.format(base_url=base_url, model=MODEL), encoding="utf-8")
    return path


def request(number: int) -> dict[str, Any]:
    """The body of a job: about 350 bytes, no two alike."""
    ask = f"Ticket {number}: the lamp I bought in March flickers when the washing machine runs, is that covered?"
    return {
        "messages": [{"role": "system", "content": _PROMPT}, {"role": "user", "content": ask}],
        "temperature": 0.2,
    }


def openai_request(number: int) -> dict[str, Any]:
    """The same as whoever calls the provider himself sends it."""
    return {"model": MODEL, **request(number)}


def fill(
    database: Database,
    lane: Lane,
    count: int,
    *,
    kind: JobKind = "completion",
    models: tuple[str, ...] = ("default",),
    body: Callable[[int], dict[str, Any]] = request,
) -> list[str]:
    """Store `count` jobs, queued and due; their ids."""
    with database.write() as conn:
        project = projects.ensure(conn)
    made = [
        NewJob(
            id=clock.new_id("job"),
            project_id=project,
            kind=kind,
            lane=lane,
            models=models,
            input=body(number),
            deadline_s=3600.0,
        )
        for number in range(count)
    ]
    for start in range(0, count, PAGE):
        with database.write() as conn:
            new_jobs.insert(conn, made[start : start + PAGE])
    return [one.id for one in made]


def publish(redis_url: str, ids: Sequence[str]) -> None:
    """One message for each interactive job, by the code that the API uses."""
    from worker.celery_app import CeleryHints, make_celery  # reads the environment when it is imported

    with closing(make_celery(redis_url)) as app:
        hints = CeleryHints(app)
        for one in ids:
            hints.jobs([one])


def by_status(database: Database) -> dict[str, int]:
    """Jobs in the database by their status; states without a job are absent."""
    with database.read() as conn:
        rows = conn.execute(sa.select(job.c.status, sa.func.count()).group_by(job.c.status)).all()
    return {status: count for status, count in rows}  # noqa: C416 - rows are not tuples to the type checker


def unfinished(database: Database) -> int:
    """Jobs that have not come to an end."""
    found = by_status(database)
    return sum(found.get(status.value, 0) for status in (JobStatus.QUEUED, JobStatus.IN_PROGRESS, JobStatus.CANCELLING))


def answered_by(database: Database, ids: Sequence[str]) -> dict[str, list[str]]:
    """By job the provider's ids of all its calls in order; of a panel, of those that answered."""
    with database.read() as conn:
        history = attempts.of_jobs(conn, ids)
    return {
        one: [
            past.row.provider_request_id or ""
            for past in history.get(one, ())
            if past.row.member is None or past.row.answer
        ]
        for one in ids
    }
