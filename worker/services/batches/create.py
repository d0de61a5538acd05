"""Batches as people make and stop them: a row and its idempotency key in one transaction. Workers do the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker import clock
from worker.deps import Deps
from worker.domain.batch import BatchView, NewBatch
from worker.domain.file import BATCH
from worker.services.submit import IdempotencyKey, KeyReused
from worker.store import batches, files, idempotency


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch as asked for, validated in form; the names are those of NewBatch."""

    endpoint: str
    input_file_id: str
    window: str
    window_s: int
    metadata: Mapping[str, str] | None = None
    output_expires_s: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """`replayed`: made by an earlier request with the same idempotency key."""

    batch: BatchView
    replayed: bool = False


class WrongPurpose(ValueError):
    """The file was not uploaded for a batch."""


def create(
    deps: Deps,
    project_id: str,
    request: BatchRequest,
    idempotent: IdempotencyKey | None = None,
    *,
    key_id: str | None = None,
) -> Created:
    """The row is committed when this returns. A file that is not there is found by who validates, as at OpenAI.

    Raises WrongPurpose, KeyReused, Unavailable (database away; nothing is stored).
    """
    if idempotent is not None and (earlier := _earlier(deps, project_id, idempotent)) is not None:
        return earlier
    new = NewBatch(
        id=clock.new_id("batch"),
        project_id=project_id,
        key_id=key_id,
        endpoint=request.endpoint,
        input_file_id=request.input_file_id,
        window=request.window,
        window_s=request.window_s,
        metadata=request.metadata,
        output_expires_s=request.output_expires_s,
    )
    try:
        with deps.database.write() as conn:
            file = files.get(conn, project_id, request.input_file_id)
            if file is not None and file.purpose != BATCH:
                raise WrongPurpose(f"the file's purpose is {file.purpose}")
            if idempotent is not None and not idempotency.remember(
                conn, project_id, idempotent.route, idempotent.key, idempotent.fingerprint, [new.id]
            ):
                raise _TooLate  # noqa: TRY301 - it rolls the transaction back
            batches.insert(conn, new)
            made = batches.get(conn, project_id, new.id)
    except _TooLate:  # the same key in parallel: the other one made the batch
        earlier = _earlier(deps, project_id, idempotent) if idempotent is not None else None
        assert earlier is not None
        return earlier
    assert made is not None
    return Created(made)


def cancel(deps: Deps, project_id: str, batch_id: str) -> BatchView | None:
    """The batch after the request, or None where it is unknown. A final one, and one that is stopping, stay."""
    with deps.database.write() as conn:
        batches.cancel(conn, project_id, batch_id)
        return batches.get(conn, project_id, batch_id)


class _TooLate(Exception):
    pass


def _earlier(deps: Deps, project_id: str, idempotent: IdempotencyKey) -> Created | None:
    with deps.database.read() as conn:
        known = idempotency.find(conn, project_id, idempotent.route, idempotent.key)
        if known is None:
            return None
        if known.fingerprint != idempotent.fingerprint:
            key = idempotent.key[:40]
            raise KeyReused(f"Idempotency-Key {key!r} was used with another request in the last 24 hours")
        made = batches.get(conn, project_id, known.made[0])
    return None if made is None else Created(made, replayed=True)
