"""Run one claimed job to its end: choose, mark, call, record. The one owner of retries.

Nothing is held while a provider is waited for. A call is marked `sent` in SQL before its bytes leave, and the same
statement checks that the claim still holds and that nobody asked to stop.
"""

from __future__ import annotations

import asyncio
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
from worker.engine.engine import Held
from worker.engine.entry import Entry
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
)
from worker.services.race import race
from worker.store.jobs import Settle


async def run(bench: Bench, held: Held, control: Control) -> None:
    """Take a claimed job as far as it goes now. Raises Closing when the outcome could not be written."""
    course = begin(bench, held, control)
    if isinstance(course, Ending):
        await _settle_bare(bench, held.job, course)
        return
    try:
        await _walk(course)
    except asyncio.CancelledError:
        # Hung up between calls: nothing is open, the claim goes back or the cancel is carried out. A job that has
        # said how it ends has nothing to add: the two would meet in one transaction, and either might win.
        if not course.left:
            await asyncio.shield(_settle(course, Return()))


async def _walk(course: Course) -> None:
    control = course.control
    while True:
        if control.asked():
            await _settle(course, Return())  # a job that is `cancelling` ends as cancelled by the same statement
            return
        remaining = course.remaining_s()
        if remaining is not None and remaining <= DUE_S:
            await _settle(course, expired(course))
            return
        step = course.walk.next(lambda target, key: closed_door(course, target, key), clock.draw())
        note_skips(course)
        match step:
            case Stop(failure) if failure.kind is FailureKind.DEADLINE:
                await _settle(course, expired(course))
                return
            case Stop(failure):
                ending = Ending(JobStatus.FAILED, error=failure, provider=course.walk.last_provider)
                await _settle(course, ending)
                return
            case Park() if (park := parked(course)) is not None:
                await _settle(course, park)
                return
            case Park(wait_s):
                if await _rest(course, wait_s):
                    continue
                return
            case Ask():
                if step.wait_s > 0.0:
                    await _rest(course, step.wait_s, park=False)
                    course.walk.again(step)  # the door may have closed meanwhile: it is looked at once more
                    continue
                letter = written(course, step)
                if letter is not None and await _ask(course, letter):
                    return


async def _rest(course: Course, wait_s: float, *, park: bool = True) -> bool:
    """Wait here when it is short; else give the place back (False: the job has left)."""
    remaining = course.remaining_s()
    if remaining is not None:  # it ends at its deadline, not at the end of a longer wait
        wait_s = min(wait_s, max(0.0, remaining))
    if wait_s > IN_PLACE_S and park:
        await _settle(course, Return(wait_s))
        if course.job.lane is Lane.INTERACTIVE:  # a batch line is found by the next look of any worker that has room
            course.bench.engine.wake_in(course.job.lane, wait_s)
        return False
    await course.control.sleep(wait_s)
    if park:
        course.walk.resumed()
    return True


async def _ask(course: Course, letter: Letter) -> bool:
    """One call, or two of which the first good answer wins. True when the job has left."""
    bench = course.bench
    if not bench.engine.fresh():
        await _settle(course, Return())
        return True
    if course.purse is not None and letter.estimate_nano is not None:
        refusal = course.purse.refusal(letter.ask.target.name, letter.estimate_nano)
        if refusal is not None:
            await _settle(course, Ending(JobStatus.FAILED, error=refusal))
            return True
    target, key = letter.ask.target, letter.ask.key
    ticket = joined(course, letter)
    try:
        if not ticket.admitted and not (
            await _let_in(course, ticket) and closed_door(course, target, key, waited=True) is None
        ):
            course.walk.again(letter.ask)  # it closed while we waited, or the wait was too long
            return False
        return await _call(course, letter, ticket)
    finally:
        bench.gate.quit(ticket)


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


