"""Run the lines of a batch again that nobody has answered, as a new batch that names the old one.

A file may be retried again and again: a line that any run of it has answered is not asked a second time.
"""

from __future__ import annotations

from worker.deps import Deps
from worker.domain.batch import FINAL, BatchStatus, BatchView
from worker.services.batches.create import BatchRequest, Created, NotRetriable, create, made_before
from worker.services.batches.source import answered
from worker.services.idempotency import IdempotencyKey, Unkeyed
from worker.store import batch_views, files


def retry(
    deps: Deps,
    batch: BatchView,
    idempotent: IdempotencyKey | Unkeyed | None = None,
    *,
    window_s: int,
    max_cost_nano: int | None = None,
    key_id: str | None = None,
) -> Created:
    """`window_s` as the batch's, in seconds; `max_cost_nano` None: as the batch's.

    Raises NotRetriable, StillRunning, KeyReused, Unavailable.
    """
    before = made_before(deps, batch.project_id, idempotent)
    if before is not None:
        return before
    if batch.status not in FINAL:
        raise NotRetriable(f"batch {batch.id} is {batch.status}; only one that has ended can be retried")
    if batch.status is BatchStatus.FAILED:
        raise NotRetriable(f"the file of batch {batch.id} was not taken; see its errors, and send it anew")
    origin_id = batch.origin_id or batch.id
    with deps.database.read() as conn:
        family = batch_views.family(conn, batch.project_id, origin_id)
        file = files.get(conn, batch.project_id, batch.input_file_id)
    if file is None or any(one.forgotten for one in family):
        raise NotRetriable(f"the requests of batch {batch.id} are no longer kept")
    # Of one that was stopped before its file was read nobody knows how many lines it has: all of them are asked.
    total = max(one.counts.total for one in family)
    if total and answered(deps, batch.project_id, origin_id).count >= total:
        raise NotRetriable(f"every line of batch {batch.id} has been answered")
    request = BatchRequest(
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        window=batch.window,
        window_s=window_s,
        metadata=batch.metadata,
        output_expires_s=batch.output_expires_s,
        priority=batch.priority,
        max_cost_nano=batch.max_cost_nano if max_cost_nano is None else max_cost_nano,
        retry_of=batch.id,
        origin_id=origin_id,
        dedupe=batch.dedupe,
        cache_age=batch.cache_age,
    )
    return create(deps, batch.project_id, request, idempotent, key_id=key_id)
