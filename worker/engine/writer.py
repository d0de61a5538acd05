"""Group commit: what many jobs have to say to the database goes in one transaction.

An urgent write (somebody waits for the job) leaves in the loop's next turn, or as soon as the database thread of its
kind is free, alone or with all that waited meanwhile: the members of a panel are marked in one transaction, for each of
them writes in the same turn. A batch line's write lets others gather first, for LINGER_S at most: a transaction costs
about the same for one job as for twenty, and at 1,300 jobs a second the transactions cost more than the calls.

While the database is away, writes are tried again for HOLD_S; then those worth something later go to the spool.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from worker import clock, events
from worker.domain.answer import Failure
from worker.domain.budget import Settled, maybe_billed, settled
from worker.domain.job import AttemptRow
from worker.domain.state import AttemptState
from worker.engine.entry import Entry
from worker.engine.spool import Spool
from worker.store import attempts, budgets, claims, orphans, settling
from worker.store.database import Database, Unavailable

GROUP_MAX = 600  # the driver waits for the interpreter after each statement: many share those waits
GROUP_CHARS = 8_000_000  # of answers; they are put together, escaped and sent as one text
GROUP_LEAST = 100  # so many need not linger
LINGER_S = 0.01
WOKEN = 10
HOLD_S = 3.0
HURRY_S = 0.5  # long enough for a stale connection to be made anew
THREADS = 2  # one for those somebody waits for, one for the batch lane
_RETRY_S = (0.1, 0.2, 0.5, 1.0)
_OPEN: Final = frozenset({AttemptState.SENT, AttemptState.LOST})


class OverBudget(Exception):
    """The key's budget has no room for the call: it is not marked and must not be made. `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Closing(Exception):
    """The writer is closed and the database is away: the write is not on record."""


class Spooled(Closing):
    """The database is away: the write is safe on disk, and is made when the database is back."""


Group = list[tuple[Entry, "asyncio.Future[bool]"]]
Told = list[tuple[tuple[Entry, "asyncio.Future[bool]"], bool | Exception]]


@dataclass(slots=True)
class _Queue:
    """Writes of one kind of hurry. One transaction at a time: what comes meanwhile makes up the next."""

    least: int  # so many need not linger
    waiting: deque[tuple[Entry, asyncio.Future[bool]]] = field(default_factory=deque)
    busy: bool = False

    def group(self) -> Group:
        """What the next transaction stores: the oldest, not too many and not too much."""
        group: Group = []
        size = 0
        while self.waiting and len(group) < GROUP_MAX and size < GROUP_CHARS:
            group.append(self.waiting.popleft())
            size += group[-1][0].size
        return group