async def _call(course: Course, letter: Letter, ticket: Ticket) -> bool:
    """Mark, send, record. True when the job has left."""
    enter(course, letter, ticket)
    row: AttemptRow | None = None
    try:
        row = await _mark(course, letter)
    finally:
        if row is None:
            leave(course, letter, ticket, None)
    if row is None:
        return True
    sent = Sent(letter, row, ticket, clock.monotonic_s())
    try:
        found = await (race(course, sent) if course.walk.hedges else _alone(course, sent))
    except asyncio.CancelledError:
        await asyncio.shield(_hung_up(course))
        return True
    if found is None:
        return False
    await _settle(course, Ending(JobStatus.COMPLETED, result=result_of(found.answer), served=found.served))
    return True


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


async def _mark(course: Course, letter: Letter) -> AttemptRow | None:
    """Commit the call as `sent`. None: it must not be made, and the job has left."""
    row, mark = begun(course, letter)
    try:
        held = await asyncio.shield(mark)
    except OverBudget as exc:
        course.rows -= 1
        await _settle(course, Ending(JobStatus.FAILED, error=exc.failure))
        return None
    except Closing:  # the process ends and the database is away; whether the mark is there nobody knows
        unsent(course, row)
        await _settle(course, Return())
        return None
    except asyncio.CancelledError:  # hung up before the bytes left; the mark is on its way all the same
        course.marking = (row, mark)
        await asyncio.shield(_hung_up(course))
        return None
    if not held:
        course.rows -= 1
        # The claim is lost, or somebody asked to stop between two calls: settle finds out which.
        await _settle(course, Return())
        return None
    if not course.bench.engine.fresh():
        # We were frozen while it was marked: the claim may have passed on since the mark looked at it.
        unsent(course, row)
        await _settle(course, Return())
        return None
    course.calls += 1
    return row


async def _hung_up(course: Course) -> None:
    """The job was interrupted while calls of it were open, or about to be made."""
    interrupted = next((row for row in course.done if row.kind is FailureKind.INTERRUPTED), None)
    why = interrupted.reason if interrupted is not None else None
    last = course.stops + 1 >= STOPS_MAX  # another stop would come before the answer again, and be paid again
    if last:
        why = f"{STOPS_MAX} workers were stopped before the answer came; DRAIN_S is how long a call may go on then"
    if interrupted is not None and (last or course.job.on_interruption == "fail"):
        await _settle(course, Ending(JobStatus.FAILED, error=Failure(FailureKind.INTERRUPTED, why or "")))
        return
    await _settle(course, Return())


async def _settle(course: Course, to: Ending | Return) -> None:
    """End the claim, with everything that is not yet on record."""
    job = course.job
    if course.marking is not None:
        (row, mark), course.marking = course.marking, None
        with suppress(OverBudget, Closing):
            if await mark:
                unsent(course, row)
    move = Settle(
        job.id,
        job.claim_id,
        to,
        calls=course.calls,
        rows=course.rows,
        usage=course.usage,
        cost_nano=course.cost,
        cost_complete=course.cost_complete,
    )
    entry = Entry(job.id, job.claim_id, begin=course.skips, close=course.done, settle=move, budget_key=job.budget_key)
    course.skips, course.done = [], []
    course.left = True
    urgent = course.bench.engine.urgent(job.lane)
    try:
        moved = await course.bench.engine.writer.write(entry, urgent=urgent)
    except Closing:
        raise
    except Exception as exc:
        if not isinstance(to, Ending) or to.status is not JobStatus.COMPLETED:
            raise
        # The answer itself cannot be stored: the job ends visibly rather than never.
        failure = Failure(FailureKind.INTERNAL, f"the answer could not be stored ({type(exc).__name__})")
        ended = replace(entry, settle=replace(move, to=Ending(JobStatus.FAILED, error=failure)))
        moved = await course.bench.engine.writer.write(ended, urgent=urgent)
    if not moved:
        events.emit("claim.lost", level="warning", job_id=job.id, claim_id=job.claim_id)


async def _settle_bare(bench: Bench, job: Claimed, ending: Ending) -> None:
    entry = Entry(job.id, job.claim_id, settle=Settle(job.id, job.claim_id, ending))
    await bench.engine.writer.write(entry, urgent=bench.engine.urgent(job.lane))
