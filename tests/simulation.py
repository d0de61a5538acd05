"""A whole fleet in one thread: the pure core under one seed, with a clock, workers, a bus and a store that are made up.

    python -m tests.simulation --seeds 10000
    python -m tests.simulation --seed 4711        # one again, the one that failed

What is real: the walk, the retry delays, the gate with its lines, breakers, rests, rates and budgets for asking again,
the watch over pauses, the fair shares, the state machine. What is made up obeys the rules that the store's own tests
prove: moves are guarded, a mark is committed before its call. Workers die and freeze, jobs kill them, calls are joined
by a second one, hints are lost, doubled and late, providers fail. An auditor looks at every step.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from tests.support.simulated_pauses import Connections, PauseRows
from tests.support.virtual_loop import VirtualLoop
from worker import clock, events
from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.failure import FailureKind, Lane, rule_for
from worker.domain.fairness import shares
from worker.domain.job import STARTS_MAX, SUSPECT_FROM, AttemptRow
from worker.domain.pause import scopes_over
from worker.domain.retry import IN_PLACE_S
from worker.domain.route import Key, Needs, Route, Target
from worker.domain.state import FINAL, MOVES, AttemptState, JobStatus
from worker.domain.walk import Ask, Closed, Park, Stop, Walk, always_open
from worker.limits import gate as gates
from worker.limits.gate import LINE_S, Gate, Rates, Size, Ticket
from worker.services import course as courses
from worker.services import pauses as watching
from worker.services.pauses import PauseWatch
from worker.store.attempts import Attempt

S, A, K = JobStatus, AttemptState, FailureKind
LEASE_S: Final = 15.0
HEALED_S: Final = 300.0  # from then on every provider answers, so every job must end
EVENTS_MAX: Final = 60_000
LOOK_S: Final = 2.0  # of a worker at the pauses
HEARD_S: Final = 3.0
NEEDS: Final = Needs(frozenset({"completion"}), 100)
# Waits that jitter does not carry over a route's `max_wait_s`: a rebuilt walk draws anew.
HINTS: Final = (None, 0.5, 3.0, 8.0, 40.0, 300.0)


class Broken(AssertionError):
    """The auditor saw what must not be."""


@dataclass
class Job:
    id: str
    project: str
    priority: int
    lane: Lane
    most: int
    fails_when_lost: bool
    run_at: float = 0.0
    deadline: float | None = None
    deadly: bool = False  # each call of it kills its worker
    status: JobStatus = S.QUEUED
    claim: int | None = None
    worker: str | None = None
    deaths: int = 0
    parked_for: str | None = None
    rows: list[tuple[AttemptRow, float, float]] = field(default_factory=list)  # with the times they were sent and ended
    ends: int = 0
    convicted: bool = False
    adopted: bool = False
    hedged: bool = False
    late: set[str] = field(default_factory=set)  # calls whose end was told when the claim had passed on

    def move(self, to: JobStatus) -> None:
        if to not in MOVES[self.status]:
            raise Broken(f"{self.id}: {self.status} -> {to}")
        self.status = to
        self.ends += to in FINAL
        self.parked_for = None
        if to not in {S.IN_PROGRESS, S.CANCELLING}:
            self.claim = self.worker = None


@dataclass
class Course:
    """One claim in a worker's memory."""

    job: Job
    claim: int
    walk: Walk
    open: dict[str, tuple[Ask, AttemptRow, Ticket | None]] = field(default_factory=dict)
    done: list[AttemptRow] = field(default_factory=list)
    skips: list[AttemptRow] = field(default_factory=list)


@dataclass
class Worker:
    id: str
    gate: Gate
    watch: PauseWatch | None = None
    heard: float = -1.0  # of the pauses
    suspect: Course | None = None
    alive: bool = True
    frozen_until: float = 0.0
    busy: int = 0
    floors: dict[tuple[str, str], float] = field(default_factory=dict)  # target and key -> not before
    calls: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))  # by account


