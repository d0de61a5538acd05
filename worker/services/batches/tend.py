"""One batch from where it stands to its end, in turns. Every step begins from the row, so anybody may go on."""

from __future__ import annotations

from worker.domain.batch import BatchStatus
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.pause import rest
from worker.services.batches.shared import along
from worker.services.batches.take_in import take_in
from worker.services.batches.validate import validate
from worker.services.batches.watch import stop, watch
from worker.services.batches.write import write
from worker.store import batches
from worker.store.tending import Tended


def tend(desk: Desk, batch_id: str) -> Turns:
    """Raises Lost when the batch is final or somebody else's, and Unavailable."""
    while True:
        batch = desk.look(batch_id)
        try:
            match batch.status:
                case BatchStatus.VALIDATING:
                    yield from validate(desk, batch)
                case BatchStatus.IN_PROGRESS if (batch.paused or batch.parked) and batch.remaining_s > 0:
                    yield from along(desk, batch, rest(desk, batch))
                case BatchStatus.IN_PROGRESS if batch.taken < batch.total and batch.remaining_s > 0:
                    yield from along(desk, batch, take_in(desk, batch))
                case BatchStatus.IN_PROGRESS:
                    yield from along(desk, batch, watch(desk, batch))
                case BatchStatus.CANCELLING if batch.total == 0:
                    _cancelled_unread(desk, batch)
                case BatchStatus.CANCELLING:
                    yield from along(desk, batch, stop(desk, batch))
                    yield from write(desk, desk.look(batch_id))
                case _:
                    yield from write(desk, batch)
        except Lost:  # its state is another one now, or its owner: the next look tells
            yield 0.0


def _cancelled_unread(desk: Desk, batch: Tended) -> None:
    """Stopped before its file was read: no line was ever taken, and there is nothing to write."""
    with desk.deps.database.write() as conn:
        status = BatchStatus.CANCELLED
        batches.finish(conn, batch.id, desk.owner, status, output_file_id=None, error_file_id=None)
