"""The results of a batch as they come: each ended line once, whoever asks, and however often.

Lines come in the order in which their ends were committed (see `store/tallies.py`), then those that never became jobs,
which are only in the error file of a final batch.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from worker.deps import Deps
from worker.domain.batch import FINAL, BatchView
from worker.domain.batch_cursor import Cursor
from worker.domain.job import JobView
from worker.services.batches.outcome import Setting, name_of, outcome
from worker.store import batch_views, files, tallies, views
from worker.store import lines as stored

PAGE_BYTES: Final = 4 * 1024 * 1024


class Forgotten(Exception):
    """What the lines came to is no longer kept, or no longer all of it."""


@dataclass(frozen=True, slots=True)
class Result:
    """`text` as in a file of results; `line` of the input; `job` None: it never became one."""

    text: str
    line: int
    job: JobView | None


@dataclass(frozen=True, slots=True)
class Page:
    """`cursor` stands behind these; `over`: nothing will ever come after them."""

    batch: BatchView
    results: list[Result]
    cursor: Cursor
    over: bool


def page(deps: Deps, project_id: str, batch_id: str, cursor: Cursor, limit: int) -> Page | None:
    """None: there is no such batch. Raises Forgotten."""
    with deps.database.read() as conn:
        batch = batch_views.get(conn, project_id, batch_id)  # before its lines: if it is final, none is missing
        if batch is None:
            return None
        if batch.forgotten:
            raise Forgotten
        ended = tallies.ended_after(conn, batch_id, cursor.slots, limit)
        sizes = stored.sizes(conn, [job_id for _, job_id in ended])
        ended = _fitting(ended, sizes)
        job_ids = [job_id for _, job_id in ended]
        lines = stored.of_jobs(conn, job_ids)
        jobs = views.many(conn, project_id, job_ids)
    of = Setting(batch.endpoint, batch.expires_at, batch.cancelling_at is not None)
    found = []
    for job_id in job_ids:
        if job_id not in lines or job_id not in jobs or jobs[job_id].purged:
            raise Forgotten
        found.append(Result(outcome(of, lines[job_id], jobs[job_id])[1], lines[job_id].number, jobs[job_id]))
    read = Counter(cursor.slots) + Counter(slot for slot, _ in ended)
    after = replace(cursor, slots=MappingProxyType(dict(read)))
    if found or batch.status not in FINAL:
        return Page(batch, found, after, over=False)
    return _never_run(deps, batch, after, limit)


def _fitting(ended: list[tuple[int, str]], sizes: dict[str, int]) -> list[tuple[int, str]]:
    total = 0
    for n, (_, job_id) in enumerate(ended):
        total += sizes.get(job_id, 0)
        if total > PAGE_BYTES and n:
            return ended[:n]
    return ended


def _never_run(deps: Deps, batch: BatchView, cursor: Cursor, limit: int) -> Page:
    known = sum(cursor.slots.values())
    if known >= batch.counts.total:
        return Page(batch, [], cursor, over=True)
    with deps.database.read() as conn:
        file = None if batch.error_file_id is None else files.get(conn, batch.project_id, batch.error_file_id)
    if file is None:
        raise Forgotten
    prefix = f'{{"id":"batch_req_{name_of(batch.id, 0)[:-1]}'
    found: list[Result] = []
    for line, part, at in _lines(deps, file.id, file.parts, cursor.part, cursor.at):
        cursor = replace(cursor, part=part, at=at)
        text = line.decode()
        if text.startswith(prefix):
            number = int(text[len(prefix) : text.index('"', len(prefix))])
            found.append(Result(text, number, None))
            if len(found) == limit:
                return Page(batch, found, cursor, over=False)
    return Page(batch, found, cursor, over=True)


def _lines(deps: Deps, file_id: str, parts: int, part: int, at: int) -> Iterator[tuple[bytes, int, int]]:
    """The lines of a file from there on, each with where the next one begins."""
    rest = b""
    for number in range(part, parts):
        with deps.database.read() as conn:
            body = files.part(conn, file_id, number)
        if body is None:
            raise Forgotten
        data = zlib.decompress(body)
        begin = at if number == part else 0
        while (end := data.find(b"\n", begin)) >= 0:
            yield rest + data[begin : end + 1], number, end + 1
            rest, begin = b"", end + 1
        rest += data[begin:]
