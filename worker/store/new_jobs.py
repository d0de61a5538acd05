"""New jobs: queued, and due now."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.job import NewJob, format_of
from worker.domain.state import JobStatus
from worker.store.database import Unavailable
from worker.store.moment import db_now, later
from worker.store.rows import Rows
from worker.store.tables import job, job_input
from worker.store.text import dumps

_NEW = Rows(
    id=sa.Text,
    project_id=sa.Text,
    kind=sa.Text,
    lane=sa.Text,
    priority=sa.Integer,
    models=sa.Text,
    deadline_s=sa.Float,
    max_attempts=sa.Integer,
    on_interruption=sa.Text,
    batch_id=sa.Text,
    retry_of=sa.Text,
    max_cost_nano=sa.BigInteger,
    key_id=sa.Text,
    notify=sa.Integer,
    format=sa.Integer,
)
_INPUT = Rows(job_id=sa.Text, body=sa.Text, metadata=sa.Text)
_MANY: Final = 50  # from so many on, Postgres takes the inputs by COPY: quoting them all in an array costs more


def insert(conn: sa.Connection, jobs: Sequence[NewJob]) -> None:
    """Store new jobs, queued and due now."""
    dialect = conn.dialect.name
    params = _NEW.params(
        dialect,
        [
            (
                j.id,
                j.project_id,
                j.kind,
                j.lane.value,
                j.priority,
                dumps(list(j.models)),
                j.deadline_s,
                j.max_attempts,
                j.on_interruption,
                j.batch_id,
                j.retry_of,
                j.max_cost_nano,
                j.key_id,
                j.notify,
                format_of(j.kind),
            )
            for j in jobs
        ],
    )
    conn.execute(_insert(dialect), params)
    insert_inputs(conn, jobs)


def insert_inputs(conn: sa.Connection, jobs: Sequence[NewJob]) -> None:
    """What these jobs ask. `insert` does it; by itself it is for jobs whose rows come with their end."""
    dialect = conn.dialect.name
    inputs = [
        (j.id, dumps({"input": j.input, "output_schema": j.output_schema}), dumps(dict(j.metadata))) for j in jobs
    ]
    if dialect == "postgresql" and len(inputs) >= _MANY:
        _copy(conn, inputs)
    else:
        conn.execute(_insert_inputs(dialect), _INPUT.params(dialect, inputs))


def _copy(conn: sa.Connection, inputs: Sequence[tuple[str, str, str]]) -> None:
    driver: Any = conn.connection.driver_connection
    away = conn.dialect.loaded_dbapi.OperationalError  # here nobody else translates it
    try:
        with driver.cursor() as cursor, cursor.copy("COPY job_input (job_id, body, metadata) FROM STDIN") as into:
            for row in inputs:
                into.write_row(row)
    except away as exc:
        raise Unavailable(f"the database is away ({type(exc).__name__})") from exc


@cache
def _insert_inputs(dialect: str) -> sa.Insert:
    v = _INPUT.table(dialect)
    return job_input.insert().from_select(["job_id", "body", "metadata"], sa.select(v.c.job_id, v.c.body, v.c.metadata))


@cache
def _insert(dialect: str) -> sa.Insert:
    v = _NEW.table(dialect)
    now = db_now()
    into_job = {
        "id": v.c.id,
        "project_id": v.c.project_id,
        "kind": v.c.kind,
        "lane": v.c.lane,
        "status": sa.literal(JobStatus.QUEUED.value),
        "version": sa.literal(1),
        "priority": v.c.priority,
        "models": v.c.models,
        "created_at": now,
        "queued_at": now,
        "run_at": now,
        "deadline_at": later(v.c.deadline_s),
        "attempts": sa.literal(0),
        "rows": sa.literal(0),
        "losses": sa.literal(0),
        "max_attempts": v.c.max_attempts,
        "on_interruption": v.c.on_interruption,
        "cost_complete": sa.true(),
        "batch_id": v.c.batch_id,
        "retry_of": v.c.retry_of,
        "max_cost_nano": v.c.max_cost_nano,
        "key_id": v.c.key_id,
        "notify": v.c.notify,
        "format": v.c.format,
    }
    return job.insert().from_select(list(into_job), sa.select(*into_job.values()))
