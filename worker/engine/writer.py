"""Group commit: what many jobs have to say to the database goes in one transaction.

An urgent write (somebody waits for the job) leaves as soon as the database thread of its kind is free, alone or with
all that waited meanwhile. A batch line's write lets others gather first, for LINGER_S at most: a transaction costs
about the same for one job as for twenty, and at 1,300 jobs a second the transactions cost more than the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from worker import events
from worker.domain.answer import Failure
from worker.domain.budget import settled
from worker.domain.job import AttemptRow
from worker.domain.state import AttemptState
from worker.store import attempts, budgets, jobs
from worker.store.database import Database, Unavailable
from worker.store.jobs import Settle

GROUP_MAX = 200
GROUP_LEAST = 100  # so many need not linger
LINGER_S = 0.01
WOKEN = 10
THREADS = 2  # one for those somebody waits for, one for the batch lane
_RETRY_S = (0.1, 0.2, 0.5, 1.0)


@dataclass(slots=True)
class Entry:
    """What one job has to say. `settle` ends its claim; without it `begin` is stored only while the claim holds.

    budget_key  the API key whose budget pays for its calls; None: there is none
    """

    job_id: str
    claim_id: str
    begin: Sequence[AttemptRow] = ()
    close: Sequence[AttemptRow] = ()
    settle: Settle | None = None
    budget_key: str | None = None


class OverBudget(Exception):
    """The key's budget has no room for the call: it is not marked and must not be made. `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Closing(Exception):
    """The writer is closed and the database is away: the write is not on record."""


Group = list[tuple[Entry, "asyncio.Future[bool]"]]


@dataclass(slots=True)
class _Queue:
    """Writes of one kind of hurry. One transaction at a time: what comes meanwhile makes up the next."""

    least: int  # so many need not linger
    waiting: deque[tuple[Entry, asyncio.Future[bool]]] = field(default_factory=deque)
    busy: bool = False


class Writer:
    """Lives on one event loop; the SQL runs in its own threads."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._loop = loop
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="completar-writer")
        self._urgent = _Queue(least=1)
        self._patient = _Queue(least=GROUP_LEAST)
        self._lingering: asyncio.TimerHandle | None = None
        self._closing = threading.Event()

    def write(self, entry: Entry, *, urgent: bool) -> asyncio.Future[bool]:
        """Store an entry. The future's result: the claim still held (and, with `settle`, the move was made).

        OverBudget is set when a budget refuses the call it begins; all else of the entry is stored.
        While the database is away it is tried again and again; Closing is set when the writer is closed first.
        """
        future: asyncio.Future[bool] = self._loop.create_future()
        queue = self._urgent if urgent else self._patient
        queue.waiting.append((entry, future))
        if len(queue.waiting) >= queue.least:
            self._send(queue)
        elif self._lingering is None:
            self._lingering = self._loop.call_later(LINGER_S, self._lingered)
        return future

    def close(self) -> None:
        """Give up writes that the database does not take; waits for those it is taking."""
        self._closing.set()
        self._pool.shutdown(wait=True)

    def _lingered(self) -> None:
        self._lingering = None
        self._send(self._patient)

    def _send(self, queue: _Queue) -> None:
        """Hand what waits to this queue's thread; while that is busy, `_done` comes back here."""
        if queue.busy or not queue.waiting:
            return
        group = [queue.waiting.popleft() for _ in range(min(len(queue.waiting), GROUP_MAX))]
        try:
            self._pool.submit(self._run, queue, group)
        except RuntimeError:  # closed while they waited
            for _, future in group:
                if not future.cancelled():
                    future.set_exception(Closing("the writer is closed"))
            self._send(queue)
        else:
            queue.busy = True

    def _run(self, queue: _Queue, group: Group) -> None:
        results = self._store([entry for entry, _ in group])
        self._loop.call_soon_threadsafe(self._done, queue, group, results)

    def _done(self, queue: _Queue, group: Group, results: Sequence[bool | Exception]) -> None:
        queue.busy = False
        if len(queue.waiting) >= queue.least or self._lingering is None:
            self._send(queue)
        self._tell(list(zip(group, results, strict=True)))

    def _tell(self, outcomes: list[tuple[tuple[Entry, asyncio.Future[bool]], bool | Exception]]) -> None:
        """Wake the jobs a few at a time: two hundred that go on at once would hold up everything else on the loop."""
        for (_, future), result in outcomes[:WOKEN]:
            if future.cancelled():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if len(outcomes) > WOKEN:
            self._loop.call_soon(self._tell, outcomes[WOKEN:])

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


def store(conn: sa.Connection, entries: Sequence[Entry]) -> list[bool | Exception]:
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
    calls: list[tuple[str, AttemptRow]] = []  # by the key that pays
    closed: list[tuple[str, AttemptRow]] = []
    for entry in entries:
        ours = entry.job_id in held
        begun = [row for row in entry.begin if ours or row.state is AttemptState.SKIPPED]
        over = entry.close if ours or entry.settle is None else [_superseded(row) for row in entry.close]
        begin += begun
        close += over
        if entry.budget_key is not None:
            calls += [(entry.budget_key, row) for row in begun if row.state is AttemptState.SENT]
            closed += [(entry.budget_key, row) for row in over]
    before = attempts.recorded(conn, [row for _, row in closed]) if closed else {}
    attempts.close(conn, close)
    refused = _booked(conn, before, closed, calls) if closed or calls else {}
    attempts.begin(conn, [row for row in begin if row.id not in refused])
    return [_outcome(entry, entry.job_id in held, refused) for entry in entries]


def _booked(
    conn: sa.Connection,
    before: Mapping[str, tuple[AttemptState, int]],
    closed: Sequence[tuple[str, AttemptRow]],
    calls: Sequence[tuple[str, AttemptRow]],
) -> dict[str, Failure]:
    """Charge the keys for calls that are over and hold for those to be made. Of these the refused ones, by id."""
    paid = [(key_id, settled(*before[row.id], row)) for key_id, row in closed if row.id in before]
    wanted = [(key_id, row.held_nano or 0) for key_id, row in calls]
    found = budgets.book(conn, paid, wanted)
    return {row.id: why for (_, row), why in zip(calls, found, strict=True) if why is not None}


def _outcome(entry: Entry, held: bool, refused: Mapping[str, Failure]) -> bool | Exception:
    if refused:
        for row in entry.begin:
            if row.id in refused:
                return OverBudget(refused[row.id])
    return held


def _superseded(row: AttemptRow) -> AttemptRow:
    if row.state is not AttemptState.ANSWERED:
        return row
    reason = "the answer came after the claim had passed on; it was paid for and is not the result"
    return replace(row, state=AttemptState.SUPERSEDED, reason=reason)
