"""Run one claimed job to its end: choose, mark, call, record. The one owner of retries.

Nothing is held while a provider is waited for. A call is marked `sent` in SQL before its bytes leave, and the same
statement checks that the claim still holds and that nobody asked to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from worker import clock, events
from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import STOPS_MAX, AttemptRow, Claimed, Ending, Return
from worker.domain.retry import IN_PLACE_S
from worker.domain.state import JobStatus
from worker.domain.walk import Ask, Park, Stop
from worker.engine.control import Control
from worker.engine.entry import Entry
from worker.engine.held import Held
from worker.engine.writer import Closing, OverBudget
from worker.limits.gate import LINE_S, Ticket
from worker.services.call import (
    Letter,
    Sent,
    Won,
    begun,
    enter,
    hung_up,
    joined,
    landed,
    leave,
    refused,
    send,
    unsent,
    won,
    written,
)
from worker.services.course import (
    DUE_S,
    Bench,
    Course,
    begin,
    closed_door,
    expired,
    note_skips,
    parked,
    result_of,
    settled,
)
from worker.services.race import race
from worker.store.settling import Settle


async def run(bench: Bench, held: Held, control: Control) -> None:
    """Take a claimed job as far as it goes now. Raises Closing when the outcome could not be written."""
    course = begin(bench, held, control)
    if isinstance(course, Ending):
        await settle_bare(bench, held.job, course)
        return
    try:
        to = await walked(course)
        await settle((course,), to)
    except asyncio.CancelledError:
        # A job that has said how it ends has nothing to add: the two would meet in one transaction; either might win.
        if not course.left:
            await asyncio.shield(settle((course,), interrupted(course)))
        return
    wake(bench, course.job, to)


def wake(bench: Bench, job: Claimed, to: Ending | Return) -> None:
    """Look again when a job that was parked is due. A batch line is found by the next look of whoever has room."""
    if isinstance(to, Return) and to.wait_s > 0.0 and to.parked_for is None and job.lane is Lane.INTERACTIVE:
        bench.engine.wake_in(job.lane, to.wait_s)


async def walked(course: Course) -> Ending | Return:
    """Go on until the job ends or has to leave; how it leaves is the caller's to write.

    Raises CancelledError when it was hung up; its open calls are then on the course, closed.
    """
    control = course.control
    while True:
        if control.asked():
            return Return()  # a job that is `cancelling` ends as cancelled by the same statement
        remaining = course.remaining_s()
        if remaining is not None and remaining <= DUE_S:
            return expired(course)
        step = course.walk.next(lambda target, key: closed_door(course, target, key), clock.draw())
        note_skips(course)
        match step:
            case Stop(failure) if failure.kind is FailureKind.DEADLINE:
                return expired(course)
            case Stop(failure):
                return Ending(JobStatus.FAILED, error=failure, provider=course.walk.last_provider)
            case Park() if (park := parked(course)) is not None:
                return park
            case Park(wait_s):
                if (leaving := await _rest(course, wait_s)) is not None:
                    return leaving
            case Ask():
                if step.wait_s > 0.0:
                    await _rest(course, step.wait_s, park=False)
                    course.walk.again(step)  # the door may have closed meanwhile: it is looked at once more
                    continue
                letter = written(course, step)
                if letter is not None and (ended := await _ask(course, letter)) is not None:
                    return ended


async def _rest(course: Course, wait_s: float, *, park: bool = True) -> Return | None:
    """Wait here when it is short; else the place is to be given back."""
    remaining = course.remaining_s()
    if remaining is not None:  # it ends at its deadline, not at the end of a longer wait
        wait_s = min(wait_s, max(0.0, remaining))
    if wait_s > IN_PLACE_S and park:
        return Return(wait_s)
    await course.control.sleep(wait_s)
    if park:
        course.walk.resumed()
    return None


async def _ask(course: Course, letter: Letter) -> Ending | Return | None:
    """One call, or two of which the first good answer wins. None: what follows is the walk's to say."""
    if not course.bench.engine.fresh():
        return Return()
    if (broke := _over_budget(course, letter)) is not None:
        return broke
    target, key = letter.ask.target, letter.ask.key
    ticket = joined(course, letter)
    try:
        if not ticket.admitted:
            if not await _let_in(course, ticket) or closed_door(course, target, key, waited=True) is not None:
                course.walk.again(letter.ask)  # it closed while we waited, or the wait was too long
                return None
            # Others of its panel stood in the same line. From here to the hold for the call nothing is awaited.
            if (broke := _over_budget(course, letter)) is not None:
                return broke
        return await _call(course, letter, ticket)
    finally:
        course.bench.gate.quit(ticket)


def _over_budget(course: Course, letter: Letter) -> Ending | None:
    """How the job ends when the call could cost more than is left of its `max_cost`."""
    if course.purse is None or letter.estimate_nano is None:
        return None
    refusal = course.purse.refusal(letter.ask.target.name, letter.estimate_nano)
    return None if refusal is None else Ending(JobStatus.FAILED, error=refusal)


