"""Batches as people see them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from worker.domain.batch import FINAL, OPEN, BatchStatus, BatchView, Counts
from worker.domain.money import NO_USAGE, Usage
from worker.store import tallies
from worker.store.batch_tables import batch


def get(conn: sa.Connection, project_id: str, batch_id: str) -> BatchView | None:
    row = conn.execute(sa.select(batch).where(batch.c.id == batch_id, batch.c.project_id == project_id)).first()
    return _views(conn, [row])[0] if row is not None else None


def listed(conn: sa.Connection, project_id: str, *, after: str | None, limit: int) -> tuple[list[BatchView], bool]:
    """One page, newest first, and whether there is another."""
    where = [batch.c.project_id == project_id, *([batch.c.id < after] if after is not None else [])]
    rows = conn.execute(sa.select(batch).where(*where).order_by(batch.c.id.desc()).limit(limit + 1)).all()
    return _views(conn, rows[:limit]), len(rows) > limit


def family(conn: sa.Connection, project_id: str, origin_id: str) -> list[BatchView]:
    """A batch and all retries that go back to it, oldest first."""
    mine = sa.or_(batch.c.id == origin_id, batch.c.origin_id == origin_id)
    rows = conn.execute(sa.select(batch).where(mine, batch.c.project_id == project_id).order_by(batch.c.id)).all()
    return _views(conn, rows)


def _views(conn: sa.Connection, rows: Sequence[Any]) -> list[BatchView]:
    running = [row.id for row in rows if row.status in OPEN and row.total]
    counted = tallies.of(conn, running) if running else {}
    return [_view(row, counted.get(row.id, Counts())) for row in rows]


def _view(row: Any, counted: Counts) -> BatchView:
    final = row.status in FINAL
    written = Counts(row.total, row.completed, row.failed, 0, row.cost_nano, row.unpriced)
    counts = written if final else replace(counted, total=row.total)
    return BatchView(
        id=row.id,
        project_id=row.project_id,
        key_id=row.key_id,
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        window=row.window,
        metadata=None if row.metadata is None else json.loads(row.metadata),
        status=BatchStatus(row.status),
        model=row.model,
        errors=None if row.errors is None else json.loads(row.errors),
        output_file_id=row.output_file_id if final else None,
        error_file_id=row.error_file_id if final else None,
        output_expires_s=row.output_expires_s,
        counts=counts,
        created_at=row.created_at,
        expires_at=row.expires_at,
        in_progress_at=row.in_progress_at,
        finalizing_at=row.finalizing_at,
        completed_at=row.completed_at,
        failed_at=row.failed_at,
        expired_at=row.expired_at,
        cancelling_at=row.cancelling_at,
        cancelled_at=row.cancelled_at,
        usage=usage_of(row) if final else NO_USAGE,
        priority=row.priority,
        max_cost_nano=row.max_cost_nano,
        paused_at=None if final else row.paused_at,
        stopped_for=row.stopped_for,
        retry_of=row.retry_of,
        origin_id=row.origin_id,
        taken_line=row.taken_line,
        forgotten=row.taken_line > 0 and row.taken <= 0,
        dedupe=row.dedupe,
        cache_age=row.cache_age,
        twins=row.twins,
        cached=row.cached,
    )


def usage_of(row: Any) -> Usage:
    return Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens)
