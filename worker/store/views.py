"""Jobs as people read them. Every query is scoped to a project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import accumulate
from typing import Any, Final

import sqlalchemy as sa

from worker.clock import least_id
from worker.domain.failure import DEAD_LETTERS, Lane
from worker.domain.job import FORMAT, JobView, Served, Waiting, models_in
from worker.domain.money import Usage
from worker.domain.pause import ID_LENGTH, Scope
from worker.domain.state import JobStatus
from worker.store.columns import written_out
from worker.store.rows import Rows
from worker.store.tables import job, job_input, job_result, pause
from worker.store.text import loads

SKEW_S: Final = 86400.0
_UNANSWERED = tuple(status.value for status in (JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELLED))
PAGE_BYTES: Final = 8 * 1024 * 1024  # of answers in a page of jobs; one may be larger alone
_IDS = Rows(id=sa.Text)
_PAUSE = [column.label(f"pause_{column.name}") for column in pause.c]


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing shows; `after` is the id of the last job of the page before. Newest first."""

    status: JobStatus | None = None
    kind: str | None = None
    batch_id: str | None = None
    created_after: datetime | None = None
    after: str | None = None
    limit: int = 20
    dead_letter: bool = False  # True: only these
    replayed: bool | None = None  # of dead letters: those that were run again, or were not


def get(conn: sa.Connection, project_id: str, job_id: str) -> JobView | None:
    row = conn.execute(_one(), {"id": job_id, "project": project_id}).first()
    return view(row) if row is not None else None


def many(conn: sa.Connection, project_id: str, ids: Sequence[str], longest: int | None = None) -> dict[str, JobView]:
    """By id. An answer of more than `longest` bytes is not read: the job has none."""
    body: Any = job_result.c.body
    if longest is not None:
        body = sa.case((body_bytes(conn.dialect.name) <= longest, body)).label("body")
    rows = conn.execute(_select(body).where(job.c.id.in_(ids), job.c.project_id == project_id))
    return {row.id: view(row) for row in rows}


def listed(conn: sa.Connection, project_id: str, wanted: Filter) -> tuple[list[JobView], bool]:
    """One page, as large as memory takes and one job at least, and whether there is another."""
    where: list[sa.ColumnElement[bool]] = [job.c.project_id == project_id, job.c.purged_at.is_(None)]
    if wanted.status is not None:
        where += written_out(job.c.status, wanted.status.value, _UNANSWERED)
    if wanted.kind is not None:
        where.append(job.c.kind == wanted.kind)
    if wanted.batch_id is not None:
        where.append(job.c.batch_id == wanted.batch_id)
    if wanted.created_after is not None:
        where += [job.c.created_at > wanted.created_after, job.c.id >= since("job", wanted.created_after)]
    if wanted.after is not None:
        where.append(job.c.id < wanted.after)
    if wanted.dead_letter:
        where.append(job.c.error_kind.in_(sa.literal_column(f"'{kind}'") for kind in sorted(DEAD_LETTERS)))
    if wanted.replayed is not None:
        again = job.alias("again")
        found = sa.exists().where(again.c.retry_of == job.c.id, again.c.project_id == project_id)
        where.append(found if wanted.replayed else ~found)
    first = sa.select(job.c.id).where(*where).order_by(job.c.id.desc()).limit(wanted.limit + 1).subquery()
    # Looked up one by one: beside a whole project the planner held it for cheaper to read all answers.
    size = sa.select(body_bytes(conn.dialect.name)).where(job_result.c.job_id == first.c.id).scalar_subquery()
    sizes = conn.execute(sa.select(first.c.id, size.label("size")).order_by(first.c.id.desc())).all()
    upto = accumulate(row.size or 0 for row in sizes)
    fitting = [row.id for n, (row, total) in enumerate(zip(sizes, upto, strict=True)) if total <= PAGE_BYTES or not n]
    ids = fitting[: wanted.limit]
    page = many(conn, project_id, ids)
    return [page[job_id] for job_id in ids if job_id in page], len(sizes) > len(ids)


def since(prefix: str, moment: datetime) -> str:
    """The id at which a listing, newest first, may stop. Ids have the clock of the process that made them: a day off
    does no harm.
    """
    return least_id(prefix, moment.timestamp() - SKEW_S)


