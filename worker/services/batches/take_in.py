"""Make jobs of the lines of a batch's file, page by page. A page is stored with the cursor that says so: whoever goes
on after a crash begins with the line after the last that is a job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from worker import clock
from worker.domain.batch import BatchStatus
from worker.domain.delivery import notify_of
from worker.domain.file import FileView
from worker.domain.job import HIGHEST, LOWEST, NewJob
from worker.providers.catalog import UnknownModel
from worker.services import listeners
from worker.services.batches import lines as reading
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.hurry import Hurry
from worker.services.batches.ledger import Ledger
from worker.services.batches.lines import BadLine, Line
from worker.services.batches.raw import Raw
from worker.services.batches.shared import placed
from worker.services.batches.source import lines_of
from worker.services.pricing import Unpriced
from worker.services.submit import JobRequest, weighed
from worker.store import batches, files, jobs, new_jobs, shared, tallies
from worker.store import lines as stored
from worker.store.tending import Tended

FIRST: Final = 200  # so that work begins at once
PAGE: Final = 500  # larger ones hardly cost less, and SQLite lets nobody else write meanwhile
PAGE_BYTES: Final = 1024 * 1024
AHEAD_S: Final = 5.0  # so much work of a batch waits as jobs
AHEAD: Final = 5_000  # lines at least, for nobody knows yet how fast they end
AHEAD_MOST: Final = 50_000
LOOK_S: Final = 0.2  # between two looks whether more are wanted
ROOM_S: Final = 0.2  # between two looks whether its bound of cost lets it go on

_Read = tuple[Line, int]  # a line, and its bytes
_Placed = tuple[Line, stored.Line]  # a line, and how it will be stored


def take_in(desk: Desk, batch: Tended) -> Turns:
    """Until every line is a job, or the batch is to rest. Raises Lost when it is no longer `in_progress`, or ours."""
    with desk.deps.database.read() as conn:
        file = files.input_of(conn, batch.input_file_id)
    ledger, hurry, lead = Ledger.of(desk, batch), Hurry(desk), _Lead(desk, batch.id)
    at = batch
    for page in _pages(desk, batch, file):
        places = placed(desk, batch, [line for line, _ in page])
        ready: list[_Placed] = []
        for (line, size), one in zip(page, places, strict=True):
            place = one
            if ledger is not None and one.shared is None:
                hold = _hold(desk, line, size)
                if not ledger.room_for(hold):
                    if ready:
                        at = _store(desk, at, ready)
                        ready = []
                    yield from _room(desk, at, ledger, hurry, hold)
                    at = _look(desk, batch.id)
                    if _must_rest(at):
                        return
                ledger.hold(hold)
                place = replace(one, hold_nano=hold)
            ready.append((line, place))
        at = _store(desk, at, ready)
        yield 0.0
        hurry.look(at)
        while not _must_rest(at) and lead.enough(at.taken - at.awaited):
            yield LOOK_S
            at = _look(desk, batch.id)
            hurry.look(at)
        if _must_rest(at):
            return


def _pages(desk: Desk, batch: Tended, file: FileView) -> Iterator[list[_Read]]:
    """The lines that are not taken yet, so many as are stored at once."""
    page: list[_Read] = []
    total, most = 0, PAGE if batch.taken else FIRST
    for raw in lines_of(desk.deps, batch, file):
        if raw[0] <= batch.taken_line:
            continue
        size = len(raw[1] or b"")
        page.append((_read(desk, batch, raw), size))
        total += size
        if len(page) >= most or total >= PAGE_BYTES:
            yield page
            page, total, most = [], 0, PAGE
    if page:
        yield page


def _read(desk: Desk, batch: Tended, raw: Raw) -> Line:
    try:
        return reading.read(raw, batch.endpoint, _any, desk.deps.settings.panels)
    except BadLine as exc:
        return reading.unread(raw, exc)


def _must_rest(at: Tended) -> bool:
    return at.paused or at.parked or at.remaining_s <= 0


def _hold(desk: Desk, line: Line, size: int) -> int:
    """What the line may cost: nothing where it is not asked, as where its name or price has gone since."""
    if line.unread is not None:
        return 0
    try:
        return reading.hold_nano(desk.deps.catalog, line, size)
    except (UnknownModel, Unpriced):
        return 0


def _room(desk: Desk, at: Tended, ledger: Ledger, hurry: Hurry, nano: int) -> Turns:
    """Until lines have ended that were cheaper than they might have been. When there is none left, the batch stops."""
    while not ledger.room_for(nano):
        if ledger.idle:
            with desk.deps.database.write() as conn:
                batches.overspent(conn, at.id, desk.owner)
            raise Lost
        yield ROOM_S
        at = _look(desk, at.id)
        if _must_rest(at):
            return
        hurry.look(at)
        ledger.catch_up()


def _store(desk: Desk, at: Tended, page: Sequence[_Placed]) -> Tended:
    """The batch after it. Raises Lost: then nothing of the page is stored."""
    own = [
        (line, _job(at, weighed(desk.deps, at.project_id, line.request), place.job_id))
        for line, place in page
        if place.shared is None
    ]
    sharing = [_job(at, line.request, place.job_id) for line, place in page if place.shared is not None]
    served = [(one.job_id, one.source_id) for _, one in page if one.shared == "cached" and one.source_id is not None]
    hears = [(job.id, line.request.webhook) for line, job in own if line.request.webhook is not None]
    last = page[-1][0].number
    n, twins = len(page), len(sharing) - len(served)
    with desk.deps.database.write() as conn:
        if not batches.took(
            conn, at.id, desk.owner, after=at.taken_line, line=last, n=n, twins=twins, cached=len(served)
        ):
            raise Lost
        if hears:
            listeners.subscribe(conn, listeners.vault_of(desk.deps), at.project_id, hears)
        if own:
            new_jobs.insert(conn, [job for _, job in own])
        for line, job in own:
            if line.unread is not None:
                jobs.refuse(conn, job.id, line.unread)
        if sharing:
            new_jobs.insert_inputs(conn, sharing)
        stored.insert(conn, at.id, [place for _, place in page])
        if served and not shared.serve(conn, at.id, served):
            raise Lost
    desk.wake()
    return _look(desk, at.id)


def _look(desk: Desk, batch_id: str) -> Tended:
    found = desk.look(batch_id)
    if found.status is not BatchStatus.IN_PROGRESS:
        raise Lost
    return found


class _Lead:
    """How many lines are to be jobs that have not ended: what ends within AHEAD_S, as fast as it went lately.

    More would not run sooner. They would make the table of due jobs larger and a cancel slower; and whoever takes them
    in takes time from the lines that run, and from other batches.
    """

    def __init__(self, desk: Desk, batch_id: str) -> None:
        self._desk = desk
        self._batch_id = batch_id
        self._seen: tuple[float, int] | None = None  # when, and how many had ended
        self._per_s = 0.0

    def enough(self, taken: int) -> bool:
        """`taken`: lines that are jobs; of those that wait for another one's answer there is none yet."""
        with self._desk.deps.database.read() as conn:
            ended = tallies.ended(conn, self._batch_id)
        now_s = clock.monotonic_s()
        if self._seen is None:
            self._seen = now_s, ended
        elif now_s - self._seen[0] >= 1.0:
            self._per_s = (ended - self._seen[1]) / (now_s - self._seen[0])
            self._seen = now_s, ended
        return taken - ended >= min(AHEAD_MOST, max(AHEAD, AHEAD_S * self._per_s))


def _any(_models: object) -> None:
    """Every name was judged before; one that has gone since fails its own line, and no other."""


def _job(batch: Tended, request: JobRequest, job_id: str) -> NewJob:
    """It ends with the window of its batch, or by a deadline of its own before that; its priority counts from there."""
    deadline_s = max(0.0, batch.remaining_s)
    return NewJob(
        id=job_id,
        project_id=batch.project_id,
        kind=request.kind,
        lane=request.lane,
        models=request.models,
        input=request.input,
        output_schema=request.output_schema,
        metadata=request.metadata,
        priority=max(LOWEST, min(HIGHEST, batch.priority + request.priority)),
        deadline_s=deadline_s if request.deadline_s is None else min(deadline_s, request.deadline_s),
        max_attempts=request.max_attempts,
        on_interruption=request.on_interruption,
        batch_id=batch.id,
        max_cost_nano=request.max_cost_nano,
        key_id=batch.key_id,
        notify=0 if request.webhook is None else notify_of(request.webhook.events),
    )
