"""One asyncio loop per worker process: claims jobs of its lanes, runs a coroutine for each, bounded by places.

Rows are the queue. A hint (a Celery message, or a call in the embedded mode) only says where to look now; without any,
every lane is looked at each `poll_s`. Each lane has a standing refill loop: while there are due rows it keeps its
places full, with a few claimed jobs in hand so that a place never waits for the database.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from worker import clock, events
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind, Lane
from worker.domain.fairness import in_turns
from worker.domain.job import Claimed, Ending, Return
from worker.domain.state import JobStatus
from worker.engine.claimer import Claimer
from worker.engine.control import Control
from worker.engine.entry import Entry
from worker.engine.governor import TICK_S, Governor
from worker.engine.held import Held
from worker.engine.lane import BLOCK, LaneState, project_of
from worker.engine.loop import awaited, loud, new_loop
from worker.engine.spool import Spool
from worker.engine.writer import Closing, Spooled, Writer
from worker.store.database import Database, Unavailable
from worker.store.settling import Settle

BURST: Final = 10  # started before the loop gets a turn for other things
AWAY_S: Final = 1.0  # between claims while the database is away
CROWD: Final = 16  # interactive jobs at once; beyond that they are claimed in blocks and their writes gather
SEEN: Final = 20_000  # ids of jobs that ran here: a hint that comes after them is stale
GATHER_S: Final = 0.005
HANG_UP_S: Final = 10.0  # a cancelled job's open call may still answer this long: what it cost is then on record

Run = Callable[[Held, Control], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether the engine lives: `turns` of its loop so far, `whole`: nothing of it has ended by itself.

    idle  lanes with nothing in hand -> jobs they have taken so far
    """

    turns: int
    whole: bool
    idle: Mapping[Lane, int]


