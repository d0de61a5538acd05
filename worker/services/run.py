"""Run one claimed job to its end: choose, mark, call, record. The one owner of retries.

Nothing is held while a provider is waited for. A call is marked `sent` in SQL before its bytes leave, and the same
statement checks that the claim still holds and that nobody asked to stop.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import httpx

from worker import clock, events
from worker.domain.answer import Answer, Call, Failure, Outcome
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Ending, Return, Served
from worker.domain.retry import IN_PLACE_S
from worker.domain.state import AttemptState, JobStatus
from worker.domain.walk import Ask, Park, Stop
from worker.engine.control import Control
from worker.engine.engine import Held
from worker.engine.writer import Entry, OverBudget
from worker.providers.format import Format, Unfit
from worker.providers.formats import FORMATS
from worker.providers.transport import Reply
from worker.services.course import (
    DUE_S,
    Bench,
    Course,
    begin,
    closed,
    closed_door,
    estimate,
    expired,
    judge,
    note_skips,
    result_of,
    with_repair,
)
from worker.store.jobs import Settle

_UNSENT: Final = "stopped before the request left"


async def run(bench: Bench, held: Held, control: Control) -> None:
    """Take a claimed job as far as it goes now. Raises Closing when the outcome could not be written."""
    course = begin(bench, held, control)
    if isinstance(course, Ending):
        await _settle_bare(bench, held.job, course)
        return
    try:
        await _walk(course)
    except asyncio.CancelledError:
        # Hung up between calls: nothing is open, the claim goes back or the cancel is carried out.
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
            case Stop(failure):
                ending = Ending(JobStatus.FAILED, error=failure, provider=course.walk.last_provider)
                await _settle(course, ending)
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
                letter = _written(course, step)
                if letter is not None and await _ask(course, letter):
                    return


async def _rest(course: Course, wait_s: float, *, park: bool = True) -> bool:
    """Wait here when it is short; else give the place back (False: the job has left)."""
    remaining = course.remaining_s()
    if remaining is not None:  # it ends at its deadline, not at the end of a longer wait
        wait_s = min(wait_s, max(0.0, remaining))
    if wait_s > IN_PLACE_S and park:
        await _settle(course, Return(wait_s))
        course.bench.engine.wake_in(course.job.lane, wait_s)
        return False
    await course.control.sleep(wait_s)
    if park:
        course.walk.resumed()
    return True


@dataclass(frozen=True, slots=True)
class _Letter:
    """A call in its wire form, ready to go."""

    ask: Ask
    call: Call
    wire: Format
    request: httpx.Request
    estimate_nano: int | None  # what it may cost, where a budget is kept


def _written(course: Course, ask: Ask) -> _Letter | None:
    """The call in the target's wire form; None where that has no way to say it: the target is passed over."""
    catalog = course.bench.catalog
    spec = catalog.providers[ask.target.provider]
    wire = FORMATS[spec.format]
    request = course.request if not ask.repair else with_repair(course)
    call = Call(course.job.kind, spec.base_url, ask.target.model, request, course.schema)
    secret = catalog.secret(spec.name, ask.key.name) if ask.key is not None else None
    try:
        return _Letter(ask, call, wire, wire.build_request(call, secret), estimate(course, ask))
    except Unfit as exc:
        course.walk.unfit(ask.target.name, str(exc))
        return None


async def _ask(course: Course, letter: _Letter) -> bool:
    """One call. True when the job has left: it ended, or its claim was lost."""
    bench = course.bench
    if not bench.engine.fresh():
        await _settle(course, Return())
        return True
    if course.purse is not None and letter.estimate_nano is not None:
        refusal = course.purse.refusal(letter.ask.target.name, letter.estimate_nano)
        if refusal is not None:
            await _settle(course, Ending(JobStatus.FAILED, error=refusal))
            return True
    places = bench.gate.place(letter.ask.target)
    if places is None:
        return await _call(course, letter)
    try:
        await asyncio.wait_for(places.acquire(), IN_PLACE_S)
    except TimeoutError:
        wait_s = 0.2 + IN_PLACE_S * clock.draw()
        await _settle(course, Return(wait_s))
        bench.engine.wake_in(course.job.lane, wait_s)
        return True
    try:
        if closed_door(course, letter.ask.target, letter.ask.key) is not None:
            course.walk.again(letter.ask)  # it closed while we waited for a place
            return False
        return await _call(course, letter)
    finally:
        places.release()


