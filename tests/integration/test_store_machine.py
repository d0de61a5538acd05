"""The store against a model of it: any order of moves, by workers that live, freeze and die, on both databases.

A machine of Hypothesis makes the moves on the database and in memory, and compares everything that can be seen after
each. The database's clock is not ours to set: time is moved by moving every moment in the rows back, which is the same
to every statement that compares a moment with the clock. Steps are of 100 s and waits end halfway between two, so the
few seconds that a run takes in truth decide nothing.

Longer: `pytest tests/integration/test_store_machine.py --hypothesis-profile=long`, another way: `--hypothesis-seed=N`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.station import Station
from worker import clock
from worker.deps import Deps
from worker.domain.answer import Failure
from worker.domain.budget import charged, maybe_billed
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import STARTS_MAX, SUSPECT_FROM, AttemptRow, Ending, Return
from worker.domain.money import NO_USAGE, Usage, added
from worker.domain.state import FINAL, MOVES, AttemptState, JobStatus
from worker.engine.writer import Entry, OverBudget, store
from worker.services.cancel import cancel
from worker.services.idempotency import IdempotencyKey, KeyReused
from worker.services.retry import RETRIED, NotRetriable, retry
from worker.services.submit import JobRequest, submit
from worker.services.sweep import sweep
from worker.store import attempts, claims, deaths, idempotency, keys, parked, projects, settling, views, workers
from worker.store.database import Database
from worker.store.moment import Moment, instant
from worker.store.schema import metadata
from worker.store.settling import Settle
from worker.store.tables import api_key, job
from worker.store.tables import idempotency as remembered

S, A = JobStatus, AttemptState
STEP_S: Final = 100
SLACK_S: Final = 40.0  # a run may take this long in truth
LEASE_S: Final = 50.0
SWEEP_S: Final = 50.0  # its lease lasts three times as long
RETENTION_S: Final = 350.0
HELD: Final = frozenset({S.IN_PROGRESS, S.CANCELLING})
ESTIMATE: Final = 30
BUDGET: Final = 50  # one call at a time fits
MARK: Final = "0123456789"  # of a pause
Draw = st.integers(0, 1_000_000)


# -- the model ---------------------------------------------------------------------------------------------------


@dataclass
class Call:
    row: AttemptRow
    late: bool = False  # closed when the claim had passed on: not in the sums of the job


@dataclass
class Job:
    id: str
    project: str
    key: str | None
    lane: Lane
    priority: int
    run_at: float
    deadline_at: float
    on_interruption: str
    retry_of: str | None = None
    status: JobStatus = S.QUEUED
    version: int = 1
    claim: str | None = None
    worker: str | None = None
    attempts: int = 0
    rows: int = 0
    losses: int = 0
    deaths: int = 0
    parked_for: str | None = None
    usage: Usage = NO_USAGE
    cost: int | None = None
    complete: bool = True
    error: FailureKind | None = None
    answered: bool = False
    ended_at: float | None = None
    purged: bool = False
    was_lost: bool = False  # a call of it; what became known of that later does not change the sums
    calls: dict[str, Call] = field(default_factory=dict)

    def move(self, status: JobStatus, at: float) -> None:
        assert status in MOVES[self.status], f"{self.status} -> {status}"
        self.status = status
        self.version += 1
        if status not in HELD:
            self.claim = self.worker = None
        if status in FINAL:
            self.ended_at = at


@dataclass
class Course:
    """What one claim knows of its job, whether or not the claim still holds."""

    job: Job
    claim: str
    worker: str
    number: int
    calls: int = 0
    rows: int = 0
    usage: Usage = NO_USAGE
    cost: int | None = None
    complete: bool = True
    open: AttemptRow | None = None
    begun: list[AttemptRow] = field(default_factory=list)  # skips that the next write takes along
    done: list[AttemptRow] = field(default_factory=list)
    over: bool = False

    @property
    def holds(self) -> bool:
        return self.job.claim == self.claim and self.job.status in HELD


@dataclass
class Purse:
    spent: int = 0
    held: int = 0


class Chance:
    """Ids and draws that are the same each time: Hypothesis must be able to play a run again."""

    def restart(self) -> None:
        self._ids = count(1)
        self._random = Random(7)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_7{next(self._ids):025}"  # of times to come: no tombstone is old enough to go

    def draw(self) -> float:
        return self._random.random()


class StoreMachine(RuleBasedStateMachine):
    """Bound to a database by `on`."""

    deps: Deps
    chance: Chance

    def __init__(self) -> None:
        super().__init__()
        self.chance.restart()
        self.database: Database = self.deps.database
        with self.database.write() as conn:
            for table in reversed(metadata.sorted_tables):
                conn.execute(table.delete())
            self.projects = [projects.ensure(conn), projects.ensure(conn, "other")]
            made = [keys.create(conn, self.projects[0], f"k{n}", budget_nano=BUDGET)[0].id for n in range(2)]
        self.purses = {key_id: Purse() for key_id in made}
        self.now = 0.0
        self.jobs: dict[str, Job] = {}
        self.courses: list[Course] = []
        self.remembered: dict[tuple[str, str], tuple[str, tuple[str, ...], float]] = {}
        self.beats: dict[str, float] = {}  # of workers not yet declared dead
        self.lease: tuple[str, float] | None = None
        self.seen: dict[str, tuple[JobStatus, int]] = {}
        for _ in range(2):
            self._register()

    # -- intake --------------------------------------------------------------------------------------------------

    @rule(
        project=st.integers(0, 1),
        n=st.integers(1, 3),
        lane=st.sampled_from(Lane),
        priority=st.integers(0, 1),
        deadline=st.sampled_from([None, None, 50.0, 250.0]),
        key=st.sampled_from([None, 0, 1]),
        on_interruption=st.sampled_from(["retry", "retry", "fail"]),
        once=st.sampled_from([None, None, ("a", "1"), ("a", "2"), ("b", "1")]),
    )
    def submit(
        self,
        project: int,
        n: int,
        lane: Lane,
        priority: int,
        deadline: float | None,
        key: int | None,
        on_interruption: Any,
        once: tuple[str, str] | None,
    ) -> None:
        project_id = self.projects[project]
        key_id = None if key is None else sorted(self.purses)[key]
        ask = JobRequest(
            "completion",
            ("default",),
            {"prompt": "p"},
            lane=lane,
            priority=priority,
            deadline_s=deadline,
            on_interruption=on_interruption,
        )
        idempotent = None if once is None else IdempotencyKey("jobs", *once)
        known = None if once is None else self.remembered.get((project_id, once[0]))
        if known is not None and known[2] <= self.now - idempotency.KEPT_S:
            known = None
        if known is not None and once is not None and known[0] != once[1]:
            with pytest.raises(KeyReused):
                submit(self.deps, project_id, [ask] * n, idempotent, key_id=key_id)
            return
        made = submit(self.deps, project_id, [ask] * n, idempotent, key_id=key_id)
        if known is not None:
            assert (made.replayed, made.ids) == (True, known[1])
            return
        assert not made.replayed
        if once is not None:
            self.remembered[project_id, once[0]] = (once[1], made.ids, self.now)
        for job_id in made.ids:
            until = self.now + (self.deps.settings.deadline_s if deadline is None else deadline)
            self.jobs[job_id] = Job(job_id, project_id, key_id, lane, priority, self.now, until, on_interruption)

    @precondition(lambda self: self.jobs)
    @rule(n=Draw)
    def ask_again(self, n: int) -> None:
        old = self._pick(list(self.jobs.values()), n)
        with self.database.read() as conn:
            view = views.get(conn, old.project, old.id)
        assert view is not None
        if old.status not in RETRIED or old.purged:
            with pytest.raises(NotRetriable):
                retry(self.deps, old.project, view)
            return
        (made,) = retry(self.deps, old.project, view).ids
        until = self.now + self.deps.settings.deadline_s
        self.jobs[made] = Job(
            made, old.project, None, old.lane, old.priority, self.now, until, old.on_interruption, retry_of=old.id
        )

    # -- workers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(j.status is S.QUEUED for j in self.jobs.values()))
    @rule(n=Draw, size=st.integers(1, 4))
    def claim_by_ids(self, n: int, size: int) -> None:
        """Hints name any jobs: those that are due, and those that have long gone."""
        ids = sorted(self.jobs)
        named = [ids[(n + 7 * i) % len(ids)] for i in range(min(size, len(ids)))]
        due = {job_id for job_id in named if self._due(self.jobs[job_id])}
        worker_id, claim_id = self._pick(sorted(self.beats), n), clock.new_id("clm")
        with self.database.write() as conn:
            found = claims.claim(conn, list(set(named)), worker_id=worker_id, claim_id=claim_id)
        assert {c.id for c in found} == due
        self._claimed(found, worker_id, claim_id)

    @precondition(lambda self: any(j.status is S.QUEUED for j in self.jobs.values()))
    @rule(n=Draw, lane=st.sampled_from(Lane), room=st.integers(1, 6))
    def claim_a_block(self, n: int, lane: Lane, room: int) -> None:
        worker_id, claim_id = self._pick(sorted(self.beats), n), clock.new_id("clm")
        waiting: defaultdict[tuple[str, int], list[Job]] = defaultdict(list)
        for j in self.jobs.values():
            if j.lane is lane and j.status is S.QUEUED:
                waiting[j.project, j.priority].append(j)
        due = {group: sorted(j.run_at for j in found if self._due(j)) for group, found in waiting.items()}
        with self.database.write() as conn:
            found = claims.claim_block(conn, lane, room, worker_id=worker_id, claim_id=claim_id)
        taken: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for c in found:
            j = self.jobs[c.id]
            taken[j.project, j.priority].append(j.run_at)
            assert self._due(j)
        assert len(found) == min(room, sum(map(len, due.values()))), "places stay empty while jobs are due"
        for group, times in taken.items():
            assert sorted(times) == due[group][: len(times)], "older ones first"
        least = room // max(1, len({project for project, _ in waiting}))
        for project, priority in waiting:
            mine = sum(len(times) for (owner, _), times in taken.items() if owner == project)
            assert mine >= min(least, sum(len(t) for (p, _), t in due.items() if p == project)), "its fair part"
            if priority == 0 and taken[project, 0]:
                assert len(taken[project, 1]) == len(due.get((project, 1), [])), "the more urgent first"
        self._claimed(found, worker_id, claim_id)

    @precondition(lambda self: any(j.deaths >= SUSPECT_FROM for j in self.jobs.values()))
    @rule(n=Draw, lane=st.sampled_from(Lane))
    def claim_a_suspect(self, n: int, lane: Lane) -> None:
        worker_id, claim_id = self._pick(sorted(self.beats), n), clock.new_id("clm")
        due = [j.run_at for j in self.jobs.values() if self._due(j, suspects=True) and j.lane is lane]
        with self.database.write() as conn:
            found = claims.claim_suspect(conn, [lane], worker_id=worker_id, claim_id=claim_id)
        assert (found is not None) is bool(due)
        if found is not None:
            assert self.jobs[found.id].run_at == min(due), "the one that has been due longest"
            self._claimed([found], worker_id, claim_id)

    @precondition(lambda self: any(j.parked_for for j in self.jobs.values()))
    @rule(n=Draw, lane=st.sampled_from(Lane), most=st.integers(1, 2), out=st.booleans())
    def a_pause_is_over(self, n: int, lane: Lane, most: int, out: bool) -> None:
        """Or is looked at with one of the jobs that wait for it."""
        waiting = sorted(j.id for j in self.jobs.values() if j.parked_for and j.status is S.QUEUED and j.lane is lane)
        worker_id, claim_id = self._pick(sorted(self.beats), n), clock.new_id("clm")
        with self.database.write() as conn:
            assert parked.marks(conn) == sorted(
                {(j.parked_for, j.lane) for j in self.jobs.values() if j.parked_for and j.status is S.QUEUED}
            )
            if not out:
                assert parked.wake(conn, MARK, lane, most) == len(waiting[:most])
                for job_id in waiting[:most]:
                    self._woken(self.jobs[job_id])
                    self.jobs[job_id].version += 1
                return
            found = parked.claim_one(conn, [MARK], [lane], worker_id=worker_id, claim_id=claim_id)
        assert (found.id if found is not None else None) == (waiting[0] if waiting else None)
        if found is not None:
            self._woken(self.jobs[found.id])
            self._claimed([found], worker_id, claim_id)

    @precondition(lambda self: self._courses(self._unconfirmed))
    @rule(n=Draw)
    def disown(self, n: int) -> None:
        """A claim whose worker does not know whether it was made: none of its jobs was begun."""
        course = self._pick(self._courses(self._unconfirmed), n)
        held = [j for j in self.jobs.values() if (j.claim, j.worker) == (course.claim, course.worker)]
        with self.database.write() as conn:
            assert settling.disown(conn, course.worker, [course.claim]) == len(held)
        for j in held:
            if j.status is S.CANCELLING:
                j.move(S.CANCELLED, self.now)
                j.error = FailureKind.CANCELLED
            else:
                j.move(S.QUEUED, self.now)
        for other in self.courses:
            other.over = other.over or other.claim == course.claim

    @precondition(lambda self: self._courses(lambda c: c.open is None))
    @rule(n=Draw, skips=st.integers(0, 1))
    def mark(self, n: int, skips: int) -> None:
        """A call is about to be made; what was passed over and what is over goes with it."""
        course = self._pick(self._courses(lambda c: c.open is None), n)
        for _ in range(skips):
            self._skip(course)
        row = self._row(course, A.SENT, held_nano=ESTIMATE if course.job.key is not None else None)
        entry = Entry(
            course.job.id, course.claim, begin=[*course.begun, row], close=course.done, budget_key=course.job.key
        )
        (outcome,) = self._store(entry)
        ours = course.holds and course.job.status is S.IN_PROGRESS
        for closed in course.done:
            self._closed(course, closed, late=not course.holds)
        for skip in course.begun:
            course.job.calls[skip.id] = Call(skip, late=not course.holds)
        course.begun, course.done = [], []
        purse = self.purses.get(course.job.key or "")
        if ours and purse is not None and purse.spent + purse.held + ESTIMATE > BUDGET:
            assert isinstance(outcome, OverBudget)
            course.rows -= 1
        elif ours:
            assert outcome is True
            if purse is not None:
                purse.held += ESTIMATE
            course.job.calls[row.id] = Call(row)
            course.open = row
            course.calls += 1
        else:
            assert outcome is False
            course.rows -= 1

    @precondition(lambda self: self._courses(lambda c: c.open is not None))
    @rule(n=Draw, known=st.booleans(), kind=st.sampled_from([FailureKind.TIMEOUT, FailureKind.OVERLOADED]))
    def call_fails(self, n: int, known: bool, kind: FailureKind) -> None:
        """It is on record with the next write."""
        course = self._pick(self._courses(lambda c: c.open is not None), n)
        self._over(course, A.FAILED, kind, Usage(3, 1) if known else NO_USAGE, 4 if known else None)

    @precondition(lambda self: self._courses(lambda c: c.open is not None))
    @rule(n=Draw, known=st.booleans())
    def call_answers(self, n: int, known: bool) -> None:
        """In time, or to a worker that has lost its claim."""
        course = self._pick(self._courses(lambda c: c.open is not None), n)
        self._over(course, A.ANSWERED, None, Usage(10, 5, 2) if known else NO_USAGE, 20 if known else None)
        self._settle(course, Ending(S.COMPLETED, result='{"text":"x"}'))

    @precondition(lambda self: self._courses(lambda c: c.open is not None))
    @rule(n=Draw)
    def hang_up(self, n: int) -> None:
        course = self._pick(self._courses(lambda c: c.open is not None), n)
        self._over(course, A.CANCELLED, FailureKind.CANCELLED, NO_USAGE, None)
        self._settle(course, Return())

    @precondition(lambda self: self._courses(lambda c: c.open is None))
    @rule(n=Draw, how=st.sampled_from(["back", "park", "pause", "fail", "expire"]), skips=st.integers(0, 1))
    def let_go(self, n: int, how: str, skips: int) -> None:
        course = self._pick(self._courses(lambda c: c.open is None), n)
        for _ in range(skips):
            self._skip(course)
        match how:
            case "back":
                self._settle(course, Return())
            case "park":
                self._settle(course, Return(1.5 * STEP_S))
            case "pause":
                self._settle(course, Return(900.5 * STEP_S, MARK))
            case "fail":
                self._settle(course, Ending(S.FAILED, error=Failure(FailureKind.NO_TARGET, "nobody")))
            case _:
                self._settle(course, Ending(S.EXPIRED, error=Failure(FailureKind.DEADLINE, "late")))

    @rule(n=Draw)
    def beat(self, n: int) -> None:
        worker_id = self._pick(sorted(self.beats), n)
        with self.database.write() as conn:
            assert workers.beat(conn, worker_id, {})
        self.beats[worker_id] = self.now

    # -- people and the sweep ------------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(n=Draw, stranger=st.booleans())
    def cancel(self, n: int, stranger: bool) -> None:
        j = self._pick(list(self.jobs.values()), n)
        if stranger:
            (other,) = {*self.projects} - {j.project}
            assert cancel(self.deps, other, j.id) is None
            return
        if j.status is S.QUEUED:
            j.move(S.CANCELLED, self.now)
            j.error = FailureKind.CANCELLED
        elif j.status is S.IN_PROGRESS:
            j.move(S.CANCELLING, self.now)
        view = cancel(self.deps, j.project, j.id)
        assert view is not None
        assert view.status is j.status

    @rule(holder=st.sampled_from(["one", "two"]))
    def sweep(self, holder: str) -> None:
        done = sweep(self.database, holder, lease_s=LEASE_S, every_s=SWEEP_S, retention_s=RETENTION_S)
        free = self.lease is None or self.lease[0] == holder or self.lease[1] < self.now
        assert done is free
        if not free:
            return
        self.lease = (holder, self.now + 3 * SWEEP_S)
        dead = {worker_id for worker_id, at in self.beats.items() if at < self.now - LEASE_S}
        for worker_id in dead:
            del self.beats[worker_id]
        for j in self.jobs.values():
            if j.status in HELD and j.worker in dead:
                self._taken_back(j)
        for j in self.jobs.values():
            if j.status is S.QUEUED and j.deadline_at <= self.now:
                j.move(S.EXPIRED, self.now)
                j.error = FailureKind.DEADLINE
            if j.ended_at is not None and j.ended_at < self.now - RETENTION_S and not j.purged:
                j.purged, j.answered = True, False
                j.version += 1
                j.calls.clear()
        while len(self.beats) < 2:
            self._register()

    @rule(steps=st.sampled_from([1, 1, 1, 2, 4, 900]))
    def time_passes(self, steps: int) -> None:
        """Every moment on record is that much longer ago."""
        seconds = steps * STEP_S
        self.now += seconds
        ago = timedelta(seconds=seconds)
        with self.database.write() as conn:
            for table in metadata.sorted_tables:
                moments = [column for column in table.c if isinstance(column.type, Moment)]
                back = ago if self.database.dialect == "postgresql" else ago // timedelta(microseconds=1)
                if moments:
                    shift = {c.name: sa.type_coerce(c, _Plain) - sa.literal(back) for c in moments}
                    conn.execute(table.update().values(shift))

    # -- what must be so after each step -------------------------------------------------------------------------

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        with self.database.read() as conn:
            rows = {row.id: row for row in conn.execute(sa.select(job))}
            calls: defaultdict[str, dict[str, AttemptRow]] = defaultdict(dict)
            for job_id, found in attempts.of_jobs(conn, list(rows)).items():
                calls[job_id] = {past.row.id: past.row for past in found}
            died = deaths.of_jobs(conn, list(rows))
            books = {row.id: row for row in conn.execute(sa.select(api_key))}
            known = conn.execute(sa.select(remembered)).all()
            now = instant(conn)
        assert rows.keys() == self.jobs.keys(), "one row for each job"
        for job_id, j in self.jobs.items():
            row = rows[job_id]
            seen = (row.status, row.version, row.claim_id, row.worker_id, row.purged_at is not None, row.retry_of)
            assert seen == (j.status, j.version, j.claim, j.worker, j.purged, j.retry_of)
            assert (row.attempts, row.rows, row.losses, row.deaths) == (j.attempts, j.rows, j.losses, j.deaths)
            assert row.parked_for == j.parked_for or j.status is not S.QUEUED
            assert len(died[job_id]) == (0 if j.purged else j.deaths)
            assert Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens) == j.usage
            assert (row.cost_nano, row.cost_complete) == (j.cost, j.complete)
            assert row.error_kind == (j.error.value if j.error is not None else None)
            assert (row.ended_at is not None) == (j.status in FINAL)
            assert abs((row.run_at - now).total_seconds() - (j.run_at - self.now)) < SLACK_S or j.status in FINAL
            assert calls[job_id] == {call_id: call.row for call_id, call in j.calls.items()}
        assert {key_id: (books[key_id].spent_nano, books[key_id].held_nano) for key_id in self.purses} == {
            key_id: (purse.spent, purse.held) for key_id, purse in self.purses.items()
        }
        made = {(row.project_id, row.key): tuple(json.loads(row.made)) for row in known}
        living = {k: v[1] for k, v in self.remembered.items() if v[2] > self.now - idempotency.KEPT_S}
        assert made.items() >= living.items()

    @invariant()
    def a_final_state_never_changes(self) -> None:
        for j in self.jobs.values():
            before, version = self.seen.get(j.id, (S.QUEUED, 1))
            if before in FINAL:
                assert j.status is before
            assert j.version >= version
            self.seen[j.id] = (j.status, j.version)

    @invariant()
    def the_books_balance(self) -> None:
        """Of a job that nobody holds the sums are those of its attempts, but for answers that came too late."""
        for j in self.jobs.values():
            if j.status in HELD or j.purged:
                continue
            made = [call for call in j.calls.values() if call.row.state is not A.SKIPPED]
            assert j.attempts == len(made)
            assert all(call.row.state is not A.SENT for call in made), "nobody is left who could say what became of it"
            if not any(call.late for call in made):
                assert j.usage == sum((call.row.usage for call in made), NO_USAGE)
                unknown = any(maybe_billed(c.row) and c.row.cost_nano is None for c in made)
                assert not (j.complete and unknown), "a sum with an unknown part says so"
                assert j.complete or unknown or j.was_lost, "and one that is known does not"
        holds = sum(purse.held for purse in self.purses.values())
        sent = [c for j in self.jobs.values() for c in j.calls.values() if c.row.state is A.SENT]
        assert holds == sum(call.row.held_nano or 0 for call in sent), "a hold for each open call, and for no other"

    # -- the model's side ----------------------------------------------------------------------------------------

    def _pick(self, found: Sequence[Any], n: int) -> Any:
        return found[n % len(found)]

    def _courses(self, wanted: Callable[[Course], bool]) -> list[Course]:
        return [c for c in self.courses if not c.over and not c.job.purged and wanted(c)]

    def _due(self, j: Job, *, suspects: bool = False) -> bool:
        return j.status is S.QUEUED and j.run_at <= self.now and (j.deaths >= SUSPECT_FROM) is suspects

    def _woken(self, j: Job) -> None:
        j.parked_for, j.run_at = None, self.now

    def _unconfirmed(self, course: Course) -> bool:
        mine = [other for other in self.courses if other.claim == course.claim]
        return course.holds and not any(other.calls or other.rows or other.over for other in mine)

    def _register(self) -> None:
        worker_id = clock.new_id("wrk")
        with self.database.write() as conn:
            workers.register(conn, worker_id=worker_id, host="h", pid=1, lanes=["batch"], release="1")
        self.beats[worker_id] = self.now

    def _store(self, entry: Entry) -> list[bool | Exception]:
        with self.database.write() as conn:
            return store(conn, [entry])

    def _claimed(self, found: Sequence[Any], worker_id: str, claim_id: str) -> None:
        for c in found:
            j = self.jobs[c.id]
            assert (c.attempts, c.rows, c.losses, c.budget_key) == (j.attempts, j.rows, j.losses, j.key)
            assert c.deaths == j.deaths
            j.move(S.IN_PROGRESS, self.now)
            j.claim, j.worker = claim_id, worker_id
            self.courses.append(Course(j, claim_id, worker_id, c.rows))

    def _row(self, course: Course, state: AttemptState, **more: Any) -> AttemptRow:
        course.number += 1
        course.rows += 1
        return AttemptRow(
            clock.new_id("att"), course.job.id, course.claim, course.number, state, "a/m", "a", "m", **more
        )

    def _skip(self, course: Course) -> None:
        course.begun.append(self._row(course, A.SKIPPED, kind=FailureKind.OVERLOADED, reason="shut"))

    def _over(
        self, course: Course, state: AttemptState, kind: FailureKind | None, usage: Usage, cost: int | None
    ) -> None:
        assert course.open is not None
        row = replace(course.open, state=state, kind=kind, usage=usage, cost_nano=cost, reason="r")
        course.open = None
        course.done.append(row)
        course.usage, course.cost = course.usage + usage, added(course.cost, cost)
        if cost is None and maybe_billed(row):
            course.complete = False

    def _settle(self, course: Course, to: Ending | Return) -> None:
        j = course.job
        move = Settle(
            j.id,
            course.claim,
            to,
            calls=course.calls,
            rows=course.rows,
            usage=course.usage,
            cost_nano=course.cost,
            cost_complete=course.complete,
        )
        entry = Entry(j.id, course.claim, begin=course.begun, close=course.done, settle=move, budget_key=j.key)
        (outcome,) = self._store(entry)
        held = course.holds
        asked = any(call.row.state is A.SENT for call in j.calls.values())
        good = isinstance(to, Ending) and to.status is S.COMPLETED
        adopted = good and not held and (j.status is S.QUEUED or (j.status is S.IN_PROGRESS and not asked))
        assert outcome is (held or adopted)
        for skip in course.begun:
            j.calls[skip.id] = Call(skip, late=not held)
        for row in course.done:
            if not (held or adopted) and row.state is A.ANSWERED:
                why = "the answer came after the claim had passed on; it was paid for and is not the result"
                row = replace(row, state=A.SUPERSEDED, reason=why)  # noqa: PLW2901
            self._closed(course, row, late=not held)
        if held:
            j.attempts += course.calls
            j.rows += course.rows
            j.usage, j.cost = j.usage + course.usage, added(j.cost, course.cost)
            j.complete = j.complete and course.complete
            if isinstance(to, Ending) and to.error is not None:
                j.error = to.error.kind
            if j.status is S.CANCELLING:
                j.move(S.CANCELLED, self.now)
                j.error = FailureKind.CANCELLED
            elif isinstance(to, Ending):
                j.move(to.status, self.now)
                j.answered = to.result is not None
            else:
                j.move(S.QUEUED, self.now)
                j.run_at = self.now + to.wait_s
                j.parked_for = to.parked_for
        if adopted:
            j.move(S.COMPLETED, self.now)
            j.answered = True
            j.complete = self._recounted(j)
        course.over = True

    def _closed(self, course: Course, row: AttemptRow, *, late: bool) -> None:
        before = course.job.calls.get(row.id)
        if before is None:  # purged
            return
        purse = self.purses.get(course.job.key or "")
        if purse is not None and before.row.state is A.SENT:
            purse.held -= before.row.held_nano or 0
            purse.spent += charged(row)
        elif purse is not None and before.row.state is A.LOST:
            purse.spent += charged(row) - (before.row.held_nano or 0)
        course.job.calls[row.id] = Call(row, late=late)

    def _taken_back(self, j: Job) -> None:
        lost = False
        for call in j.calls.values():
            if call.row.state is A.SENT:
                lost = j.was_lost = True
                why = "the worker died with this call open; whether it was billed is unknown"
                call.row = replace(call.row, state=A.LOST, kind=FailureKind.INTERRUPTED, reason=why)
                purse = self.purses.get(j.key or "")
                if purse is not None:
                    purse.held -= call.row.held_nano or 0
                    purse.spent += call.row.held_nano or 0
        if j.calls:
            j.complete = self._recounted(j) and j.complete
        j.deaths += 1
        if j.status is S.CANCELLING:
            j.move(S.CANCELLED, self.now)
            j.error = FailureKind.CANCELLED
        elif j.deaths >= STARTS_MAX:
            j.move(S.FAILED, self.now)
            j.error = FailureKind.POISON
        elif lost and j.on_interruption == "fail":
            j.move(S.FAILED, self.now)
            j.error = FailureKind.INTERRUPTED
        else:
            j.move(S.QUEUED, self.now)
            self._woken(j)

    def _recounted(self, j: Job) -> bool:
        """The sums made anew; whether all of the cost is known."""
        made = [call.row for call in j.calls.values() if call.row.state is not A.SKIPPED]
        j.attempts, j.rows = len(made), len(j.calls)
        j.usage = sum((row.usage for row in made), NO_USAGE)
        j.cost = None
        for row in made:
            j.cost = added(j.cost, row.cost_nano)
        j.losses = len({row.claim_id for row in made if row.state is A.LOST})
        for call in j.calls.values():
            call.late = False
        return not any(maybe_billed(row) and row.cost_nano is None for row in made)


class _Plain(sa.types.TypeDecorator[Any]):
    """A moment as the database keeps it."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return sa.Interval() if isinstance(value, timedelta) else sa.BigInteger()