async def _let_in(course: Course, ticket: Ticket) -> bool:
    """Wait in the line of the target. False: this job should look around again."""
    if ticket.coming is None:
        return ticket.admitted
    wait_s = IN_PLACE_S if ticket.urgent else LINE_S
    remaining = course.remaining_s()
    if remaining is not None:
        wait_s = max(0.0, min(wait_s, remaining))
    await course.control.until(ticket.coming, wait_s)
    return ticket.admitted


async def _call(course: Course, letter: Letter, ticket: Ticket) -> Ending | Return | None:
    """Mark, send, record. None: the call failed, and the walk has been told."""
    enter(course, letter, ticket)
    marked: AttemptRow | Ending | Return | None = None
    try:
        marked = await _mark(course, letter)
    finally:
        if not isinstance(marked, AttemptRow):
            leave(course, letter, ticket, None)
    if not isinstance(marked, AttemptRow):
        return marked
    sent = Sent(letter, marked, ticket, clock.monotonic_s())
    found = await (race(course, sent) if course.walk.hedges else _alone(course, sent))
    if found is None:
        return None
    return Ending(JobStatus.COMPLETED, result=result_of(found.answer), served=found.served)


async def _alone(course: Course, sent: Sent) -> Won | None:
    """The good answer; None: the call failed, and the walk has been told."""
    outcome: Outcome | None = None
    try:
        outcome, reply = await send(course, sent.letter)
    except asyncio.CancelledError:
        hung_up(course, sent)
        raise
    finally:
        leave(course, sent.letter, sent.ticket, outcome)
    landed(course, sent, outcome, reply)
    return won(sent, outcome) if isinstance(outcome, Answer) else None


async def _mark(course: Course, letter: Letter) -> AttemptRow | Ending | Return:
    """Commit the call as `sent`. Where it must not be made: how the job leaves."""
    row, mark = begun(course, letter)
    try:
        held = await asyncio.shield(mark)
    except OverBudget as exc:
        refused(course, row)
        return Ending(JobStatus.FAILED, error=exc.failure)
    except Closing:  # the process ends and the database is away; whether the mark is there nobody knows
        unsent(course, row)
        return Return()
    except asyncio.CancelledError:  # hung up before the bytes left; the mark is on its way all the same
        course.marking = (row, mark)
        raise
    if not held:
        refused(course, row)
        # The claim is lost, or somebody asked to stop between two calls: settle finds out which.
        return Return()
    if not course.bench.engine.fresh():
        # We were frozen while it was marked: the claim may have passed on since the mark looked at it.
        unsent(course, row)
        return Return()
    course.calls += 1
    return row


def interrupted(course: Course) -> Ending | Return:
    """How a job leaves that was hung up on: while calls of it were open, between two, or about to make one."""
    cut = next((row for row in course.done if row.kind is FailureKind.INTERRUPTED), None)
    why = cut.reason if cut is not None else None
    last = course.stops + 1 >= STOPS_MAX  # another stop would come before the answer again, and be paid again
    if last:
        why = f"{STOPS_MAX} workers were stopped before the answer came; DRAIN_S is how long a call may go on then"
    if cut is not None and (last or course.job.on_interruption == "fail"):
        return Ending(JobStatus.FAILED, error=Failure(FailureKind.INTERRUPTED, why or ""))
    return Return()


async def settle(courses: Sequence[Course], to: Ending | Return) -> None:
    """End the claim, with everything that is not yet on record: of a panel the ways of all its members."""
    bench, job = courses[0].bench, courses[0].job
    for course in courses:
        if course.marking is not None:
            (row, mark), course.marking = course.marking, None
            with suppress(OverBudget, Closing):
                if await mark:
                    unsent(course, row)
    move = settled(courses, to)
    entry = Entry(job.id, job.claim_id, settle=move, budget_key=job.budget_key)
    for course in courses:
        entry.begin = [*entry.begin, *course.skips]
        entry.close = [*entry.close, *course.done]
        course.skips, course.done = [], []
        course.left = True
    urgent = bench.engine.urgent(job.lane)
    try:
        moved = await bench.engine.writer.write(entry, urgent=urgent)
    except Closing:
        raise
    except Exception as exc:
        if not isinstance(to, Ending) or to.status is not JobStatus.COMPLETED:
            raise
        # The answer itself cannot be stored: the job ends visibly rather than never.
        failure = Failure(FailureKind.INTERNAL, f"the answer could not be stored ({type(exc).__name__})")
        ended = replace(entry, settle=replace(move, to=Ending(JobStatus.FAILED, error=failure)))
        moved = await bench.engine.writer.write(ended, urgent=urgent)
    if not moved:
        events.emit("claim.lost", level="warning", job_id=job.id, claim_id=job.claim_id)


async def settle_bare(bench: Bench, job: Claimed, to: Ending | Return) -> None:
    entry = Entry(job.id, job.claim_id, settle=Settle(job.id, job.claim_id, to))
    await bench.engine.writer.write(entry, urgent=bench.engine.urgent(job.lane))
