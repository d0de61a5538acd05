"""Whose an open batch is: one worker tends it, for as long as it renews its lease, and sees it as `Tended`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from worker.domain.batch import BatchStatus, age_s
from worker.domain.money import NO_USAGE, Usage
from worker.store.batch_tables import OPEN_BATCH, batch
from worker.store.batch_views import usage_of
from worker.store.moment import db_now, later, seconds_until

_OPEN: Final = sa.text(OPEN_BATCH)


@dataclass(frozen=True, slots=True)
class Tended:
    """An open batch as whoever tends it sees it. `remaining_s` to the end of its window, which is `window_s` long,
    `cancelling_s` since it was asked to stop (None: nobody did), both by the database's clock.

    taken_line, taken  up to which line of the file lines are jobs, and how many those are
    written_line       up to which line the files are written
    paused, parked     whether somebody paused it, and whether lines are out of reach because of that
    dedupe, cache_age_s  whether lines that ask the same make one call, and how old a stored answer may be
    awaited            lines that wait for the end of another one; they are among those taken
    """

    id: str
    project_id: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    status: BatchStatus
    expires_at: datetime
    remaining_s: float
    window_s: float
    cancelling_s: float | None
    total: int
    taken_line: int
    taken: int
    written_line: int
    output_file_id: str | None
    error_file_id: str | None
    output_expires_s: int | None
    written: Written
    priority: int = 0
    max_cost_nano: int | None = None
    paused: bool = False
    parked: bool = False
    stopped_for: str | None = None
    origin_id: str | None = None
    dedupe: bool = False
    cache_age_s: int | None = None
    awaited: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """What the two files hold so far, and what their lines came to."""

    output_parts: int = 0
    output_bytes: int = 0
    error_parts: int = 0
    error_bytes: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    usage: Usage = NO_USAGE
    cost_nano: int = 0
    unpriced: int = 0


def take(conn: sa.Connection, owner: str, lease_s: float, most: int) -> list[str]:
    """Open batches that nobody tends; they are `owner`'s now."""
    free = sa.or_(batch.c.owner.is_(None), batch.c.leased_until < db_now())
    chosen = sa.select(batch.c.id).where(_OPEN, free).order_by(batch.c.id).limit(most)
    if conn.dialect.name != "sqlite":
        chosen = chosen.with_for_update(skip_locked=True)
    ids = list(conn.execute(chosen).scalars())
    if ids:
        conn.execute(batch.update().where(batch.c.id.in_(ids)).values(owner=owner, leased_until=later(lease_s)))
    return ids


def any_free(conn: sa.Connection) -> bool:
    """Whether `take` would find one."""
    free = sa.or_(batch.c.owner.is_(None), batch.c.leased_until < db_now())
    return conn.execute(sa.select(batch.c.id).where(_OPEN, free).limit(1)).first() is not None


def renew(conn: sa.Connection, owner: str, lease_s: float) -> set[str]:
    """The open batches that still are `owner`'s, for another `lease_s`."""
    mine = batch.update().where(_OPEN, batch.c.owner == owner).values(leased_until=later(lease_s))
    return set(conn.execute(mine.returning(batch.c.id)).scalars())


def release(conn: sa.Connection, owner: str) -> None:
    """Somebody else may go on at once."""
    conn.execute(batch.update().where(_OPEN, batch.c.owner == owner).values(owner=None, leased_until=None))


def tended(conn: sa.Connection, batch_id: str, owner: str) -> Tended | None:
    """None: it is no longer open, or no longer this owner's."""
    row = conn.execute(
        sa.select(
            batch,
            seconds_until(batch.c.expires_at).label("remaining_s"),
            seconds_until(batch.c.cancelling_at).label("cancelling_in_s"),
        ).where(batch.c.id == batch_id, batch.c.owner == owner, _OPEN)
    ).first()
    if row is None:
        return None
    return Tended(
        id=row.id,
        project_id=row.project_id,
        key_id=row.key_id,
        endpoint=row.endpoint,
        input_file_id=row.input_file_id,
        status=BatchStatus(row.status),
        expires_at=row.expires_at,
        remaining_s=row.remaining_s,
        window_s=(row.expires_at - row.created_at).total_seconds(),
        cancelling_s=None if row.cancelling_in_s is None else -row.cancelling_in_s,
        total=row.total,
        taken_line=row.taken_line,
        taken=row.taken,
        written_line=row.written_line,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        output_expires_s=row.output_expires_s,
        written=Written(
            row.output_parts,
            row.output_bytes,
            row.error_parts,
            row.error_bytes,
            row.completed,
            row.failed,
            row.expired,
            usage_of(row),
            row.cost_nano,
            row.unpriced,
        ),
        priority=row.priority,
        max_cost_nano=row.max_cost_nano,
        paused=row.paused_at is not None,
        parked=row.parked,
        stopped_for=row.stopped_for,
        origin_id=row.origin_id,
        dedupe=row.dedupe,
        cache_age_s=None if row.cache_age is None else age_s(row.cache_age),
        awaited=row.awaited,
    )