class World:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.loop = VirtualLoop()
        self._events = 0
        self._ended: asyncio.Future[None] | None = None
        self.pauses = PauseRows(lambda: self.now, lambda: (job for job in self.jobs.values() if job.status is S.QUEUED))
        self.pauses.claim = self._take_parked
        self._numbers = count(1)
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.started: list[Worker] = []
        draw = self.random
        self.gated = draw.random() < 0.6  # without, a walk and its rows say the same to the letter
        self.places = draw.choice((1, 3, 10, 10, 60))
        self.loss = draw.choice((0.0, 0.3, 1.0))  # of hints
        targets = []
        for n in range(draw.randint(1, 3)):
            keys = tuple(Key(f"K{n}{k}", f"acc{draw.randint(0, 1)}", "secret") for k in range(draw.randint(0, 2)))
            targets.append(Target(f"p{n}", "m", f"P{n}", keys, window=draw.choice((None, None, 50, 1000))))
        hedge_after_s = draw.choice((None, 2.0, 8.0))
        self.route = Route("default", tuple(targets), max_wait_s=10.0, cold_start_s=60.0, hedge_after_s=hedge_after_s)
        self.rates = {t.provider: Rates(rpm=draw.choice((None, 30, 300))) for t in targets}
        kinds = [kind for kind in K if kind not in {K.BUDGET, K.DEADLINE, K.CANCELLED, K.INTERRUPTED}]
        self.moods = {
            t.name: (draw.choice((0.0, 0.2, 0.6, 1.0)), draw.sample(kinds, draw.randint(1, 4))) for t in targets
        }
        for n in range(draw.randint(3, 25) if self.places < 60 else draw.randint(60, 120)):
            self._submit(n)
        for _ in range(draw.randint(0, 6)):
            self.at(draw.uniform(0, 150), self._trouble)
        self.every(3.0, self._poll)
        self.every(5.0, self._sweep)

    # -- the clock -----------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.loop.time()

    def at(self, when: float, deed: Callable[[], None]) -> None:
        self.loop.call_at(when, self._do, deed)

    def after(self, seconds: float, deed: Callable[[], None]) -> None:
        self.at(self.now + seconds, deed)

    def every(self, seconds: float, deed: Callable[[], None]) -> None:
        def again() -> None:
            deed()
            self.after(seconds, again)

        self.after(seconds, again)

    def by(self, worker: Worker, seconds: float, deed: Callable[[], None]) -> None:
        """Something a worker does later: never when it has died, and not while it is frozen."""

        def due() -> None:
            if worker.alive and worker.frozen_until > self.now:
                self.at(worker.frozen_until, due)
            elif worker.alive:
                deed()

        self.after(seconds, due)

    def _do(self, deed: Callable[[], None]) -> None:
        if self._ended is None or self._ended.done():
            return
        self._events += 1
        try:
            deed()
            if self._all_ended():
                self._ended.set_result(None)
        except Exception as exc:  # noqa: BLE001 - raised by `run`
            self._ended.set_exception(exc)

    def _all_ended(self) -> bool:
        if all(job.status in FINAL for job in self.jobs.values()):
            self._audit_end()
            return True
        if self._events > EVENTS_MAX:
            stuck = [(job.id, job.status.value) for job in self.jobs.values() if job.status not in FINAL]
            raise Broken(f"after {self.now:.0f} s not ended: {stuck}")
        return False

    def run(self) -> None:
        """Until every job has ended. Raises Broken."""
        with ExitStack() as patches:
            for where, name, instead in (
                (clock, "monotonic_s", self.loop.time),
                (clock, "draw", self.random.random),
                (events, "emit", _say_nothing),
                (gates, "TICK_S", LOOK_S),
                (watching, "HEARD_S", HEARD_S),
                (watching, "YIELD_S", 2.5 * LOOK_S),
                (watching, "pauses", self.pauses),
                (watching, "parked", self.pauses),
                (watching, "attempts", self.pauses),
            ):
                patches.enter_context(patch.object(where, name, instead))
            patches.callback(self.loop.close)
            self.loop.run_until_complete(self._run())

    async def _run(self) -> None:
        self._ended = self.loop.create_future()
        for _ in range(3):
            self._start_worker()
        everybody = self.started
        try:
            await self._ended
        finally:
            for worker in everybody:
                await worker.gate.close()

    # -- intake, the bus, people ---------------------------------------------------------------------------------

    def _submit(self, n: int) -> None:
        draw = self.random
        job = Job(
            f"job_{n:03}",
            f"proj_{draw.randint(0, 2)}",
            draw.randint(0, 1),
            draw.choice(list(Lane)),
            draw.randint(1, 6),
            draw.random() < 0.2,
            deadly=draw.random() < 0.03,
        )

        def stored() -> None:
            job.run_at = self.now
            job.deadline = self.now + draw.choice((30.0, 400.0)) if draw.random() < 0.2 else None
            self.jobs[job.id] = job
            for _ in range(draw.randint(0, 2)):  # lost, once or twice, and late
                if draw.random() >= self.loss:
                    self.after(draw.uniform(0, 3), lambda: self._claim(self._some_worker()))

        self.jobs[job.id] = job
        job.run_at = float("inf")
        self.at(draw.uniform(0, 60), stored)

    def _trouble(self) -> None:
        draw, worker = self.random, self._some_worker()
        match draw.randint(0, 2):
            case 0:
                self._dies(worker)
            case 1:
                worker.frozen_until = self.now + draw.uniform(1, 60)
            case _:
                self._cancel(draw.choice(list(self.jobs.values())))

    def _cancel(self, job: Job) -> None:
        if job.status is S.QUEUED:
            job.move(S.CANCELLED)
        elif job.status is S.IN_PROGRESS:
            job.move(S.CANCELLING)

    def _start_worker(self) -> None:
        worker = Worker(f"w{next(self._numbers)}", Gate(self.rates, slots=self.places))
        self.workers[worker.id] = worker
        self.started.append(worker)
        if not self.gated:
            return
        engine: Any = SimpleNamespace(
            on_loop=lambda call, *args: call(*args),
            adopt=lambda held: self._adopted(worker, held.job),
            wake=lambda _lane: self.by(worker, 0.0, partial(self._claim, worker)),
        )
        database: Any = Connections(worker)
        worker.watch = watch = PauseWatch(database, engine, list(Lane), lambda: worker.id, {})
        watch.load()
        watch.connect(worker.gate)
        worker.gate.pauses.stir = lambda: self.by(worker, self.random.uniform(0.0, 0.2), partial(self._look, worker))
        self.loop.create_task(worker.gate.start())

        def look() -> None:
            self._look(worker)
            self.by(worker, LOOK_S, look)

        self.by(worker, self.random.uniform(0.0, LOOK_S), look)

    def _look(self, worker: Worker) -> None:
        """At the pauses of the fleet. One that was declared dead meanwhile finds out, and works under another name."""
        assert worker.watch is not None
        worker.watch.turn(probes=worker.id in self.workers)
        worker.heard = self.now

    def _some_worker(self) -> Worker:
        if not self.workers:
            self._start_worker()
        return self.random.choice(list(self.workers.values()))

    def _poll(self) -> None:
        for worker in list(self.workers.values()):
            self._claim(worker)
            self._claim_suspect(worker)

    # -- the store, as its own tests prove it --------------------------------------------------------------------

    def _sweep(self) -> None:
        gone = {w.id for w in self.workers.values() if not w.alive or w.frozen_until > self.now + LEASE_S}
        for worker_id in gone:
            if self.workers[worker_id].alive:  # it will find itself declared dead and come back under another name
                self._start_worker()
            del self.workers[worker_id]
        for worker_id in gone:
            held = [job for job in self.jobs.values() if job.worker == worker_id]
            convicted = [job for job in held if self._take_back(job)]
            if len(convicted) > 1:
                raise Broken(f"{worker_id} died once and convicted {[job.id for job in convicted]}")
        for job in self.jobs.values():
            if job.status is S.QUEUED and job.deadline is not None and job.deadline <= self.now:
                job.move(S.EXPIRED)

    def _take_back(self, job: Job) -> bool:
        """True when the death convicts the job."""
        lost = [n for n, (row, *_) in enumerate(job.rows) if row.state is A.SENT]
        for n in lost:
            row, sent, _ = job.rows[n]
            job.rows[n] = (replace(row, state=A.LOST, kind=K.INTERRUPTED), sent, self.now)
        job.deaths += 1
        if job.status is S.CANCELLING:
            job.move(S.CANCELLED)
        elif job.deaths >= STARTS_MAX:
            job.convicted = True
            job.move(S.FAILED)
        elif lost and job.fails_when_lost:
            job.move(S.FAILED)
        else:
            job.move(S.QUEUED)
            job.run_at = self.now
        return job.convicted

    def _mark(self, course: Course, row: AttemptRow) -> bool:
        job = course.job
        self._write(course, late=job.claim != course.claim)
        if job.claim != course.claim or job.status is not S.IN_PROGRESS:
            return False
        if job.status in FINAL:
            raise Broken(f"{job.id}: a call after the end")
        job.rows.append((row, self.now, 0.0))
        return True

    def _settle(
        self, worker: Worker, course: Course, to: JobStatus, wait_s: float = 0.0, mark: str | None = None
    ) -> None:
        job, held = course.job, course.job.claim == course.claim and course.job.status not in FINAL
        adopts = not held and to is S.COMPLETED and self._adoptable(course)
        self._write(course, late=not held and not adopts)
        worker.busy -= 1
        if worker.suspect is course:
            worker.suspect = None
        if adopts:
            job.adopted = True
            job.move(S.COMPLETED)
        elif held:
            stopping = job.status is S.CANCELLING
            job.move(S.CANCELLED if stopping else to)
            job.run_at = self.now + wait_s
            job.parked_for = None if stopping else mark
        self._claim(worker)

    def _adoptable(self, course: Course) -> bool:
        """A good answer whose claim has passed on ends the job where nobody asks just now."""
        asking = any(row.state is A.SENT and row.claim_id != str(course.claim) for row, *_ in course.job.rows)
        return course.job.status is S.QUEUED or (course.job.status is S.IN_PROGRESS and not asking)

    def _write(self, course: Course, *, late: bool = False) -> None:
        for row in course.done:
            place = next(n for n, (found, *_) in enumerate(course.job.rows) if found.id == row.id)
            if late and row.state is A.ANSWERED:
                row = replace(row, state=A.SUPERSEDED)  # noqa: PLW2901
            course.job.rows[place] = (row, course.job.rows[place][1], self.now)
            if late:
                course.job.late.add(row.id)
        course.job.rows += [(skip, self.now, self.now) for skip in course.skips]
        course.done, course.skips = [], []

    # -- a worker ------------------------------------------------------------------------------------------------

    def _claim(self, worker: Worker) -> None:
        if not worker.alive or worker.frozen_until > self.now or worker.id not in self.workers:
            return
        room = self.places - worker.busy
        due: defaultdict[tuple[str, int], list[Job]] = defaultdict(list)
        for job in self.jobs.values():
            if job.status is S.QUEUED and job.run_at <= self.now and job.deaths < SUSPECT_FROM:
                due[job.project, job.priority].append(job)
        if room <= 0 or not due:
            return
        taken: defaultdict[str, int] = defaultdict(int)
        for share in shares(due, room, self.random.random()):
            quota = min(share.quota - taken[share.project_id], room - sum(taken.values()))
            for job in sorted(due[share.project_id, share.priority], key=lambda j: j.run_at)[: max(0, quota)]:
                taken[share.project_id] += 1
                self._take(worker, job)
        by_project = {p: sum(len(js) for (q, _), js in due.items() if q == p) for p, _ in due}
        for project, n in by_project.items():
            if taken[project] < min(n, room // len(by_project)):
                raise Broken(f"{project} had {n} due and got {taken[project]} of {room} places")

    def _claim_suspect(self, worker: Worker) -> None:
        if not worker.alive or worker.frozen_until > self.now or worker.id not in self.workers or worker.suspect:
            return
        due = [
            job
            for job in self.jobs.values()
            if job.status is S.QUEUED and job.run_at <= self.now and job.deaths >= SUSPECT_FROM
        ]
        if due:
            worker.suspect = self._take(worker, min(due, key=lambda job: job.run_at))

    def _take_parked(self, worker: Worker, job: Job) -> None:
        """For a probe."""
        job.move(S.IN_PROGRESS)
        job.claim, job.worker = next(self._numbers), worker.id

    def _adopted(self, worker: Worker, job: Job) -> None:
        if job.deaths < SUSPECT_FROM:
            self._begin(worker, job)
        elif worker.suspect is None:
            worker.suspect = self._begin(worker, job)
        else:  # one at a time
            job.move(S.QUEUED)
            job.run_at = self.now

    def _take(self, worker: Worker, job: Job) -> Course:
        job.move(S.IN_PROGRESS)
        job.claim, job.worker = next(self._numbers), worker.id
        return self._begin(worker, job)

    def _begin(self, worker: Worker, job: Job) -> Course:
        assert job.claim is not None
        worker.busy += 1
        course = Course(job, job.claim, self._rebuilt(job))
        self.by(worker, self.random.uniform(0, 0.05), lambda: self._go_on(worker, course))
        return course

    def _rebuilt(self, job: Job) -> Walk:
        """As `services/course` does it."""
        walk = Walk(self.route, job.lane, NEEDS, job.most)
        if job.rows:
            courses.replay(walk, [Attempt(row, _time(sent), _time(ended)) for row, sent, ended in job.rows])
        return walk

    def _door(
        self, worker: Worker, course: Course, target: Target, key: Key | None, *, waited: bool = False
    ) -> Closed | None:
        urgent, again = course.job.lane is Lane.INTERACTIVE, course.walk.repeats(target)
        return worker.gate.look(target, key, self.now, urgent=urgent, again=again, waited=waited)

    def _go_on(self, worker: Worker, course: Course) -> None:
        job = course.job
        if job.deadline is not None and job.deadline <= self.now:
            self._settle(worker, course, S.EXPIRED)
            return
        doors = partial(self._door, worker, course) if self.gated else always_open
        step = course.walk.next(doors, self.random.random())
        for skip in course.walk.skips:
            course.skips.append(self._row(course, A.SKIPPED, skip.target, None, kind=skip.kind))
        course.walk.skips.clear()
        match step:
            case Stop():
                self._settle(worker, course, S.FAILED)
            case Park() if self.gated and (park := self._parked(worker, course)) is not None:
                self._settle(worker, course, S.QUEUED, park.wait_s, park.parked_for)
            case Park(wait_s) if wait_s > IN_PLACE_S:
                self._settle(worker, course, S.QUEUED, wait_s)
                self._audit_rebuilt(course)
            case Park(wait_s):

                def rested() -> None:
                    course.walk.resumed()
                    self._go_on(worker, course)

                self.by(worker, wait_s, rested)
            case Ask() if step.wait_s > 0.0:

                def waited() -> None:
                    course.walk.again(step)
                    self._go_on(worker, course)

                self.by(worker, step.wait_s, waited)
            case Ask() if self.gated:
                self._line_up(worker, course, step)
            case Ask():
                self._ask(worker, course, step, None)

    def _parked(self, worker: Worker, course: Course) -> Any:
        left = None if course.job.deadline is None else course.job.deadline - self.now
        seen: Any = SimpleNamespace(walk=course.walk, bench=SimpleNamespace(gate=worker.gate), remaining_s=lambda: left)
        return courses.parked(seen)

    def _line_up(self, worker: Worker, course: Course, ask: Ask) -> None:
        """As `services/run` does it."""
        urgent = course.job.lane is Lane.INTERACTIVE
        ticket = worker.gate.join(ask.target, ask.key, Size(), self.now, urgent=urgent)
        if ticket.admitted:
            self._ask(worker, course, ask, ticket)
            return
        told = False

        def called() -> None:
            nonlocal told
            if told:
                return
            told = True
            if ticket.admitted and self._door(worker, course, ask.target, ask.key, waited=True) is None:
                self._ask(worker, course, ask, ticket)
                return
            worker.gate.quit(ticket)
            course.walk.again(ask)
            self._go_on(worker, course)

        assert ticket.coming is not None
        ticket.coming.add_done_callback(lambda _: self.by(worker, 0.0, called))
        self.by(worker, IN_PLACE_S if urgent else LINE_S, called)

    def _row(
        self, course: Course, state: AttemptState, target: Target, key: Key | None, *, kind: FailureKind | None = None
    ) -> AttemptRow:
        return AttemptRow(
            f"att_{next(self._numbers)}",
            course.job.id,
            str(course.claim),
            len(course.job.rows) + 1,
            state,
            target.name,
            target.provider,
            target.model,
            key.name if key is not None else None,
            kind,
        )

    def _ask(self, worker: Worker, course: Course, ask: Ask, ticket: Ticket | None) -> None:
        """`ticket`: None where no gate is kept."""
        row = self._send(worker, course, ask, ticket)
        if row is None:
            self._settle(worker, course, S.QUEUED)
        elif course.walk.hedges and self.route.hedge_after_s is not None:
            self.by(worker, self.route.hedge_after_s, lambda: self._hedge(worker, course, ask, row))

    def _send(self, worker: Worker, course: Course, ask: Ask, ticket: Ticket | None) -> AttemptRow | None:
        """None: it must not be made."""
        row = self._row(course, A.SENT, ask.target, ask.key)
        if ticket is not None:
            worker.gate.enter(ticket, ask.target, ask.key, self.now, again=course.walk.repeats(ask.target))
        if not self._mark(course, row):
            if ticket is not None:
                worker.gate.leave(ticket, ask.target, ask.key, None, self.now)
            return None
        self._audit_call(worker, ask)
        course.open[row.id] = (ask, row, ticket)
        if course.job.deadly:
            self.by(worker, self.random.uniform(0.0, 0.5), lambda: self._dies(worker))
            return row
        outcome = self._answer(ask.target)
        self.by(worker, self.random.uniform(0.05, 20.0), lambda: self._answered(worker, course, row.id, outcome))
        return row

    def _hedge(self, worker: Worker, course: Course, first: Ask, row: AttemptRow) -> None:
        """As `services/race` does it."""
        if row.id not in course.open:
            return
        ask = course.walk.hedge(first.target, partial(self._door, worker, course) if self.gated else always_open)
        if ask is None:
            return
        ticket = None
        if self.gated:
            urgent = course.job.lane is Lane.INTERACTIVE
            ticket = worker.gate.join(ask.target, ask.key, Size(), self.now, urgent=urgent)
            if not ticket.admitted:
                worker.gate.quit(ticket)
                return
        if self._send(worker, course, ask, ticket) is not None:
            if course.job.hedged:
                raise Broken(f"{course.job.id} is joined by a second call for the second time")
            course.walk.hedged = course.job.hedged = True

    def _dies(self, worker: Worker) -> None:
        worker.alive = False
        self.loop.create_task(worker.gate.close())
        self.after(self.random.uniform(0, 30), self._start_worker)

    def _answer(self, target: Target) -> Outcome:
        chance, kinds = self.moods[target.name]
        if self.now >= HEALED_S or self.random.random() >= chance:
            return Answer(text="fine")
        kind = self.random.choice(kinds)
        wait_s = self.random.choice(HINTS) if kind in {K.RATE_LIMIT, K.OVERLOADED, K.LOADING, K.QUOTA} else None
        return Failure(kind, kind.value, wait_s=wait_s)

    def _answered(self, worker: Worker, course: Course, row_id: str, outcome: Outcome) -> None:
        if row_id not in course.open:
            return  # hung up
        draw = self.random.random()
        ask, row, ticket = course.open.pop(row_id)
        if ticket is not None:
            worker.gate.leave(ticket, ask.target, ask.key, outcome, self.now)
        if isinstance(outcome, Answer):
            course.done.append(replace(row, state=A.ANSWERED))
            for other, loser, place in course.open.values():
                course.done.append(replace(loser, state=A.CANCELLED, kind=K.CANCELLED))
                if place is not None:
                    worker.gate.leave(place, other.target, other.key, None, self.now)
            course.open.clear()
            self._settle(worker, course, S.COMPLETED)
            return
        if outcome.kind is K.RATE_LIMIT and outcome.wait_s is not None:
            floor = (ask.target.name, row.key_name or "")
            worker.floors[floor] = max(worker.floors.get(floor, 0.0), self.now + outcome.wait_s)
        if outcome.kind is K.OVERLOADED and outcome.wait_s is not None:  # whatever the key
            for name in ("", *(key.name for key in ask.target.keys)):
                floor = (ask.target.name, name)
                worker.floors[floor] = max(worker.floors.get(floor, 0.0), self.now + outcome.wait_s)
        failed = replace(row, state=A.FAILED, kind=outcome.kind, retry_after_s=outcome.wait_s, reason=outcome.message)
        course.done.append(failed)
        course.walk.failed(ask.target.name, row.key_name, outcome, at_s=self.now, draw=draw)
        if course.open:
            self._write(course, late=course.job.claim != course.claim)
        else:
            self._go_on(worker, course)

    # -- the auditor ---------------------------------------------------------------------------------------------

    def _audit_call(self, worker: Worker, ask: Ask) -> None:
        floor = worker.floors.get((ask.target.name, ask.key.name if ask.key is not None else ""), 0.0)
        if self.gated and self.now < floor - 1e-6:
            raise Broken(f"{worker.id} asks {ask.target.name} {floor - self.now:.1f} s before it may")
        if self.gated:
            self._audit_pauses(worker, ask)
        rpm = self.rates[ask.target.provider].rpm
        if self.gated and rpm is not None and self.now > worker.frozen_until + 60.0:  # its gate was not frozen with it
            account = ask.key.account if ask.key is not None else ""
            calls = worker.calls[ask.target.provider, account]
            calls.append(self.now)
            lately = sum(at > self.now - 60.0 for at in calls)
            if lately > rpm * 66 / 60 + 1:
                raise Broken(f"{lately} calls of {ask.target.provider} in a minute, and {rpm} are allowed")

    def _audit_pauses(self, worker: Worker, ask: Ask) -> None:
        """What a worker has heard is paused it asks by a leave to probe alone, and with each leave once."""
        for scope in scopes_over(ask.target, ask.key):
            row = self.pauses.rows.get(scope)
            if row is None or row.closed is not None or worker.gate.pauses.news or worker.heard < row.since:
                continue
            if row.leave != worker.id:
                raise Broken(f"{worker.id} asks {ask.target.name} although {scope} is paused")
            row.leave = None

    def _audit_rebuilt(self, course: Course) -> None:
        """A parked job's walk in memory and the one made of its rows go on alike."""
        if self.gated or course.job.late:
            return
        if course.job.claim is not None or course.job.status is not S.QUEUED:
            return  # its claim was lost
        memory, rows = course.walk, self._rebuilt(course.job)
        memory.resumed()
        steps = [walk.next(draw=0.5) for walk in (memory, rows)]
        if _gist(steps[0]) != _gist(steps[1]) or memory.calls != rows.calls:
            raise Broken(f"{course.job.id}: in memory {steps[0]}, from its rows {steps[1]}")

    def _audit_end(self) -> None:
        for job in self.jobs.values():
            if job.ends != 1:
                raise Broken(f"{job.id} ended {job.ends} times")
            states = [row.state for row, *_ in job.rows]
            if states.count(A.ANSWERED) != (job.status is S.COMPLETED) and job.status is not S.CANCELLED:
                raise Broken(f"{job.id} is {job.status} with {states.count(A.ANSWERED)} answers")
            paid = sum(row.state is A.ANSWERED or self._counts(job, row) for row, *_ in job.rows)
            if paid > job.most:
                raise Broken(f"{job.id} made {paid} calls, and {job.most} are allowed")
            claims = {row.claim_id for row, *_ in job.rows if row.state is A.LOST}
            if max(len(claims), job.deaths) > STARTS_MAX:
                raise Broken(f"{job.id} had {job.deaths} deaths, {len(claims)} with calls open")
            if job.deadly and S.COMPLETED is job.status:
                raise Broken(f"{job.id} kills whoever asks, and is completed")

    def _counts(self, job: Job, row: AttemptRow) -> bool:
        if row.id in job.late:
            return False
        return row.state is A.FAILED and row.kind is not None and not rule_for(row.kind, job.lane, self.route.on).free


def _gist(step: Ask | Park | Stop) -> object:
    if isinstance(step, Ask):
        return step.target.name, step.key.name if step.key is not None else None, step.repair
    return type(step), step.failure.kind if isinstance(step, Stop) else None


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _say_nothing(*_args: Any, **_fields: Any) -> None:
    return


def play(seeds: Iterable[int]) -> list[tuple[int, str]]:
    """The seeds that failed, and how."""
    failures = []
    for seed in seeds:
        try:
            World(seed).run()
        except Exception as exc:  # noqa: BLE001 - whatever breaks, the seed is what counts
            failures.append((seed, f"{type(exc).__name__}: {exc}"))
    return failures


def main(seeds: int, first: int = 0) -> list[tuple[int, str]]:
    """Play seeds from `first` on; says how fast, and which failed."""
    began = time.perf_counter()
    failures = play(range(first, first + seeds))
    took = time.perf_counter() - began
    print(f"{seeds} seeds in {took:.1f} s, {seeds / took:.0f} a second, {len(failures)} failed")
    for seed, why in failures[:20]:
        print(f"seed {seed}: {why}\n  again: python -m tests.simulation --seed {seed}")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="this one alone")
    asked = parser.parse_args()
    sys.exit(bool(main(asked.seeds) if asked.seed is None else main(1, asked.seed)))
