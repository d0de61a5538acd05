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
from worker.services.idempotency import Earlier, IdempotencyKey, Unkeyed, earlier, once
from worker.services.listeners import vault_of
from worker.store import batch_views, batches, files
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
    before = made_before(deps, project_id, idempotent)
    if before is not None:
        return before
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

    def store(conn: Connection) -> BatchView:
        file = files.get(conn, project_id, request.input_file_id)
        if file is not None and file.purpose != BATCH:
            raise WrongPurpose(f"the file's purpose is {file.purpose}")
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
        assert made is not None
        return made

    made = once(deps.database, project_id, idempotent, [new.id], store)
    created = _again(deps, project_id, made) if isinstance(made, Earlier) else Created(made)
    assert created is not None
    return created


def made_before(deps: Deps, project_id: str, sent: IdempotencyKey | Unkeyed | None) -> Created | None:
    """What this key, or an earlier attempt of this request, made. Raises KeyReused."""
    made = earlier(deps.database, project_id, sent)
    return None if made is None else _again(deps, project_id, made)


def _again(deps: Deps, project_id: str, made: Earlier) -> Created | None:
    with deps.database.read() as conn:
        batch = batch_views.get(conn, project_id, made.ids[0])
    return None if batch is None else Created(batch, replayed=True)


def cancel(deps: Deps, project_id: str, batch_id: str) -> BatchView | None:
    """The batch after the request, or None where it is unknown. A final one, and one that is stopping, stay."""
    with deps.database.write() as conn:
        batches.cancel(conn, project_id, batch_id)
        return batch_views.get(conn, project_id, batch_id)