async def _call(course: Course, letter: _Letter) -> bool:
    """Mark, send, record. True when the job has left.

    The door is entered in the same breath as it was looked at: of many that wait to probe a target, one goes.
    """
    gate, target, key = course.bench.gate, letter.ask.target, letter.ask.key
    tokens = course.walk.needs.tokens
    gate.enter(target, tokens, clock.monotonic_s())
    outcome: Outcome | None = None
    try:
        row = await _mark(course, letter)
        if row is None:
            return True
        if not course.bench.engine.fresh():
            # We were frozen while it was marked: the claim may have passed on since the mark looked at it.
            course.calls -= 1
            course.done.append(replace(row, state=AttemptState.CANCELLED, reason=_UNSENT))
            await _settle(course, Return())
            return True
        try:
            outcome, reply = await _send(course, letter)
        except asyncio.CancelledError:
            await asyncio.shield(_hung_up(course, row))
            return True
        if isinstance(outcome, Answer):
            outcome = judge(course, outcome)
    finally:
        gate.leave(target, key, outcome, tokens, clock.monotonic_s())
    row = closed(course, target, row, outcome, reply)
    course.done.append(row)
    _log(course.job, row)
    if isinstance(outcome, Answer):
        served = Served(target.provider, target.label, outcome.model or target.model)
        await _settle(course, Ending(JobStatus.COMPLETED, result=result_of(outcome), served=served))
        return True
    course.walk.failed(target.name, row.key_name, outcome, at_s=clock.now().timestamp(), draw=clock.draw())
    return False


async def _mark(course: Course, letter: _Letter) -> AttemptRow | None:
    """Commit the call as `sent`, with all that waits to be written. None: it must not be made, and the job has left."""
    job, target, key = course.job, letter.ask.target, letter.ask.key
    row = AttemptRow(
        id=clock.new_id("att"),
        job_id=job.id,
        claim_id=job.claim_id,
        number=course.next_number(),
        state=AttemptState.SENT,
        target=target.name,
        provider=target.provider,
        model=target.model,
        key_name=key.name if key is not None else None,
        held_nano=letter.estimate_nano,
    )
    begun, course.skips = [*course.skips, row], []
    close, course.done = course.done, []
    entry = Entry(job.id, job.claim_id, begin=begun, close=close, budget_key=job.budget_key)
    mark = course.bench.engine.writer.write(entry, urgent=course.bench.engine.urgent(job.lane))
    try:
        held = await asyncio.shield(mark)
    except OverBudget as exc:
        course.rows -= 1
        await _settle(course, Ending(JobStatus.FAILED, error=exc.failure))
        return None
    except asyncio.CancelledError:  # hung up before the bytes left; the mark is on its way all the same
        await asyncio.shield(_never_sent(course, row, mark))
        return None
    if not held:
        course.rows -= 1
        # The claim is lost, or somebody asked to stop between two calls: settle finds out which.
        await _settle(course, Return())
        return None
    course.calls += 1
    return row


async def _send(course: Course, letter: _Letter) -> tuple[Outcome, Reply | None]:
    bench, route = course.bench, course.walk.route
    total = route.attempt_timeout_s
    remaining = course.remaining_s()
    if remaining is not None:
        total = min(total, max(DUE_S, remaining))
    reply = await bench.transport.send(
        letter.request,
        connect_s=min(route.connect_timeout_s, total),
        first_byte_s=min(route.first_byte_timeout_s, total),
        total_s=total,
        max_bytes=bench.max_answer_bytes,
    )
    if isinstance(reply, Failure):
        return reply, None
    return letter.wire.read_response(letter.call, reply.status, reply.headers, reply.body), reply


async def _never_sent(course: Course, row: AttemptRow, mark: asyncio.Future[bool]) -> None:
    """The call was marked and not made: the row says so."""
    with suppress(OverBudget):
        if await mark:
            course.done.append(replace(row, state=AttemptState.CANCELLED, reason=_UNSENT))
    await _settle(course, Return())


async def _hung_up(course: Course, row: AttemptRow) -> None:
    """The open call was given up, by a cancel or at the end of a drain: whether it was billed is unknown."""
    course.cost_complete = False
    drained = course.control.why == "draining"
    why = "the worker stopped before the answer came" if drained else "hung up: the job was cancelled"
    kind = FailureKind.INTERRUPTED if drained else FailureKind.CANCELLED
    course.done.append(replace(row, state=AttemptState.CANCELLED, kind=kind, reason=why))
    if drained and course.job.on_interruption == "fail":
        await _settle(course, Ending(JobStatus.FAILED, error=Failure(kind, why)))
        return
    await _settle(course, Return())


async def _settle(course: Course, to: Ending | Return) -> None:
    """End the claim, with everything that is not yet on record."""
    job = course.job
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
    urgent = course.bench.engine.urgent(job.lane)
    try:
        moved = await course.bench.engine.writer.write(entry, urgent=urgent)
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


def _log(job: Claimed, row: AttemptRow) -> None:
    quiet = row.state is AttemptState.ANSWERED and job.lane is Lane.BATCH
    events.emit(
        "attempt.finished",
        level="debug" if quiet else "info",
        job_id=job.id,
        attempt_id=row.id,
        target=row.target,
        key=row.key_name,
        state=row.state.value,
        kind=row.kind.value if row.kind is not None else None,
        http_status=row.http_status,
        total_s=row.total_s,
    )