def versions(conn: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[int, JobStatus]]:
    """Version and status by id: what waiters look at every few milliseconds, many jobs in one statement."""
    dialect = conn.dialect.name
    rows = conn.execute(_versions(dialect), _IDS.params(dialect, [(i,) for i in ids]))
    return {row.id: (row.version, JobStatus(row.status)) for row in rows}


@cache
def _versions(dialect: str) -> sa.Select[Any]:
    return sa.select(job.c.id, job.c.version, job.c.status).where(job.c.id == _IDS.table(dialect).c.id)


def replays(conn: sa.Connection, project_id: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """The jobs that ran these again, oldest first."""
    found: dict[str, list[str]] = {job_id: [] for job_id in ids}
    statement = sa.select(job.c.id, job.c.retry_of).where(job.c.retry_of.in_(ids), job.c.project_id == project_id)
    for row in conn.execute(statement.order_by(job.c.id)):
        found[row.retry_of].append(row.id)
    return found


def costs(conn: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[int | None, bool]]:
    """Nano-dollars by id, and whether that is all of it."""
    rows = conn.execute(sa.select(job.c.id, job.c.cost_nano, job.c.cost_complete).where(job.c.id.in_(ids)))
    return {row.id: (row.cost_nano, row.cost_complete) for row in rows}


def request_of(conn: sa.Connection, project_id: str, job_id: str) -> dict[str, Any] | None:
    """The stored request `{"input", "output_schema"}`, for a retry as a new job; None also for what a newer release
    stored in a format of its own.
    """
    body = conn.execute(
        sa.select(job_input.c.body)
        .join(job, job.c.id == job_input.c.job_id)
        .where(job.c.id == job_id, job.c.project_id == project_id, job.c.format <= FORMAT)
    ).scalar_one_or_none()
    return loads(body) if body is not None else None


@cache
def _one() -> sa.Select[Any]:
    return _select().where(job.c.id == sa.bindparam("id"), job.c.project_id == sa.bindparam("project"))


def _select(body: Any = job_result.c.body) -> sa.Select[Any]:
    # Of several pauses the one that is probed first stands in front.
    waits = sa.and_(
        job.c.status == JobStatus.QUEUED.value, pause.c.id == sa.func.substr(job.c.parked_for, 1, ID_LENGTH)
    )
    return sa.select(job, job_input.c.metadata.label("meta"), body, job_result.c.error, *_PAUSE).select_from(
        job.outerjoin(job_input, job_input.c.job_id == job.c.id)
        .outerjoin(job_result, job_result.c.job_id == job.c.id)
        .outerjoin(pause, waits)
    )


def body_bytes(dialect: str) -> sa.ColumnElement[int]:
    """Of a text that is kept apart Postgres knows its bytes without reading it, but not its letters."""
    length = sa.func.length if dialect == "sqlite" else sa.func.octet_length
    return length(job_result.c.body)


def view(row: Any) -> JobView:
    """Of a row with the columns of a job, `meta`, `body`, `error`, and those of the pause that it waits for."""
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
        models=models_in(row.models),
        created_at=row.created_at,
        queued_at=row.queued_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        run_at=_run_at(row),
        deadline_at=row.deadline_at,
        attempts=row.attempts,
        result=loads(row.body) if row.body is not None else None,
        error=loads(row.error) if row.error is not None else None,
        usage=Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens),
        cost_nano=row.cost_nano,
        cost_complete=row.cost_complete,
        served=served,
        metadata=loads(row.meta) if row.meta is not None and row.meta != "{}" else {},
        batch_id=row.batch_id,
        retry_of=row.retry_of,
        priority=row.priority,
        on_interruption=row.on_interruption,
        max_attempts=row.max_attempts,
        max_cost_nano=row.max_cost_nano,
        purged=row.purged_at is not None,
        waiting_for=_waiting(row),
    )


def _run_at(row: Any) -> datetime:
    """Of a job that waits for a pause, when that is looked at; its row is moved only when the pause has ended."""
    due: datetime = row.run_at
    if row.pause_id is None:
        return due
    moment = row.pause_closed_at if row.pause_closed_at is not None else row.pause_until_at
    return due if moment is None else min(due, moment)


def _waiting(row: Any) -> Waiting | None:
    if row.pause_id is None or row.pause_closed_at is not None:
        return None
    scope = Scope(row.pause_covers, row.pause_provider, row.pause_name, row.pause_key_name)
    return Waiting(str(scope), row.pause_kind, row.pause_reason, row.pause_since_at, row.pause_until_at)
