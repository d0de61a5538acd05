"""Batches as people make and stop them: a row and its idempotency key in one transaction. Workers do the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker import clock
from worker.deps import Deps
from worker.domain.batch import FINAL, BatchView, NewBatch
from worker.domain.delivery import Webhook
from worker.domain.file import BATCH
from worker.services import listeners
from worker.services.listeners import vault_of
from worker.services.submit import IdempotencyKey, KeyReused, Unkeyed
from worker.store import batch_views, batches, files, idempotency
from worker.store.database import Connection


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch as asked for, validated in form; the names are those of NewBatch."""

    endpoint: str
    input_file_id: str
    window: str
    window_s: int
    metadata: Mapping[str, str] | None = None
    output_expires_s: int | None = None
    priority: int = 0
    max_cost_nano: int | None = None
    retry_of: str | None = None
    origin_id: str | None = None
    dedupe: bool = False
    cache_age: str | None = None
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """`replayed`: made by an earlier request with the same idempotency key, or that this one repeats."""

    batch: BatchView
    replayed: bool = False


class NotRetriable(ValueError):
    """It still runs, nothing of it is left to run, or what it would need is no longer kept."""


class StillRunning(ValueError):
    """Another batch of the same family runs: its lines would be asked twice."""


class WrongPurpose(ValueError):
    """The file was not uploaded for a batch."""


def create(
    deps: Deps,
    project_id: str,
    request: BatchRequest,
    idempotent: IdempotencyKey | Unkeyed | None = None,
    *,
    key_id: str | None = None,
) -> Created:
    """The row is committed when this returns. A file that is not there is found by who validates, as at OpenAI.

    Raises WrongPurpose, KeyReused, StillRunning and NotRetriable (of a retry), NoKey (a webhook is asked for, and there
    is nothing to encrypt its secret with), NoProvider, Unavailable (database away; nothing is stored).
    """
    if idempotent is not None and (made_before := earlier(deps, project_id, idempotent)) is not None:
        return made_before
    deps.catalog.resolve(("default",))  # of what the lines name it is found when they are read
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
        priority=request.priority,
        max_cost_nano=request.max_cost_nano,
        retry_of=request.retry_of,
        origin_id=request.origin_id,
        dedupe=request.dedupe,
        cache_age=request.cache_age,
    )
    try:
        with deps.database.write() as conn:
            file = files.get(conn, project_id, request.input_file_id)
            if file is not None and file.purpose != BATCH:
                raise WrongPurpose(f"the file's purpose is {file.purpose}")
            if idempotent is not None and not _remember(conn, project_id, idempotent, new.id):
                raise _TooLate  # noqa: TRY301 - it rolls the transaction back
            if new.origin_id is not None:
                batches.lock_family(conn, new.origin_id)
                for one in batch_views.family(conn, project_id, new.origin_id):
                    if one.forgotten:
                        raise NotRetriable(f"the lines of batch {one.id} are no longer kept")
                    if one.status not in FINAL:
                        raise StillRunning(f"batch {one.id} runs lines of the same file and is {one.status}")
            batches.insert(conn, new)
            if request.webhook is not None:
                listeners.subscribe(conn, vault_of(deps), project_id, [(new.id, request.webhook)])
            made = batch_views.get(conn, project_id, new.id)
    except _TooLate:  # the same key in parallel: the other one made the batch
        first = earlier(deps, project_id, idempotent) if idempotent is not None else None
        assert first is not None
        return first
    assert made is not None
    return Created(made)


def cancel(deps: Deps, project_id: str, batch_id: str) -> BatchView | None:
    """The batch after the request, or None where it is unknown. A final one, and one that is stopping, stay."""
    with deps.database.write() as conn:
        batches.cancel(conn, project_id, batch_id)
        return batch_views.get(conn, project_id, batch_id)


class _TooLate(Exception):
    pass


def _remember(conn: Connection, project_id: str, idempotent: IdempotencyKey | Unkeyed, made: str) -> bool:
    """False: another request with this key was first."""
    route, fingerprint = idempotent.route, idempotent.fingerprint
    if isinstance(idempotent, IdempotencyKey):
        return idempotency.remember(conn, project_id, route, idempotent.key, fingerprint, [made])
    idempotency.note(conn, project_id, route, fingerprint, idempotent.attempt, made)
    return True


def earlier(deps: Deps, project_id: str, idempotent: IdempotencyKey | Unkeyed) -> Created | None:
    """What this key, or an earlier attempt of this request, made before. Raises KeyReused."""
    if isinstance(idempotent, Unkeyed):
        return _repeated(deps, project_id, idempotent)
    with deps.database.read() as conn:
        known = idempotency.find(conn, project_id, idempotent.route, idempotent.key)
        if known is None:
            return None
        if known.fingerprint != idempotent.fingerprint:
            key = idempotent.key[:40]
            raise KeyReused(f"Idempotency-Key {key!r} was used with another request in the last 24 hours")
        made = batch_views.get(conn, project_id, known.made[0])
    return None if made is None else Created(made, replayed=True)


def _repeated(deps: Deps, project_id: str, sent: Unkeyed) -> Created | None:
    if sent.attempt == 0:
        return None
    with deps.database.write() as conn:
        batch_id = idempotency.take(conn, project_id, sent.route, sent.fingerprint, sent.attempt)
        made = None if batch_id is None else batch_views.get(conn, project_id, batch_id)
    return None if made is None else Created(made, replayed=True)
