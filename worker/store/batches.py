"""Every move of a batch, one function each: a guarded UPDATE whose row count decides. Nothing else assigns a status.

What is written page by page is guarded by the owner and by the cursor it goes on from: a page is stored once, whoever
else believes that the batch is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.answer import Json
from worker.domain.batch import FINAL, OPEN, BatchStatus, NewBatch
from worker.store.batch_tables import batch, batch_ended, batch_line, batch_tally
from worker.store.moment import db_now, later
from worker.store.tending import Written
from worker.store.text import dumps
from worker.store.webhook_tables import subscription

_S = BatchStatus
_AT_ONCE: Final = 2_000
_GOING: Final = -1  # taken, of a batch whose lines are being forgotten; 0: they all are
MAX_COST: Final = "max_cost"


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


def lock_family(conn: sa.Connection, origin_id: str) -> None:
    """Until the transaction ends nobody adds a retry to this batch's family, or begins to forget its lines."""
    conn.execute(batch.update().where(batch.c.id == origin_id).values(origin_id=batch.c.origin_id))


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
        lock_family(conn, found.origin_id)  # a retry that is made meanwhile is waited for, and then seen
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
