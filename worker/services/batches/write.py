"""Write the two files of a batch whose lines have all ended: each line once, in the order of the input.

A page is stored with the cursor that says so, and nobody sees a file before the transaction that ends the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from worker import events
from worker.domain.answer import Json
from worker.domain.batch import BatchStatus
from worker.domain.failure import FailureKind
from worker.domain.file import BATCH_OUTPUT, PART_BYTES
from worker.domain.job import JobView
from worker.domain.money import Usage
from worker.domain.state import JobStatus
from worker.services.batches import lines as reading
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.endpoints import ENDPOINTS
from worker.services.batches.validate import raw_lines
from worker.services.files import compressed, new_id
from worker.services.openai.failures import WIRE
from worker.store import batches, files, views
from worker.store import lines as stored
from worker.store.batches import Tended, Written
from worker.store.text import dumps

LOOKED_AT: Final = 1_000
PAGE_BYTES: Final = 4 * 1024 * 1024
_SLACK: Final = timedelta(seconds=1)

NOT_RUN: Final[dict[str, Json]] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "request_expired": "This request could not be executed before its own deadline.",
    "request_cancelled": "This request was cancelled on its own.",
    "batch_failed": "The result of this request is no longer kept.",
}


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


def write(desk: Desk, batch: Tended) -> Turns:
    """finalizing or cancelling -> completed, expired or cancelled. Raises Lost."""
    batch = _drafted(desk, batch)
    for page in _pages(desk, batch):
        batch = _store(desk, batch, page)
        yield 0.0
    _finish(desk, batch)


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
    while at < batch.taken_line:
        with desk.deps.database.read() as conn:
            ahead = stored.upcoming(conn, batch.id, at, LOOKED_AT)
            coming = _fitting(ahead, stored.sizes(conn, [line.job_id for line in ahead]))
            jobs = views.many(conn, batch.project_id, [line.job_id for line in coming])
        page = _Page(coming[-1].number)
        for line in coming:
            _add(page, batch, line, jobs[line.job_id])
        yield page
        at = page.line
    if batch.taken < batch.total:
        yield from _never_taken(desk, batch, at)


def _fitting(coming: Sequence[stored.Line], sizes: Mapping[str, int]) -> Sequence[stored.Line]:
    """As many of them as memory takes at once; one at least."""
    total = 0
    for n, line in enumerate(coming):
        total += sizes.get(line.job_id, 0)
        if total > PAGE_BYTES and n:
            return coming[:n]
    return coming


def _never_taken(desk: Desk, batch: Tended, at: int) -> Iterator[_Page]:
    """The window passed, or somebody stopped it, before these lines became jobs."""
    with desk.deps.database.read() as conn:
        file = files.input_of(conn, batch.input_file_id)
    code = "batch_cancelled" if batch.status is BatchStatus.CANCELLING else "batch_expired"
    page = _Page(at)
    for raw in raw_lines(desk.deps, file):
        if raw[0] <= at:
            continue
        page.error += _not_run(f"{batch.id.removeprefix('batch_')}_{raw[0]}", reading.custom_id_of(raw), code)
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
                files.ready(
                    conn,
                    file_id,
                    filename=name,
                    purpose=BATCH_OUTPUT,
                    n_bytes=n_bytes,
                    parts=parts,
                    expires_s=lasts_s,
                )
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


# -- lines -------------------------------------------------------------------------------------------------------


def _add(page: _Page, batch: Tended, line: stored.Line, job: JobView) -> None:
    name = job.id.removeprefix("job_")
    page.usage += job.usage
    match job.status:
        case JobStatus.COMPLETED if job.result is not None:
            body = ENDPOINTS[batch.endpoint].answer(job, line.encoding)
            page.output += _answered(name, line.custom_id, 200, body)
            page.completed += 1
        case JobStatus.FAILED if job.error is not None:
            status, kind, code = WIRE[FailureKind(job.error["kind"])]
            error = {"message": job.error["message"] or job.error["kind"], "type": kind, "param": None, "code": code}
            page.error += _answered(name, line.custom_id, status, {"error": error})
            page.failed += 1
        case JobStatus.CANCELLED:
            stopped = batch.status is BatchStatus.CANCELLING
            page.error += _not_run(name, line.custom_id, "batch_cancelled" if stopped else "request_cancelled")
        case JobStatus.EXPIRED:
            # With the window, to which its deadline was set; else by a deadline of its own.
            over = job.deadline_at is None or job.deadline_at >= batch.expires_at - _SLACK
            page.error += _not_run(name, line.custom_id, "batch_expired" if over else "request_expired")
            page.expired += over
        case _:
            page.error += _not_run(name, line.custom_id, "batch_failed")
            page.failed += 1


def _answered(name: str, custom_id: str, status: int, body: Json) -> bytes:
    response = f'{{"status_code":{status},"request_id":"req_{name}","body":{dumps(body)}}}'
    return f'{{"id":"batch_req_{name}","custom_id":{custom_id},"response":{response},"error":null}}\n'.encode()


def _not_run(name: str, custom_id: str, code: str) -> bytes:
    error = dumps({"code": code, "message": NOT_RUN[code]})
    return f'{{"id":"batch_req_{name}","custom_id":{custom_id},"response":null,"error":{error}}}\n'.encode()
