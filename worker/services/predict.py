"""Run one claimed prediction: its members walk side by side, and their votes end it as soon as they can.

Each member is a way like any other job's (`run.walked`): same policies, same attempts. A vote is on record with the
end of its call, so a worker that dies loses none: whoever takes the job up asks only the members still missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker import clock
from worker.domain.answer import Failure
from worker.domain.closing import closed
from worker.domain.decision import needs_judge
from worker.domain.failure import FailureKind
from worker.domain.job import Ending, Return
from worker.domain.pause import MOST_SCOPES, ids_in
from worker.domain.state import JobStatus
from worker.engine.control import Control
from worker.engine.entry import Entry
from worker.engine.held import Held
from worker.services.course import Bench
from worker.services.panel import (
    Seat,
    Sitting,
    answered_now,
    concluded,
    convened,
    failed,
    judge_of,
    left_out,
    vote,
)
from worker.services.run import interrupted, settle, settle_bare, wake, walked

CLOSED: Final = "not waited for: it could not have changed the result any more"
LOOK_AGAIN_S: Final = 30.0
PATIENCE_S: Final = 10.0  # for want of a place, say; a target that rests for longer is not waited for

_Task = asyncio.Task[Ending | Return]


@dataclass(frozen=True, slots=True)
class _Rest:
    """A member that has to wait. due_s: on this process's steady clock."""

    seat: Seat
    to: Return
    due_s: float


@dataclass(slots=True)
class _Session:
    """The members that are at work, and those that rest. `leaving`: one found that the job must make no more calls."""

    sitting: Sitting
    open: dict[_Task, Seat] = field(default_factory=dict)
    resting: dict[str, _Rest] = field(default_factory=dict)
    leaving: bool = False
    writes: list[asyncio.Future[bool]] = field(default_factory=list)

    @property
    def missing(self) -> list[Seat]:
        return [seat for seat in self.sitting.seats if seat.ballot is None]


async def predict(bench: Bench, held: Held, control: Control) -> None:
    """Take a claimed prediction as far as it goes now. Raises Closing when the outcome could not be written."""
    session = _Session(convened(bench, held, control))
    try:
        to = await _held(session)
        await _settle(session, to)
    except asyncio.CancelledError:
        await asyncio.shield(_settle(session, _interrupted(session.sitting)))
        return
    wake(bench, held.job, to)


async def _held(session: _Session) -> Ending | Return:
    """How the job leaves. Raises CancelledError when it was hung up; its open calls are then on their ways, closed."""
    sitting = session.sitting
    try:
        if not _decided(session):
            for seat in session.missing:
                _start(session, seat)
        while session.open:
            await _next(session)
            if _decided(session):
                for seat in session.open.values():
                    seat.dropped = CLOSED
                break
            if session.open:  # the last one's goes with the end
                _on_record(session)
    finally:
        await _hang_up(session)
    if _decided(session):
        for seat in session.missing:
            left_out(seat, CLOSED)
    if session.missing:
        if session.leaving or sitting.control.asked():
            return Return()  # a job that is `cancelling` ends as cancelled by the same statement
        if not sitting.has_quorum or _soon(session):
            return _parked(session.resting)
        for seat in session.missing:
            left_out(seat, _rests(session.resting[seat.member].to))
    if _late(sitting):
        calls = sitting.job.attempts + sum(course.calls for course in sitting.courses)
        message = f"its deadline passed after {calls} calls and {sitting.usable} usable votes"
        return Ending(JobStatus.EXPIRED, error=Failure(FailureKind.DEADLINE, message))
    return await _judged(session)


def _rests(to: Return) -> str:
    if to.parked_for is not None:
        return "left out: every target of it is paused"
    return f"left out: its targets rest for another {to.wait_s:.0f} s"


def _soon(session: _Session) -> bool:
    """Whether a member that rests is back so soon, and before the deadline, that a quorum waits for it."""
    deadline_s = session.sitting.deadline_s
    due_s = min(rest.due_s for rest in session.resting.values())
    in_time = deadline_s is None or due_s + PATIENCE_S < deadline_s
    return in_time and due_s - clock.monotonic_s() <= PATIENCE_S


def _late(sitting: Sitting) -> bool:
    """At its deadline a panel is decided by the votes it has, if they are enough."""
    cut = any(seat.failure is not None and seat.failure.kind is FailureKind.DEADLINE for seat in sitting.seats)
    return cut and not sitting.has_quorum


def _decided(session: _Session) -> bool:
    """Whether nothing that is still to come could change the result."""
    sitting = session.sitting
    spec, settings = sitting.panel.question.answer, sitting.panel.consensus
    missing = [seat.place for seat in session.missing]
    return settings.early_stop and bool(missing) and closed(spec, sitting.ballots, missing, settings)


# -- members at work ----------------------------------------------------------------------------------------------


