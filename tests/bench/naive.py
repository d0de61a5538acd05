"""A peer: the queue one writes first. Celery's prefork pool, an HTTP client per call, a database session per step.

Fair on purpose: claims are guarded, nothing sleeps, nothing is logged per job. Its address comes from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import sqlalchemy as sa
from celery import Celery
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

COMMAND: Final = ("-m", "celery", "-A", "tests.bench.naive", "worker", "--pool", "prefork", "--concurrency", "8")


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "naive_job"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(index=True, default="queued")
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), index=True)
    started_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    request: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)


class Attempt(Base):
    __tablename__ = "naive_attempt"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(sa.ForeignKey("naive_job.id"), index=True)
    http_status: Mapped[int]
    total_s: Mapped[float]


app = Celery("naive", broker=os.environ.get("NAIVE_REDIS_URL"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
engine = sa.create_engine(os.environ.get("NAIVE_DATABASE_URL", "sqlite://"))
open_session = sessionmaker(engine)


@app.task(name="naive.run_job")
def run_job(job_id: int) -> None:
    with open_session() as session:
        job = session.get(Job, job_id, with_for_update=True)
        if job is None or job.status != "queued":
            return
        job.status = "in_progress"
        job.started_at = datetime.now(UTC)
        request = job.request
        session.commit()

    with httpx.Client(timeout=60) as client:
        response = client.post(os.environ["NAIVE_PROVIDER_URL"], json=request)
        answer = response.json()

    with open_session() as session:
        seconds = response.elapsed.total_seconds()
        session.add(Attempt(job_id=job_id, http_status=response.status_code, total_s=seconds))
        session.commit()

    with open_session() as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.status = "completed"
        job.ended_at = datetime.now(UTC)
        job.result = answer
        session.commit()


def fill(database_url: str, redis_url: str, requests: Sequence[dict[str, Any]]) -> None:
    """Make the tables, store a job for each request and queue its message."""
    filling = sa.create_engine(database_url)
    Base.metadata.create_all(filling)
    with Session(filling) as session:
        jobs = [Job(created_at=datetime.now(UTC), request=request) for request in requests]
        session.add_all(jobs)
        session.commit()
        ids = [job.id for job in jobs]
    filling.dispose()
    with Celery("naive", broker=redis_url, set_as_current=False) as sender:
        for job_id in ids:
            sender.send_task("naive.run_job", args=[job_id])


def environment(database_url: str, redis_url: str, provider_url: str) -> dict[str, str]:
    """For its workers; `provider_url` ends in /v1."""
    return {
        "NAIVE_DATABASE_URL": database_url,
        "NAIVE_REDIS_URL": redis_url,
        "NAIVE_PROVIDER_URL": f"{provider_url}/chat/completions",
    }


def unfinished(database_url: str) -> int:
    """Jobs that have not been completed."""
    looking = sa.create_engine(database_url)
    with looking.connect() as conn:
        count = conn.execute(sa.select(sa.func.count()).where(Job.status != "completed")).scalar_one()
    looking.dispose()
    return count