@pytest.fixture
def bound(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StoreMachine]]:
    chance = Chance()
    monkeypatch.setattr(clock, "new_id", chance.new_id)
    monkeypatch.setattr(clock, "draw", chance.draw)
    chance.restart()
    nobody: Any = SimpleNamespace(url="http://127.0.0.1:9")
    with closing(Station(str(database.url), nobody, tmp_path)) as station:
        yield type("Bound", (StoreMachine,), {"deps": replace(station.deps, database=database), "chance": chance})


def test_the_model_knows_late_answers_suspects_and_parks(bound: type[StoreMachine]) -> None:
    """What a short run of the machine may not come to."""
    machine: Any = bound()

    def dies() -> None:
        machine.time_passes(steps=4)
        machine.sweep(holder="one")
        seen()

    def seen() -> None:
        machine.the_database_is_as_the_model()
        machine.a_final_state_never_changes()
        machine.the_books_balance()

    def submit(n: int) -> list[Job]:
        machine.submit(
            project=0, n=n, lane=Lane.BATCH, priority=0, deadline=None, key=0, on_interruption="retry", once=None
        )
        return list(machine.jobs.values())[-n:]

    (adopted,) = submit(1)
    machine.claim_a_block(n=0, lane=Lane.BATCH, room=1)
    machine.mark(n=0, skips=1)
    dies()
    machine.call_answers(n=0, known=True)
    seen()
    assert (adopted.status, adopted.attempts, adopted.complete) == (S.COMPLETED, 1, True)
    (deadly,) = submit(1)
    for _ in range(SUSPECT_FROM):
        machine.claim_a_block(n=0, lane=Lane.BATCH, room=1)
        dies()
    machine.claim_a_block(n=0, lane=Lane.BATCH, room=1)
    assert deadly.status is S.QUEUED, "suspects are not claimed with others"
    machine.claim_a_suspect(n=0, lane=Lane.BATCH)
    dies()
    assert (deadly.status, deadly.error) == (S.FAILED, FailureKind.POISON)
    machine.courses.clear()
    first, second, third = submit(3)
    machine.claim_a_block(n=0, lane=Lane.BATCH, room=3)
    for _ in range(3):
        machine.let_go(n=0, how="pause", skips=0)
    machine.a_pause_is_over(n=0, lane=Lane.BATCH, most=1, out=True)
    machine.a_pause_is_over(n=0, lane=Lane.BATCH, most=1, out=False)
    seen()
    assert [first.status, second.parked_for, third.parked_for] == [S.IN_PROGRESS, None, MARK]
    machine.disown(n=0)
    seen()
    assert first.status is S.QUEUED


def test_the_store_is_as_its_model_after_any_moves(bound: type[StoreMachine]) -> None:
    chosen = settings.default
    assert chosen is not None
    patient = chosen.max_examples > 100  # to make a failing run smaller takes minutes
    play = partial(
        run_state_machine_as_test,
        bound,
        settings=settings(
            chosen,
            max_examples=chosen.max_examples // 5,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if patient else [Phase.generate],
        ),
    )
    try:
        play()
    except FlakyStrategyDefinition:
        play()  # the database's clock goes on between two plays of one course: it once chose another end, under load
