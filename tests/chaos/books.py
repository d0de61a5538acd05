"""What SQL says when all is over: jobs, calls, and every move a job ever made.

The moves are written down by a trigger that the campaign puts on its own database: the product does not know of it, and
no move can pass it, whoever makes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import namedtuple_row

WATCH: Final = """
CREATE TABLE chaos_move (
    n bigserial PRIMARY KEY, job_id text, was text, became text, version_was int, version int, worker_id text,
    at timestamptz DEFAULT clock_timestamp()
);
CREATE FUNCTION chaos_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_move (job_id, was, became, version_was, version, worker_id)
    VALUES (NEW.id, OLD.status, NEW.status, OLD.version, NEW.version, coalesce(NEW.worker_id, OLD.worker_id));
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_moved AFTER UPDATE ON job FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.version IS DISTINCT FROM NEW.version)
    EXECUTE FUNCTION chaos_moved();
"""
FINAL: Final = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    prompt: str
    status: str
    version: int
    text: str | None  # of its answer
    error_kind: str | None
    attempts: int
    input: int | None
    output: int | None
    cost_nano: int | None
    cost_complete: bool
    deaths: int = 0  # of workers that had it


@dataclass(frozen=True, slots=True)
class Call:
    """An attempt row; `request_id` is the provider's own name for the call, where it answered."""

    id: str
    job_id: str
    state: str
    kind: str | None
    request_id: str | None
    input: int | None
    output: int | None
    cost_nano: int | None


@dataclass(frozen=True, slots=True)
class Move:
    """One update of a job's state or version; `at` is seconds since 1970 by the database's clock."""

    job_id: str
    was: str
    became: str
    version_was: int
    version: int
    worker_id: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Books:
    jobs: Sequence[Job]
    calls: Sequence[Call]
    moves: Sequence[Move]


def watch(url: str) -> None:
    """Begin to write down every move. Before the first job."""
    with psycopg.connect(plain(url), autocommit=True) as conn:
        conn.execute(WATCH.encode())


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


_JOBS: Final = """
    SELECT j.id, j.status, j.version, j.error_kind, j.deaths, j.attempts, j.input_tokens, j.output_tokens, j.cost_nano,
           j.cost_complete, i.body AS asked, r.body AS answered
    FROM job j JOIN job_input i ON i.job_id = j.id LEFT JOIN job_result r ON r.job_id = j.id
"""
_CALLS: Final = """
    SELECT id, job_id, state, kind, provider_request_id, input_tokens, output_tokens, cost_nano FROM attempt
    WHERE state <> 'skipped' ORDER BY job_id, number
"""
_MOVES: Final = """
    SELECT job_id, was, became, version_was, version, worker_id, extract(epoch FROM at)::float8 AS at
    FROM chaos_move ORDER BY n
"""


def read(url: str) -> Books:
    with psycopg.connect(plain(url), row_factory=namedtuple_row) as conn:
        return Books(
            [_job(row) for row in conn.execute(_JOBS)],
            [Call(*row) for row in conn.execute(_CALLS)],
            [Move(*row) for row in conn.execute(_MOVES)],
        )


def _job(row: Any) -> Job:
    return Job(
        id=row.id,
        prompt=json.loads(row.asked)["input"]["prompt"],
        status=row.status,
        version=row.version,
        text=json.loads(row.answered)["text"] if row.answered is not None else None,
        error_kind=row.error_kind,
        deaths=row.deaths,
        attempts=row.attempts,
        input=row.input_tokens,
        output=row.output_tokens,
        cost_nano=row.cost_nano,
        cost_complete=row.cost_complete,
    )
