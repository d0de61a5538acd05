"""Jobs as people read them. Every query is scoped to a project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from worker.domain.failure import Lane
from worker.domain.job import JobView, Served
from worker.domain.money import Usage
from worker.domain.state import JobStatus
from worker.store.tables import job, job_input, job_result

_HEAVY = (job_result.c.body, job_result.c.error)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing shows; `after` is the id of the last job of the page before. Newest first."""

    status: JobStatus | None = None
    kind: str | None = None
    batch_id: str | None = None
    created_after: datetime | None = None
    after: str | None = None
    limit: int = 20


def get(conn: sa.Connection, project_id: str, job_id: str) -> JobView | None:
    row = conn.execute(_one(), {"id": job_id, "project": project_id}).first()
    return _view(row) if row is not None else None


def many(conn: sa.Connection, project_id: str, ids: Sequence[str]) -> dict[str, JobView]:
    rows = conn.execute(_select().where(job.c.id.in_(ids), job.c.project_id == project_id))
    return {row.id: _view(row) for row in rows}


def listed(conn: sa.Connection, project_id: str, wanted: Filter) -> tuple[list[JobView], bool]:
    """One page and whether there is another."""
    where: list[sa.ColumnElement[bool]] = [job.c.project_id == project_id, job.c.purged_at.is_(None)]
    if wanted.status is not None:
        where.append(job.c.status == wanted.status.value)
    if wanted.kind is not None:
        where.append(job.c.kind == wanted.kind)
    if wanted.batch_id is not None:
        where.append(job.c.batch_id == wanted.batch_id)
    if wanted.created_after is not None:
        where.append(job.c.created_at > wanted.created_after)
    if wanted.after is not None:
        where.append(job.c.id < wanted.after)
    rows = conn.execute(_select().where(*where).order_by(job.c.id.desc()).limit(wanted.limit + 1)).all()
    return [_view(row) for row in rows[: wanted.limit]], len(rows) > wanted.limit


def versions(conn: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[int, JobStatus]]:
    """Version and status by id: what waiters look at, many jobs in one statement."""
    rows = conn.execute(sa.select(job.c.id, job.c.version, job.c.status).where(job.c.id.in_(ids)))
    return {row.id: (row.version, JobStatus(row.status)) for row in rows}


def costs(conn: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[int | None, bool]]:
    """Nano-dollars by id, and whether that is all of it."""
    rows = conn.execute(sa.select(job.c.id, job.c.cost_nano, job.c.cost_complete).where(job.c.id.in_(ids)))
    return {row.id: (row.cost_nano, row.cost_complete) for row in rows}


def request_of(conn: sa.Connection, project_id: str, job_id: str) -> dict[str, Any] | None:
    """The stored request `{"input", "output_schema"}`, for a retry as a new job."""
    body = conn.execute(
        sa.select(job_input.c.body)
        .join(job, job.c.id == job_input.c.job_id)
        .where(job.c.id == job_id, job.c.project_id == project_id)
    ).scalar_one_or_none()
    return json.loads(body) if body is not None else None


def _one() -> sa.Select[Any]:
    return _select().where(job.c.id == sa.bindparam("id"), job.c.project_id == sa.bindparam("project"))


def _select() -> sa.Select[Any]:
    return sa.select(job, job_input.c.metadata.label("meta"), *(_HEAVY)).select_from(
        job.outerjoin(job_input, job_input.c.job_id == job.c.id).outerjoin(job_result, job_result.c.job_id == job.c.id)
    )


def _view(row: Any) -> JobView:
    served = (
        Served(row.served_provider, row.served_label, row.served_model) if row.served_provider is not None else None
    )
    return JobView(
        id=row.id,
        project_id=row.project_id,
        kind=row.kind,
        lane=Lane(row.lane),
        status=JobStatus(row.status),
        version=row.version,
        models=tuple(json.loads(row.models)),
        created_at=row.created_at,
        queued_at=row.queued_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        run_at=row.run_at,
        deadline_at=row.deadline_at,
        attempts=row.attempts,
        result=json.loads(row.body) if row.body is not None else None,
        error=json.loads(row.error) if row.error is not None else None,
        usage=Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens),
        cost_nano=row.cost_nano,
        cost_complete=row.cost_complete,
        served=served,
        metadata=json.loads(row.meta) if row.meta is not None else {},
        batch_id=row.batch_id,
        retry_of=row.retry_of,
        priority=row.priority,
        on_interruption=row.on_interruption,
        max_cost_nano=row.max_cost_nano,
        purged=row.purged_at is not None,
    )