class Writer:
    """Lives on one event loop; the SQL runs in its own threads."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop, spool: Spool | None = None) -> None:
        """Without a spool writes wait in memory for as long as the database is away."""
        self._database = database
        self._spool = spool
        self._hurried = False
        self._away_since_s: float | None = None
        self._spooler = ThreadPoolExecutor(1, thread_name_prefix="completar-spool")
        self._loop = loop
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="completar-writer")
        self._urgent = _Queue(least=1)
        self._patient = _Queue(least=GROUP_LEAST)
        self._lingering: asyncio.TimerHandle | None = None
        self._closing = threading.Event()

    def write(self, entry: Entry, *, urgent: bool) -> asyncio.Future[bool]:
        """Store an entry. The future's result: the claim still held (and, with `settle`, the move was made).

        OverBudget is set when a budget refuses the call it begins; all else of the entry is stored.
        While the database is away it is tried again and again; Spooled is set when it went to disk instead, Closing
        when the writer was closed first.
        """
        future: asyncio.Future[bool] = self._loop.create_future()
        if self._spooling and not entry.is_mark:
            self._divert([(entry, future)])
            return future
        queue = self._urgent if urgent else self._patient
        queue.waiting.append((entry, future))
        if urgent:
            if len(queue.waiting) == 1 and not queue.busy:
                self._loop.call_soon(self._send, queue)
        elif len(queue.waiting) >= queue.least:
            self._send(queue)
        elif self._lingering is None:
            self._lingering = self._loop.call_later(LINGER_S, self._lingered)
        return future

    def hurry(self) -> None:
        """The process is about to end: little is held in memory while the database is away."""
        self._hurried = True

    def returned(self) -> None:
        """The database is back, as somebody else found out."""
        self._away_since_s = None

    def close(self) -> None:
        """Spool what the database does not take; waits for what it is taking. Nothing may be written meanwhile."""
        self._closing.set()
        self._pool.shutdown(wait=True)
        for queue in (self._urgent, self._patient):
            while queue.waiting:
                group = queue.group()
                results = self._store([entry for entry, _ in group])
                with suppress(RuntimeError):  # the loop is closed: nobody waits for them any more
                    self._loop.call_soon_threadsafe(self._tell, list(zip(group, results, strict=True)))
        self._spooler.shutdown(wait=True)

    def _lingered(self) -> None:
        self._lingering = None
        self._send(self._patient)

    def _send(self, queue: _Queue) -> None:
        """Hand what waits to this queue's thread; while that is busy, `_done` comes back here."""
        if queue.busy or not queue.waiting:
            return
        group = queue.group()
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
        futures = {id(entry): future for entry, future in group}

        def kept(entries: Sequence[Entry]) -> None:
            """Told at once: what waits on for the database, beside them in the group, may wait for long."""
            told: Told = [((entry, futures[id(entry)]), Spooled("on disk")) for entry in entries]
            self._loop.call_soon_threadsafe(self._tell, told)

        results = self._store([entry for entry, _ in group], kept=kept)
        self._loop.call_soon_threadsafe(self._done, queue, group, results)

    def _done(self, queue: _Queue, group: Group, results: Sequence[bool | Exception]) -> None:
        queue.busy = False
        if len(queue.waiting) >= queue.least or self._lingering is None:
            self._send(queue)
        self._tell(list(zip(group, results, strict=True)))

    def _tell(self, outcomes: Told) -> None:
        """Wake the jobs a few at a time: two hundred that go on at once would hold up everything else on the loop."""
        for (_, future), result in outcomes[:WOKEN]:
            if future.done():  # cancelled, or told before
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if len(outcomes) > WOKEN:
            self._loop.call_soon(self._tell, outcomes[WOKEN:])

    def _store(
        self, entries: Sequence[Entry], *, again: bool = False, kept: Callable[[Sequence[Entry]], None] | None = None
    ) -> list[bool | Exception]:
        """`again`: it is not known whether an earlier try was committed. `kept` is called with what went to disk."""
        tries = 0
        while True:
            # In a transaction, though marks are one statement: what waits for a lock when its worker dies is rolled
            # back then, for nobody is left to commit it, and no call is on record that was never made.
            try:
                with self._database.write() as conn:
                    stored = store(conn, entries, again=again)
            except Unavailable as exc:
                again = True
                if self._away_since_s is None:
                    self._away_since_s = clock.monotonic_s()
                if tries % 20 == 0:
                    events.emit("writer.waiting", level="warning", entries=len(entries), reason=str(exc))
                closing = self._closing.wait(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
                tries += 1
                if (closing and tries > 1) or (self._hurried and self._held_long):
                    return self._kept(entries, exc)
                if self._spooling:
                    self._loop.call_soon_threadsafe(self._divert_waiting)
                    worth = [entry for entry in entries if not entry.is_mark]
                    marks = [entry for entry in entries if entry.is_mark]
                    if worth and self._keep(worth):
                        if kept is not None:
                            kept(worth)
                        done = iter(self._store(marks, again=True) if marks else ())
                        return [next(done) if entry.is_mark else Spooled(str(exc)) for entry in entries]
            except Exception as exc:  # noqa: BLE001 - one bad row must not take the others with it
                if len(entries) == 1:
                    events.emit("writer.refused", level="error", job_id=entries[0].job_id, error=type(exc).__name__)
                    return [exc]
                half = len(entries) // 2
                return [
                    *self._store(entries[:half], again=again, kept=kept),
                    *self._store(entries[half:], again=again, kept=kept),
                ]
            else:
                self._away_since_s = None
                return stored

    # -- while the database is away ------------------------------------------------------------------------------

    @property
    def _held_long(self) -> bool:
        since_s = self._away_since_s
        return since_s is not None and clock.monotonic_s() - since_s >= (HURRY_S if self._hurried else HOLD_S)

    @property
    def _spooling(self) -> bool:
        return self._spool is not None and self._held_long

    def _divert_waiting(self) -> None:
        """On the loop: what queued up behind the write that found the database away need not wait for it."""
        for queue in (self._urgent, self._patient):
            worth = [one for one in queue.waiting if not one[0].is_mark]
            if worth and self._spooling:
                queue.waiting = deque(one for one in queue.waiting if one[0].is_mark)
                self._divert(worth)

    def _divert(self, group: Group) -> None:
        self._spooler.submit(self._run_diverted, group)

    def _run_diverted(self, group: Group) -> None:
        entries = [entry for entry, _ in group]
        kept = self._keep(entries)
        results = [Spooled("on disk")] * len(group) if kept else self._store(entries, again=True)
        self._loop.call_soon_threadsafe(self._tell, list(zip(group, results, strict=True)))

    def _kept(self, entries: Sequence[Entry], exc: Unavailable) -> list[bool | Exception]:
        """At the end of the process: to disk, calls that were not made aside."""
        worth = [kept for entry in entries if (kept := entry.without_mark()) is not None]
        safe = not worth or self._keep(worth)
        return [Spooled(str(exc)) if safe and not entry.is_mark else Closing(str(exc)) for entry in entries]

    def _keep(self, entries: Sequence[Entry]) -> bool:
        if self._spool is None:
            return False
        try:
            self._spool.keep(entries)
        except OSError as exc:
            events.emit("spool.failed", level="error", entries=len(entries), error=str(exc)[:200])
            return False
        events.emit("spool.kept", level="warning", entries=len(entries))
        return True


def store(conn: sa.Connection, entries: Sequence[Entry], *, again: bool = False) -> list[bool | Exception]:
    """One transaction's worth: moves first, so that what is stored of a call says whether its answer counted.

    again  an earlier try may have been committed before the connection broke: what is on record is left as it is
    """
    if _at_odds(entries):
        return [outcome for entry in entries for outcome in store(conn, [entry], again=again)]
    held: set[str] = set()
    settles = [entry.settle for entry in entries if entry.settle is not None]
    if settles:
        held |= settling.settle(conn, settles)
    plain: list[Entry] = []
    rest: list[Entry] = []
    for entry in entries:
        (plain if entry.is_plain_mark and not again else rest).append(entry)
    if plain:
        held |= attempts.mark(conn, [row for entry in plain for row in entry.begin])
    marks = [(entry.job_id, entry.claim_id) for entry in rest if entry.settle is None and entry.begin]
    if marks:
        held |= claims.still_ours(conn, marks)
    adopted = [move.job_id for move in settles if move.job_id not in held and settling.adopt(conn, move)]
    held.update(adopted)
    if again:
        rest, on_record = _unrecorded(conn, rest)
        held |= on_record
    begin: list[AttemptRow] = []
    close: list[AttemptRow] = []
    calls: list[tuple[str, AttemptRow]] = []  # by the key that pays
    closed: list[tuple[str, AttemptRow]] = []
    faults: list[Entry] = []
    for entry in rest:
        ours = entry.job_id in held
        begun = [row for row in entry.begin if ours or row.state is AttemptState.SKIPPED]
        over = entry.close if ours or entry.settle is None else [_superseded(row) for row in entry.close]
        begin += begun
        close += over
        if ours and entry.is_fault:
            faults.append(entry)
        if entry.budget_key is not None:
            calls += [(entry.budget_key, row) for row in begun if row.state is AttemptState.SENT]
            closed += [(entry.budget_key, row) for row in over]
    before = attempts.recorded(conn, [row for _, row in closed]) if closed else {}
    attempts.close(conn, close)
    lost = _forgotten(conn, faults)
    refused = _booked(conn, before, closed, calls, lost) if closed or calls or lost else {}
    attempts.begin(conn, [row for row in begin if row.id not in refused])
    for job_id in adopted:
        _recounted(conn, job_id)
    return [_outcome(entry, entry.job_id in held, refused) for entry in entries]


def _at_odds(entries: Sequence[Entry]) -> bool:
    """Whether entries of one job must not be taken for one: two claims of it, two ends, or an end and a new call.

    The members of a panel write for one job and one claim: their calls begin and end in a group like any others.
    """
    claims: dict[str, str] = {}
    ended: set[str] = set()
    for entry in entries:
        if claims.setdefault(entry.job_id, entry.claim_id) != entry.claim_id:
            return True
        if entry.settle is not None:
            if entry.job_id in ended:
                return True
            ended.add(entry.job_id)
    return any(entry.settle is None and entry.begin and entry.job_id in ended for entry in entries)


def _unrecorded(conn: sa.Connection, entries: Sequence[Entry]) -> tuple[list[Entry], set[str]]:
    """The entries without what is on record, and the jobs whose move an earlier try has made."""
    rows = [row for entry in entries for row in (*entry.begin, *entry.close)]
    found = {call_id: state for call_id, (state, _) in attempts.recorded(conn, rows).items()} if rows else {}
    fresh = [
        replace(
            entry,
            begin=[row for row in entry.begin if row.id not in found],
            close=[row for row in entry.close if found.get(row.id) in _OPEN],
        )
        for entry in entries
    ]
    made = {
        entry.job_id
        for entry in entries
        if entry.settle is not None and entry.close and all(found.get(row.id) is row.state for row in entry.close)
    }
    return fresh, made


def _forgotten(conn: sa.Connection, faults: Sequence[Entry]) -> list[tuple[str, int]]:
    """Close what jobs leave open that end by a fault of ours. What was held for it, by the key that pays."""
    lost: list[tuple[str, int]] = []
    for entry in faults:
        held_nano = orphans.forget(conn, entry.job_id, entry.claim_id)
        if entry.budget_key is not None:
            lost.append((entry.budget_key, held_nano))
    return lost


def _recounted(conn: sa.Connection, job_id: str) -> None:
    """The sums of a job that an answer thought lost has ended: the call's cost is known after all."""
    calls = attempts.of_jobs(conn, [job_id])[job_id]
    known = all(call.row.cost_nano is not None or not maybe_billed(call.row) for call in calls)
    orphans.recount(conn, job_id, cost_complete=known)


def _booked(
    conn: sa.Connection,
    before: Mapping[str, tuple[AttemptState, int]],
    closed: Sequence[tuple[str, AttemptRow]],
    calls: Sequence[tuple[str, AttemptRow]],
    lost: Sequence[tuple[str, int]],
) -> dict[str, Failure]:
    """Charge the keys for calls that are over (of lost ones, the hold) and hold for those to be made.

    Of these the refused ones, by id.
    """
    paid = [(key_id, settled(*before[row.id], row)) for key_id, row in closed if row.id in before]
    paid += [(key_id, Settled(held, held)) for key_id, held in lost]
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
