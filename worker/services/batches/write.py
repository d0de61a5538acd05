"""Write the two files of a batch whose lines have all ended: each line once, in the order of the input.

A page is stored with the cursor that says so, and nobody sees a file before the transaction that ends the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from worker import events
from worker.domain.batch import BatchStatus
from worker.domain.file import BATCH_OUTPUT, PART_BYTES
from worker.domain.job import JobView
from worker.domain.money import Usage
from worker.services.batches import lines as reading
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.outcome import Setting, name_of, not_run, outcome
from worker.services.batches.source import lines_of
from worker.services.files import compressed, new_id
from worker.store import batches, files
from worker.store import lines as stored
from worker.store.tending import Tended, Written

LOOKED_AT: Final = 1_000
PAGE_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class _Page:
    """What some lines came to. `line`: the last of them."""

    line: int
    output: bytearray = field(default_factory=bytearray)
    error: bytearray = field(default_factory=bytearray)
    completed: int = 0
    failed: int = 0
    expired: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_nano: int = 0
    unpriced: int = 0


def write(desk: Desk, batch: Tended) -> Turns:
    """finalizing or cancelling -> completed, expired or cancelled. Raises Lost."""
    batch = _drafted(desk, batch)
    for n, page in enumerate(_pages(desk, batch)):
        if n:  # a small batch does not wait for the turns of large ones again
            yield 0.0
        batch = _store(desk, batch, page)
    try:
        _finish(desk, batch)
    except _DraftGone:
        _begin_anew(desk, batch)
        raise Lost from None


class _DraftGone(Exception):
    """A file that was being written was given up meanwhile, and its parts with it."""


def _drafted(desk: Desk, batch: Tended) -> Tended:
    if batch.output_file_id is not None:
        return batch
    output_id, error_id = new_id(), new_id()
    with desk.deps.database.write() as conn:
        if not batches.draft(conn, batch.id, desk.owner, output_id, error_id):
            raise Lost
        for file_id in (output_id, error_id):
            files.begin(conn, batch.project_id, file_id, filename="", purpose=BATCH_OUTPUT)
    return replace(batch, output_file_id=output_id, error_file_id=error_id)


def _pages(desk: Desk, batch: Tended) -> Iterator[_Page]:
    at = batch.written_line
    of = Setting(batch.endpoint, batch.expires_at, batch.status is BatchStatus.CANCELLING)
    while at < batch.taken_line:
        with desk.deps.database.read() as conn:
            coming = stored.ended(conn, batch.project_id, batch.id, at, LOOKED_AT, PAGE_BYTES)
        page = _Page(coming[-1][0].number)
        for line, job in coming:
            _add(page, of, line, job)
        yield page
        at = page.line
    if batch.taken < batch.total:
        yield from _never_taken(desk, batch, at)


def _never_taken(desk: Desk, batch: Tended, at: int) -> Iterator[_Page]:
    """The window passed, or somebody stopped it, before these lines became jobs."""
    with desk.deps.database.read() as conn:
        file = files.input_of(conn, batch.input_file_id)
    code = "batch_cancelled" if batch.status is BatchStatus.CANCELLING else "batch_expired"
    if batch.stopped_for == batches.MAX_COST:
        code = "max_cost_reached"
    page = _Page(at)
    for raw in lines_of(desk.deps, batch, file):
        if raw[0] <= at:
            continue
        page.error += not_run(name_of(batch.id, raw[0]), reading.custom_id_of(raw), code).encode()
        page.line = raw[0]
        page.expired += code == "batch_expired"
        if len(page.error) >= PART_BYTES:
            yield page
            page = _Page(page.line)
    if page.error:
        yield page


def _store(desk: Desk, batch: Tended, page: _Page) -> Tended:
    """The batch after it. Raises Lost: then nothing of the page is stored."""
    output, error = _parts(page.output), _parts(page.error)
    before = batch.written
    after = Written(
        before.output_parts + len(output),
        before.output_bytes + len(page.output),
        before.error_parts + len(error),
        before.error_bytes + len(page.error),
        before.completed + page.completed,
        before.failed + page.failed,
        before.expired + page.expired,
        before.usage + page.usage,
        before.cost_nano + page.cost_nano,
        before.unpriced + page.unpriced,
    )
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    with desk.deps.database.write() as conn:
        if not batches.wrote(conn, batch.id, desk.owner, after=batch.written_line, line=page.line, written=after):
            raise Lost
        files.add_parts(conn, batch.output_file_id, before.output_parts, output)
        files.add_parts(conn, batch.error_file_id, before.error_parts, error)
    return replace(batch, written_line=page.line, written=after)


def _parts(data: bytearray) -> list[bytes]:
    with memoryview(data) as whole:
        return [compressed(whole[at : at + PART_BYTES]) for at in range(0, len(data), PART_BYTES)]


def _finish(desk: Desk, batch: Tended) -> None:
    """The files, their ids and the final state are there for everybody at once."""
    written, lasts_s = batch.written, batch.output_expires_s
    if lasts_s is None:
        lasts_s = desk.deps.settings.retention_days * 86_400
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    status = BatchStatus.EXPIRED if written.expired else BatchStatus.COMPLETED
    if batch.status is BatchStatus.CANCELLING:
        status = BatchStatus.CANCELLED
    sizes = (
        (batch.output_file_id, "output", written.output_bytes, written.output_parts),
        (batch.error_file_id, "error", written.error_bytes, written.error_parts),
    )
    with desk.deps.database.write() as conn:
        for file_id, what, n_bytes, parts in sizes:
            name = f"{batch.id}_{what}.jsonl"
            if n_bytes == 0:  # a file is there only if it has a line
                files.drop(conn, file_id)
            else:
                whole = files.ready(
                    conn,
                    file_id,
                    filename=name,
                    purpose=BATCH_OUTPUT,
                    n_bytes=n_bytes,
                    parts=parts,
                    expires_s=lasts_s,
                )
                if not whole:
                    raise _DraftGone
        output, error = (file_id if n_bytes else None for file_id, _, n_bytes, _ in sizes)
        if not batches.finish(conn, batch.id, desk.owner, status, output_file_id=output, error_file_id=error):
            raise Lost
    events.emit(
        "batch.ended",
        batch_id=batch.id,
        status=status.value,
        total=batch.total,
        completed=written.completed,
        failed=written.failed,
    )


def _begin_anew(desk: Desk, batch: Tended) -> None:
    with desk.deps.database.write() as conn:
        if not batches.undraft(conn, batch.id, desk.owner):
            return
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                files.drop(conn, file_id)
    events.emit("batch.rewritten", level="warning", batch_id=batch.id)


def _add(page: _Page, of: Setting, line: stored.Line, job: JobView) -> None:
    page.usage += job.usage
    page.cost_nano += job.cost_nano or 0
    page.unpriced += not job.cost_complete
    sort, text = outcome(of, line, job)
    if sort == "completed":
        page.output += text.encode()
    else:
        page.error += text.encode()
    page.completed += sort == "completed"
    page.failed += sort == "failed"
    page.expired += sort == "expired"
