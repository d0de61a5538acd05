"""Every move of a batch, one function each: a guarded UPDATE whose row count decides. Nothing else assigns a status.

What is written page by page is guarded by the owner and by the cursor it goes on from: a page is stored once, whoever
else believes that the batch is theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.answer import Json
from worker.domain.batch import FINAL, OPEN, BatchStatus, BatchView, Counts, NewBatch, age_s
from worker.domain.money import NO_USAGE, Usage
from worker.store import tallies
from worker.store.batch_tables import OPEN_BATCH, batch, batch_ended, batch_line, batch_tally
from worker.store.moment import db_now, later, seconds_until
from worker.store.tables import subscription
from worker.store.text import dumps

_S = BatchStatus
_OPEN: Final = sa.text(OPEN_BATCH)
_AT_ONCE: Final = 2_000
_GOING: Final = -1  # taken, of a batch whose lines are being forgotten; 0: they all are
MAX_COST: Final = "max_cost"


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


# -- by people ---------------------------------------------------------------------------------------------------


def insert(conn: sa.Connection, new: NewBatch) -> None:
    conn.execute(
        batch.insert().values(
            id=new.id,
            project_id=new.project_id,
            key_id=new.key_id,
            endpoint=new.endpoint,
            input_file_id=new.input_file_id,
            window=new.window,
            metadata=None if new.metadata is None else dumps(dict(new.metadata)),
            output_expires_s=new.output_expires_s,
            priority=new.priority,
            max_cost_nano=new.max_cost_nano,
            retry_of=new.retry_of,
            origin_id=new.origin_id,
            dedupe=new.dedupe,
            cache_age=new.cache_age,
            status=_S.VALIDATING.value,
            created_at=db_now(),
            expires_at=later(sa.literal(float(new.window_s), sa.Float())),
            **dict.fromkeys(
                ("total", "taken_line", "taken", "written_line", "output_parts", "output_bytes", "error_parts"), 0
            ),
            **dict.fromkeys(("error_bytes", "completed", "failed", "expired"), 0),
        )
    )


def get(conn: sa.Connection, project_id: str, batch_id: str) -> BatchView | None:
    row = conn.execute(sa.select(batch).where(batch.c.id == batch_id, batch.c.project_id == project_id)).first()
    return _views(conn, [row])[0] if row is not None else None


def listed(conn: sa.Connection, project_id: str, *, after: str | None, limit: int) -> tuple[list[BatchView], bool]:
    """One page, newest first, and whether there is another."""
    where = [batch.c.project_id == project_id, *([batch.c.id < after] if after is not None else [])]
    rows = conn.execute(sa.select(batch).where(*where).order_by(batch.c.id.desc()).limit(limit + 1)).all()
    return _views(conn, rows[:limit]), len(rows) > limit


def cancel(conn: sa.Connection, project_id: str, batch_id: str) -> bool:
    """Ask a batch to stop. False: it is final, is stopping already, or is not known."""
    stoppable = [s.value for s in (_S.VALIDATING, _S.IN_PROGRESS, _S.FINALIZING)]
    moved = conn.execute(
        batch.update()
        .where(batch.c.id == batch_id, batch.c.project_id == project_id, batch.c.status.in_(stoppable))
        .values(status=_S.CANCELLING.value, cancelling_at=db_now())
    )
    return moved.rowcount == 1


def pause(conn: sa.Connection, project_id: str, batch_id: str) -> bool:
    """Start no further line of it. False: it is paused already, is neither read nor run, or is not known."""
    moved = conn.execute(
        batch.update()
        .where(*_pausable(project_id, batch_id), batch.c.paused_at.is_(None))
        .values(paused_at=db_now(), parked=True)
    )
    return moved.rowcount == 1


def resume(conn: sa.Connection, project_id: str, batch_id: str) -> bool:
    """Go on with it. False: it is not paused."""
    paused = (*_pausable(project_id, batch_id), batch.c.paused_at.is_not(None))
    return conn.execute(batch.update().where(*paused).values(paused_at=None)).rowcount == 1


def _pausable(project_id: str, batch_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    states = [_S.VALIDATING.value, _S.IN_PROGRESS.value]
    return batch.c.id == batch_id, batch.c.project_id == project_id, batch.c.status.in_(states)


def family(conn: sa.Connection, project_id: str, origin_id: str, *, lock: bool = False) -> list[BatchView]:
    """A batch and all retries that go back to it, oldest first; `lock`: until the transaction ends nobody adds one."""
    if lock:
        _lock(conn, origin_id)
    mine = sa.or_(batch.c.id == origin_id, batch.c.origin_id == origin_id)
    rows = conn.execute(sa.select(batch).where(mine, batch.c.project_id == project_id).order_by(batch.c.id)).all()
    return _views(conn, rows)


def _lock(conn: sa.Connection, origin_id: str) -> None:
    """Its family stays as it is until the transaction ends."""
    conn.execute(batch.update().where(batch.c.id == origin_id).values(origin_id=batch.c.origin_id))


# -- whose it is -------------------------------------------------------------------------------------------------


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
        status=_S(row.status),
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
            _usage(row),
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


# -- by whoever tends it -----------------------------------------------------------------------------------------


def fail(conn: sa.Connection, batch_id: str, owner: str, errors: Sequence[Mapping[str, Json]]) -> bool:
    """validating -> failed: its file is faulty."""
    values = {"status": _S.FAILED.value, "errors": dumps(list(errors)), "failed_at": db_now()}
    return _moved(conn, batch_id, owner, (_S.VALIDATING,), values)


def begin(conn: sa.Connection, batch_id: str, owner: str, *, total: int, model: str | None) -> bool:
    """validating -> in_progress: every line is good."""
    values = {"status": _S.IN_PROGRESS.value, "in_progress_at": db_now(), "total": total, "model": model}
    return _moved(conn, batch_id, owner, (_S.VALIDATING,), values)


def took(
    conn: sa.Connection, batch_id: str, owner: str, *, after: int, line: int, n: int, twins: int = 0, cached: int = 0
) -> bool:
    """`n` more lines are taken in, up to `line`. False: not from there, or not by this owner; store nothing.

    twins, cached  how many of them make no call: they wait for the end of another one, or have an answer already
    """
    values: dict[str, Any] = {"taken_line": line, "taken": batch.c.taken + n}
    if twins:
        values |= {"twins": batch.c.twins + twins, "awaited": batch.c.awaited + twins}
    if cached:
        values |= {"cached": batch.c.cached + cached}
    return _moved(conn, batch_id, owner, (_S.IN_PROGRESS,), values, batch.c.taken_line == after)


def heard(conn: sa.Connection, batch_id: str, n: int) -> None:
    """So many of its lines wait no longer for the end of another one."""
    conn.execute(batch.update().where(batch.c.id == batch_id).values(awaited=batch.c.awaited - n))


def finalize(conn: sa.Connection, batch_id: str, owner: str) -> bool:
    """in_progress -> finalizing: no line is open."""
    return _moved(conn, batch_id, owner, (_S.IN_PROGRESS,), {"status": _S.FINALIZING.value, "finalizing_at": db_now()})


def unparked(conn: sa.Connection, batch_id: str, owner: str) -> bool:
    """No line is out of reach any more. False: it was paused again meanwhile."""
    return _moved(conn, batch_id, owner, (_S.IN_PROGRESS,), {"parked": False}, batch.c.paused_at.is_(None))


def overspent(conn: sa.Connection, batch_id: str, owner: str) -> bool:
    """in_progress -> cancelling: another line could pass its bound of cost."""
    values = {"status": _S.CANCELLING.value, "cancelling_at": db_now(), "stopped_for": MAX_COST}
    return _moved(conn, batch_id, owner, (_S.IN_PROGRESS,), values)


def draft(conn: sa.Connection, batch_id: str, owner: str, output_file_id: str, error_file_id: str) -> bool:
    """These are the files it writes."""
    values = {"output_file_id": output_file_id, "error_file_id": error_file_id}
    return _moved(conn, batch_id, owner, (_S.FINALIZING, _S.CANCELLING), values, batch.c.output_file_id.is_(None))


def undraft(conn: sa.Connection, batch_id: str, owner: str) -> bool:
    """The files it was writing are gone: it writes two others, from the first line on."""
    values = {"output_file_id": None, "error_file_id": None, "written_line": 0, **_written(Written())}
    return _moved(conn, batch_id, owner, (_S.FINALIZING, _S.CANCELLING), values)


def wrote(conn: sa.Connection, batch_id: str, owner: str, *, after: int, line: int, written: Written) -> bool:
    """The files hold every line up to `line`. False: not from there, or not by this owner; store nothing."""
    values = {"written_line": line, **_written(written)}
    return _moved(conn, batch_id, owner, (_S.FINALIZING, _S.CANCELLING), values, batch.c.written_line == after)


def _written(written: Written) -> dict[str, Any]:
    return {
        "output_parts": written.output_parts,
        "output_bytes": written.output_bytes,
        "error_parts": written.error_parts,
        "error_bytes": written.error_bytes,
        "completed": written.completed,
        "failed": written.failed,
        "expired": written.expired,
        "input_tokens": written.usage.input_tokens,
        "output_tokens": written.usage.output_tokens,
        "cached_tokens": written.usage.cached_tokens,
        "reasoning_tokens": written.usage.reasoning_tokens,
        "cost_nano": written.cost_nano,
        "unpriced": written.unpriced,
    }


def finish(
    conn: sa.Connection,
    batch_id: str,
    owner: str,
    status: BatchStatus,
    *,
    output_file_id: str | None,
    error_file_id: str | None,
) -> bool:
    """finalizing -> completed or expired, cancelling -> cancelled; ids of the files that there are."""
    stamp = {_S.COMPLETED: "completed_at", _S.EXPIRED: "expired_at", _S.CANCELLED: "cancelled_at"}[status]
    values = {
        "status": status.value,
        stamp: db_now(),
        "output_file_id": output_file_id,
        "error_file_id": error_file_id,
        "owner": None,
        "leased_until": None,
    }
    before = _S.CANCELLING if status is _S.CANCELLED else _S.FINALIZING
    return _moved(conn, batch_id, owner, (before,), values)


def _moved(
    conn: sa.Connection,
    batch_id: str,
    owner: str,
    before: Sequence[BatchStatus],
    values: Mapping[str, Any],
    *guards: sa.ColumnElement[bool],
) -> bool:
    moved = conn.execute(
        batch.update()
        .where(batch.c.id == batch_id, batch.c.owner == owner, batch.c.status.in_([s.value for s in before]), *guards)
        .values(**values)
    )
    return moved.rowcount == 1


# -- afterwards --------------------------------------------------------------------------------------------------


def prune(conn: sa.Connection, older_than_s: float) -> int:
    """One small step of forgetting the lines of batches made long ago; the batch itself stays. Returns how many.

    It counts as forgotten from the first step on: a retry would take a line that is gone for one that nobody answered.
    """
    final = batch.c.status.in_([s.value for s in FINAL])
    # A retry that is open still asks which lines of its family were answered.
    child = batch.alias("child")
    origin_id = sa.func.coalesce(batch.c.origin_id, batch.c.id)
    asked = sa.exists().where(
        child.c.origin_id.is_not(None),
        child.c.origin_id == origin_id,
        child.c.status.in_([s.value for s in OPEN]),
    )
    old = (final, batch.c.created_at < later(-older_than_s), batch.c.taken != 0, sa.not_(asked))
    found = conn.execute(
        sa.select(batch.c.id, batch.c.taken, origin_id.label("origin_id")).where(*old).limit(1)
    ).first()
    if found is None:
        return 0
    batch_id = found.id
    if found.taken != _GOING:
        _lock(conn, found.origin_id)  # a retry that is made meanwhile is waited for, and then seen
        marked = batch.update().where(batch.c.id == batch_id, *old).values(taken=_GOING)
        if conn.execute(marked).rowcount == 0:
            return 0
    of_it = batch_line.c.batch_id == batch_id
    some = sa.select(batch_line.c.line).where(of_it).order_by(batch_line.c.line).limit(_AT_ONCE)
    gone = conn.execute(batch_line.delete().where(of_it, batch_line.c.line.in_(some))).rowcount
    if gone < _AT_ONCE:
        for table in (batch_tally, batch_ended):
            conn.execute(table.delete().where(table.c.batch_id == batch_id))
        conn.execute(subscription.delete().where(subscription.c.object_id == batch_id))
        conn.execute(batch.update().where(batch.c.id == batch_id).values(taken=0))
    return gone


# -- as people see it --------------------------------------------------------------------------------------------


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
        status=_S(row.status),
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
        usage=_usage(row) if final else NO_USAGE,
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


def _usage(row: Any) -> Usage:
    return Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens)
