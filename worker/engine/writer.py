"""Group commit: what many jobs have to say to the database goes in one transaction.

An urgent write (somebody waits for the job) leaves as soon as one of the database threads is free, alone or with all
that waited meanwhile. A batch line's write lets others gather first, for LINGER_S at most: a transaction costs about
the same for one job as for twenty, and at 1,300 jobs a second the transactions cost more than the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import sqlalchemy as sa

from worker import events
from worker.domain.job import AttemptRow
from worker.domain.state import AttemptState
from worker.store import attempts, jobs
from worker.store.database import Database, Unavailable
from worker.store.jobs import Settle

GROUP_MAX = 200
GROUP_LEAST = 100  # so many need not linger
LINGER_S = 0.01
THREADS = 2
_RETRY_S = (0.1, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class Entry:
    """What one job has to say. `settle` ends its claim; without it `begin` is stored only while the claim holds."""

    job_id: str
    claim_id: str
    begin: Sequence[AttemptRow] = ()
    close: Sequence[AttemptRow] = ()
    settle: Settle | None = None


class Closing(Exception):
    """The writer is closed and the database is away: the write is not on record."""


class Writer:
    """Lives on one event loop; the SQL runs in its own threads."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._loop = loop
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="completar-writer")
        self._busy = 0
        self._urgent: deque[tuple[Entry, asyncio.Future[bool]]] = deque()
        self._waiting: deque[tuple[Entry, asyncio.Future[bool]]] = deque()
        self._lingering: asyncio.TimerHandle | None = None
        self._closing = threading.Event()

    def write(self, entry: Entry, *, urgent: bool) -> asyncio.Future[bool]:
        """Store an entry. The future's result: the claim still held (and, with `settle`, the move was made).

        While the database is away it is tried again and again; Closing is set when the writer is closed first.
        """
        future: asyncio.Future[bool] = self._loop.create_future()
        (self._urgent if urgent else self._waiting).append((entry, future))
        if urgent or len(self._waiting) >= GROUP_LEAST:
            self._send()
        elif self._lingering is None:
            self._lingering = self._loop.call_later(LINGER_S, self._lingered)
        return future

    def close(self) -> None:
        """Give up writes that the database does not take; waits for those it is taking."""
        self._closing.set()
        self._pool.shutdown(wait=True)

    def _lingered(self) -> None:
        self._lingering = None
        self._send()

    def _send(self) -> None:
        """Hand what waits to a free database thread; when none is free, `_done` comes back here."""
        if self._busy >= THREADS:
            return
        group: list[tuple[Entry, asyncio.Future[bool]]] = []
        for queue in (self._urgent, self._waiting):
            while queue and len(group) < GROUP_MAX:
                group.append(queue.popleft())
        if group:
            self._busy += 1
            self._pool.submit(self._run, group)

    def _run(self, group: list[tuple[Entry, asyncio.Future[bool]]]) -> None:
        results = self._store([entry for entry, _ in group])
        self._loop.call_soon_threadsafe(self._done, group, results)

    def _done(self, group: list[tuple[Entry, asyncio.Future[bool]]], results: Sequence[bool | Exception]) -> None:
        self._busy -= 1
        if self._urgent or len(self._waiting) >= GROUP_LEAST or (self._waiting and self._lingering is None):
            self._send()
        for (_, future), result in zip(group, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _store(self, entries: Sequence[Entry]) -> Sequence[bool | Exception]:
        tries = 0
        while True:
            try:
                with self._database.write() as conn:
                    return store(conn, entries)
            except Unavailable as exc:
                if self._closing.wait(_RETRY_S[min(tries, len(_RETRY_S) - 1)]):
                    return [Closing(str(exc))] * len(entries)
                if tries % 20 == 0:
                    events.emit("writer.waiting", level="warning", entries=len(entries), reason=str(exc))
                tries += 1
            except Exception as exc:  # noqa: BLE001 - one bad row must not take the others with it
                if len(entries) == 1:
                    events.emit("writer.refused", level="error", job_id=entries[0].job_id, error=type(exc).__name__)
                    return [exc]
                half = len(entries) // 2
                return [*self._store(entries[:half]), *self._store(entries[half:])]


def store(conn: sa.Connection, entries: Sequence[Entry]) -> list[bool]:
    """One transaction's worth: moves first, so that what is stored of a call says whether its answer counted."""
    held: set[str] = set()
    settles = [entry.settle for entry in entries if entry.settle is not None]
    if settles:
        held |= jobs.settle(conn, settles)
    marks = [(entry.job_id, entry.claim_id) for entry in entries if entry.settle is None and entry.begin]
    if marks:
        held |= jobs.still_ours(conn, marks)
    begin: list[AttemptRow] = []
    close: list[AttemptRow] = []
    for entry in entries:
        ours = entry.job_id in held
        begin.extend(row for row in entry.begin if ours or row.state is AttemptState.SKIPPED)
        close.extend(entry.close if ours or entry.settle is None else map(_superseded, entry.close))
    attempts.begin(conn, begin)
    attempts.close(conn, close)
    return [entry.job_id in held for entry in entries]


def _superseded(row: AttemptRow) -> AttemptRow:
    if row.state is not AttemptState.ANSWERED:
        return row
    reason = "the answer came after the claim had passed on; it was paid for and is not the result"
    return replace(row, state=AttemptState.SUPERSEDED, reason=reason)