class Engine:
    """Made, started and stopped from any thread; everything else runs on its loop."""

    def __init__(
        self,
        database: Database,
        *,
        lanes: Iterable[Lane],
        slots: int,
        poll_s: float,
        worker_id: Callable[[], str],
        spool: Spool | None = None,
        fresh: Callable[[], bool] = lambda: True,
    ) -> None:
        """`worker_id` is asked at each claim: it changes when the worker was declared dead and registered anew.

        While it is not `fresh` its claims may pass on at any moment: it claims nothing, and no call may begin.
        """
        self.fresh: Final = fresh
        self._database = database
        self._lane_names = tuple(lanes)
        self._slots = slots
        self._poll_s = poll_s
        self._claimer = Claimer(database, worker_id)
        self._spool = spool
        self._ready = threading.Event()
        self._draining = False
        self._thread: threading.Thread | None = None
        self._broken: Exception | None = None  # why the loop never began
        self._run_job: Run | None = None
        self._close_run: Callable[[], Awaitable[None]] | None = None
        self.loop: asyncio.AbstractEventLoop
        self.writer: Writer
        self._lanes: dict[Lane, LaneState] = {}
        self._seen: dict[str, None] = {}
        self._standing: list[asyncio.Task[None]] = []
        self._turns = 0
        self._suspect = False  # one is being claimed or run

    # -- from any thread ----------------------------------------------------------------------------------------

    def start(self, open_run: Callable[[Engine], Awaitable[tuple[Run, Callable[[], Awaitable[None]]]]]) -> None:
        """Start the loop's thread. `open_run` makes, on the loop, what runs a job and what closes it at the end."""
        self._thread = threading.Thread(target=self._main, args=(open_run,), name="completar-engine", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._broken is not None:
            raise self._broken

    def hint(self, ids: Sequence[str]) -> None:
        """These interactive jobs are worth a claim now. Dropped without harm when there is no room."""
        self._soon(self._hinted, list(ids))

    def wake(self, lane: Lane) -> None:
        """This lane has due rows."""
        self._soon(self._woken, lane)

    def cancel(self, ids: Sequence[str]) -> None:
        """Somebody asked these jobs, which run here, to stop."""
        self._soon(self._cancelled, list(ids))

    def adopt(self, held: Held) -> None:
        """A job that was claimed for this worker elsewhere than in its loop; given back where it cannot be run."""
        self._soon(self._adopted, held)

    def on_loop(self, call: Callable[..., None], *args: Any) -> None:
        """Have this done on the loop's thread, after what was asked for before; dropped where the loop has ended."""
        self._soon(call, *args)

    def report(self) -> dict[str, Any]:
        """Calls in flight and places by lane, as of about now."""
        return {
            "in_flight": {name.value: len(state.running) for name, state in self._lanes.items()},
            "places": {name.value: state.governor.places for name, state in self._lanes.items()},
        }

    def pulse(self) -> Pulse:
        """Of a started engine."""
        alive = self._thread is not None and self._thread.is_alive()
        return Pulse(
            self._turns,
            alive and not any(task.done() for task in self._standing),
            {lane: state.taken for lane, state in self._lanes.items() if not state.running and not state.buffer},
        )

    def drain(self, seconds: float) -> None:
        """Stop: no more claims, unsent jobs go back at once, open calls get `seconds` to end, the rest goes back."""
        if self._thread is None or not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._drain(seconds), self.loop).result()
        self._soon(self.loop.stop)
        self._thread.join(5.0)
        self.writer.close()
        self._claimer.close()

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: the rows are still there for the next worker
            return

    # -- on the loop --------------------------------------------------------------------------------------------

    def _main(self, open_run: Callable[[Engine], Awaitable[tuple[Run, Callable[[], Awaitable[None]]]]]) -> None:
        self.loop = new_loop()
        asyncio.set_event_loop(self.loop)
        self.writer = Writer(self._database, self.loop, self._spool)
        for lane in self._lane_names:
            least = self._slots if lane is Lane.INTERACTIVE else min(50, self._slots)
            self._lanes[lane] = LaneState(lane, Governor(self._slots, least=least))
        try:
            self._run_job, self._close_run = self.loop.run_until_complete(awaited(open_run(self)))
        except Exception as exc:  # noqa: BLE001 - raised where the engine was started
            self._broken = exc
            self._ready.set()
            return
        keep = [self.loop.create_task(self._serve(state)) for state in self._lanes.values()]
        keep += [self.loop.create_task(self._poll()), self.loop.create_task(self._govern())]
        for task in keep:
            task.add_done_callback(loud)
        self._standing = keep
        self._ready.set()
        try:
            self.loop.run_forever()
        finally:
            for task in keep:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*keep, return_exceptions=True))
            self.loop.close()

    async def _serve(self, state: LaneState) -> None:
        """The standing refill loop of one lane."""
        while True:
            await state.wake.wait()
            state.wake.clear()
            self._ask_for_more(state)  # before this block is started: a claim takes longer than starting its jobs
            started = 0
            while state.buffer and state.free > 0 and not self._draining:
                self._start(state, state.buffer.popleft())
                started += 1
                if started % BURST == 0:
                    await asyncio.sleep(0)
            self._ask_for_more(state)

    def _ask_for_more(self, state: LaneState) -> None:
        if not self._draining and not state.claiming and self._wanted(state) and self.fresh():
            state.claiming = True
            self.loop.create_task(self._claim(state)).add_done_callback(loud)

    def _wanted(self, state: LaneState) -> bool:
        if state.hinted:
            return state.free > len(state.buffer)
        return state.due and len(state.buffer) < min(BLOCK // 2, state.free + (state.ahead + 1) // 2)

    async def _claim(self, state: LaneState) -> None:
        """Claim hinted jobs by id, else a block of whatever is due."""
        try:
            free = max(1, state.free)
            if state.hinted:
                ids = [state.hinted.popleft() for _ in range(min(len(state.hinted), free, BLOCK))]
                held = await self._claimer.ids(ids)
            else:
                state.due = False
                room = min(BLOCK, free + state.ahead)
                held = await self._claimer.block(state.lane, room, state.turn)
                state.due = state.turn.goes_on(len(held), room) or state.due
        except Unavailable as exc:
            events.emit("claim.waiting", level="warning", lane=state.lane.value, reason=str(exc))
            self.loop.call_later(AWAY_S, self._woken, state.lane)
            return
        finally:
            state.claiming = False
        state.buffer = deque(in_turns([*state.buffer, *held], project_of))  # who comes late does not wait for a block
        state.taken += len(held)
        if self._draining:
            self._give_back(state)
        state.wake.set()

    async def _look_for_suspect(self) -> None:
        """One suspect at a time, whatever else runs: if the process dies, it is known who was tried."""
        if self._suspect or self._draining:
            return
        self._suspect = True
        held = None
        try:
            held = await self._claimer.suspect(self._lane_names)
        except Unavailable:  # said by the lanes
            pass
        finally:
            self._suspect = held is not None
        if held is not None:
            self._start_suspect(held)

    def _start_suspect(self, held: Held) -> None:
        state = self._lanes[held.job.lane]
        if self._draining:
            state.buffer.append(held)
            self._give_back(state)
            return
        events.emit("suspect.started", level="warning", job_id=held.job.id, deaths=held.job.deaths)
        self._start(state, held)  # in a place of its own: a lane that is always full would never come to it

    def _start(self, state: LaneState, held: Held) -> None:
        control = Control()
        state.running[held.job.id] = control
        state.started += 1
        if state.lane is Lane.INTERACTIVE:
            self._seen[held.job.id] = None
            if len(self._seen) > SEEN:
                del self._seen[next(iter(self._seen))]
        control.task = self.loop.create_task(self._run(state, held, control))

    async def _run(self, state: LaneState, held: Held, control: Control) -> None:
        assert self._run_job is not None
        try:
            await self._run_job(held, control)
        except Spooled:
            events.emit("job.spooled", level="warning", job_id=held.job.id)
        except Closing:
            events.emit("job.unwritten", level="error", job_id=held.job.id)
        except Exception as exc:  # noqa: BLE001 - one job's fault must not end the lane
            events.emit("job.broken", level="error", job_id=held.job.id, **events.fault(exc))
            await self._give_up(held.job, exc)
        finally:
            if state.running.get(held.job.id) is control:  # not so where the claim was lost and came back to us
                del state.running[held.job.id]
            if held.job.suspect:
                self._suspect = False
                self.loop.create_task(self._look_for_suspect()).add_done_callback(loud)
            if state.buffer or state.due or state.hinted:
                state.wake.set()

    async def _give_up(self, job: Claimed, exc: Exception) -> None:
        """A fault of ours ends the job visibly: this worker lives, so no sweep would ever take its claim back."""
        failure = Failure(FailureKind.INTERNAL, f"a fault of the worker ({type(exc).__name__}); its log tells more")
        move = Settle(job.id, job.claim_id, Ending(JobStatus.FAILED, error=failure), cost_complete=False)
        try:
            await self.writer.write(Entry(job.id, job.claim_id, settle=move), urgent=self.urgent(job.lane))
        except Spooled:
            events.emit("job.spooled", level="warning", job_id=job.id)
        except Exception as also:  # noqa: BLE001 - said; the next start of a worker finds the claim
            events.emit("job.unwritten", level="error", job_id=job.id, error=type(also).__name__)

    def _hinted(self, ids: list[str]) -> None:
        state = self._lanes.get(Lane.INTERACTIVE)
        if state is None or self._draining:
            return
        ids = [job_id for job_id in ids if job_id not in self._seen]
        if not ids:
            return
        if len(state.running) <= CROWD:
            state.hinted.extend(ids)
            state.wake.set()
            return
        state.due = True  # messages come one by one; the rows they speak of are there all at once
        if not state.gathering:
            state.gathering = True
            self.loop.call_later(GATHER_S, self._gathered, state)

    def _gathered(self, state: LaneState) -> None:
        state.gathering = False
        state.wake.set()

    def _woken(self, lane: Lane) -> None:
        state = self._lanes.get(lane)
        if state is not None:
            state.due = True
            state.wake.set()

    def _adopted(self, held: Held) -> None:
        if held.job.suspect and not self._suspect:
            self._suspect = True
            self._start_suspect(held)
            return
        state = self._lanes[held.job.lane]
        state.buffer.appendleft(held)
        if self._draining:
            self._give_back(state)
        elif held.job.suspect:  # one at a time
            self._give_back(state, {held.job.id})
        state.wake.set()

    def urgent(self, lane: Lane) -> bool:
        """Whether a write of this lane should not wait for others. In a crowd gathering serves everybody better."""
        return lane is Lane.INTERACTIVE and len(self._lanes[lane].running) <= CROWD

    def wake_in(self, lane: Lane, seconds: float) -> None:
        """A job of this lane was parked here: look again when it is due. On the loop only."""
        self.loop.call_later(seconds + 0.002, self._woken, lane)

    def _cancelled(self, ids: list[str]) -> None:
        for state in self._lanes.values():
            if state.buffer:
                self._give_back(state, set(ids))
            for job_id in ids:
                control = state.running.get(job_id)
                if control is not None and control.why != "cancelled":
                    control.stop("cancelled")
                    self.loop.call_later(HANG_UP_S, self._hang_up, state, job_id, control)

    def _hang_up(self, state: LaneState, job_id: str, control: Control) -> None:
        if state.running.get(job_id) is control:
            control.hang_up()

    async def _poll(self) -> None:
        while True:
            for lane in self._lanes:
                self._woken(lane)
            await self._look_for_suspect()
            await asyncio.sleep(self._poll_s * (0.9 + 0.2 * clock.draw()))

    async def _govern(self) -> None:
        while True:
            before = self.loop.time()
            await asyncio.sleep(TICK_S)
            self._turns += 1
            lag = self.loop.time() - before - TICK_S
            hurried = bool(self._lanes[Lane.INTERACTIVE].running) if Lane.INTERACTIVE in self._lanes else False
            for lane, state in self._lanes.items():
                if lane is Lane.BATCH:
                    state.flow += 0.1 * (state.started - state.flow)
                    state.started = 0
                    freed = state.governor.places
                    state.governor.saw(lag, hurried=hurried)
                    if state.governor.places > freed:
                        state.wake.set()

    # -- the end ------------------------------------------------------------------------------------------------

    async def _drain(self, seconds: float) -> None:
        self._draining = True
        self.writer.hurry()
        for state in self._lanes.values():
            self._give_back(state)
            for control in list(state.running.values()):
                control.stop("draining")
        deadline = self.loop.time() + seconds
        while self._busy() and self.loop.time() < deadline:  # noqa: ASYNC110 - many jobs have no one event
            await asyncio.sleep(0.02)
        open_calls = [control for state in self._lanes.values() for control in state.running.values()]
        for control in open_calls:
            control.hang_up()
        tasks = [control.task for control in open_calls if control.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        if self._close_run is not None:
            await self._close_run()

    def _busy(self) -> bool:
        return any(state.running or state.claiming or state.buffer for state in self._lanes.values())

    def _give_back(self, state: LaneState, only: Container[str] | None = None) -> None:
        """Jobs in hand that have not started (all, or these) go back as they came."""
        in_hand = list(state.buffer)
        state.buffer.clear()
        for held in in_hand:
            job = held.job
            if only is not None and job.id not in only:
                state.buffer.append(held)
                continue
            entry = Entry(job.id, job.claim_id, settle=Settle(job.id, job.claim_id, Return()))
            control = Control()
            state.running[job.id] = control
            self.writer.write(entry, urgent=True).add_done_callback(partial(_given_back, state, job.id))


def _given_back(state: LaneState, job_id: str, write: asyncio.Future[bool]) -> None:
    state.running.pop(job_id, None)
    failed = None if write.cancelled() else write.exception()
    if failed is not None and not isinstance(failed, Spooled):  # the sweep of another worker takes it back
        events.emit("job.not_given_back", level="warning", job_id=job_id)