def _start(session: _Session, seat: Seat) -> None:
    assert seat.course is not None
    session.open[asyncio.create_task(walked(seat.course))] = seat


async def _next(session: _Session) -> None:
    """Until one of the members is done, or one that rests is due."""
    due_s = min((rest.due_s for rest in session.resting.values()), default=None)
    timeout = None if due_s is None else max(0.0, due_s - clock.monotonic_s())
    done, _ = await asyncio.wait(session.open, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in [task for task in session.open if task in done]:
        _came(session, session.open.pop(task), task.result())
    for name, rest in list(session.resting.items()):
        if rest.due_s <= clock.monotonic_s() and session.open and not session.sitting.control.asked():
            del session.resting[name]
            assert rest.seat.course is not None
            rest.seat.course.walk.resumed()
            _start(session, rest.seat)


def _came(session: _Session, seat: Seat, to: Ending | Return) -> None:
    match to:
        case Ending(JobStatus.COMPLETED):
            vote(session.sitting, seat, answered_now(seat))
        case Ending():
            failed(seat, to.error or Failure(FailureKind.INTERNAL, "the member ended without a reason"))
        case Return(wait_s) if wait_s > 0.0:
            session.resting[seat.member] = _Rest(seat, to, clock.monotonic_s() + wait_s)
        case Return():
            session.leaving = True


async def _hang_up(session: _Session) -> None:
    """Give up the calls that are open. What came in the same breath is taken, for it is paid."""
    if not session.open:
        return
    for task in session.open:
        task.cancel()
    await asyncio.wait(session.open)
    for task, seat in session.open.items():
        if task.cancelled() or task.exception() is not None:
            continue
        _came(session, seat, task.result())
    session.open.clear()


# -- the judge ----------------------------------------------------------------------------------------------------


async def _judged(session: _Session) -> Ending | Return:
    """The end, once a judge was heard where there is one that could change it. If it fails, the vote decides."""
    sitting = session.sitting
    settings = sitting.panel.consensus
    if settings.method == "judge" and needs_judge(sitting.panel.question.answer, sitting.ballots, settings):
        judge = judge_of(sitting)
        if judge is not None:
            _on_record(session)
            assert judge.course is not None
            to = await walked(judge.course)
            if isinstance(to, Ending) and to.status is JobStatus.COMPLETED:
                judge.voted = answered_now(judge)
            elif isinstance(to, Ending):
                judge.failure = to.error
            elif sitting.control.asked():
                return Return()
            else:
                judge.failure = Failure(FailureKind.NO_TARGET, "its targets rest, and the vote is not kept waiting")
    return concluded(sitting)


# -- how it leaves ------------------------------------------------------------------------------------------------


def _parked(resting: Mapping[str, _Rest]) -> Return:
    """Until the first of those that rest is due, or, where all wait for pauses, until one of these ends."""
    wait_s = min(max(0.001, rest.due_s - clock.monotonic_s()) for rest in resting.values())
    marks = [rest.to.parked_for for rest in resting.values()]
    if None in marks:
        return Return(wait_s)
    scopes = list(dict.fromkeys(one for mark in marks if mark is not None for one in ids_in(mark)))
    if len(scopes) > MOST_SCOPES:  # one that it cannot name may end first: it looks again by itself
        wait_s = min(wait_s, LOOK_AGAIN_S)
    return Return(wait_s, "".join(scopes[:MOST_SCOPES]))


def _interrupted(sitting: Sitting) -> Ending | Return:
    """How it leaves when it was hung up on. What would fail for that has a result all the same if a quorum voted."""
    cut = [course for course in sitting.courses if any(row.kind is FailureKind.INTERRUPTED for row in course.done)]
    if not cut:
        return Return()
    to = interrupted(cut[0])
    if isinstance(to, Return) or not sitting.has_quorum:
        return to
    for seat in sitting.seats:
        if seat.ballot is None:
            left_out(seat, "its call was interrupted: the worker was stopped")
    return concluded(sitting)


def _on_record(session: _Session) -> None:
    """Votes are paid for: they do not wait in memory for the slower members."""
    sitting = session.sitting
    rows = [row for course in sitting.courses for row in course.done]
    if not rows:
        return
    for course in sitting.courses:
        course.done = []
    job, engine = sitting.job, sitting.bench.engine
    entry = Entry(job.id, job.claim_id, close=rows, budget_key=job.budget_key)
    session.writes.append(engine.writer.write(entry, urgent=engine.urgent(job.lane)))


async def _settle(session: _Session, to: Ending | Return) -> None:
    sitting = session.sitting
    if sitting.courses:
        await settle(sitting.courses, to)
    else:
        await settle_bare(sitting.bench, sitting.job, to)
    for write in session.writes:
        if not write.cancelled():  # it was waited for when the job was hung up on, and went its way all the same
            await write
