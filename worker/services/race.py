"""A call that may be joined by a second one: the first good answer wins, the other call is hung up.

Only for jobs whose route asks for it (`hedge_after_s`); such a call has a task of its own, others have none.
A call that fails beside an open one is an attempt like any other: what follows is decided when none is open.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from worker import clock
from worker.domain.answer import Answer, Outcome
from worker.domain.failure import FailureKind
from worker.engine.entry import Entry
from worker.engine.writer import Closing, OverBudget, Spooled
from worker.providers.transport import Reply
from worker.services.call import (
    Sent,
    Won,
    begun,
    enter,
    given_up,
    hung_up,
    joined,
    landed,
    leave,
    lost_to,
    refused,
    send,
    unsent,
    won,
    written,
)
from worker.services.course import DUE_S, Course, closed_door


@dataclass(frozen=True, slots=True)
class _Open:
    sent: Sent
    task: asyncio.Task[tuple[Outcome, Reply | None]]


async def race(course: Course, first: Sent) -> Won | None:
    """The good answer; None: every call failed, and the walk has been told.

    Raises CancelledError when it was hung up before there was an answer; its calls are on record all the same.
    """
    after_s = course.walk.route.hedge_after_s
    calls = [_open(course, first)]
    try:
        if not await _ended(calls, after_s):
            second = await _second(course, first)
            if second is not None and (course.control.asked() or _answered(calls[0])):
                course.calls -= 1
                unsent(course, second.row)
                leave(course, second.letter, second.ticket, None)
            elif second is not None:
                calls.append(_open(course, second))
        while calls:
            await _ended(calls)
            found = _landed(course, calls)
            if found is not None:
                return found
            if calls:
                await _on_record(course)
    except asyncio.CancelledError:
        found = _landed(course, calls)
        if found is not None:  # it came along with the hang-up, and is paid for
            return found
        for call in calls:
            hung_up(course, call.sent)
        raise
    finally:
        for call in calls:
            _close(course, call)
    return None


def _open(course: Course, sent: Sent) -> _Open:
    return _Open(sent, asyncio.create_task(send(course, sent.letter)))


def _close(course: Course, call: _Open) -> None:
    call.task.cancel()
    leave(course, call.sent.letter, call.sent.ticket, None)


def _answered(call: _Open) -> bool:
    return call.task.done() and call.task.exception() is None and isinstance(call.task.result()[0], Answer)


async def _ended(calls: list[_Open], within_s: float | None = None) -> bool:
    """Whether one of them has ended by then."""
    done, _ = await asyncio.wait([call.task for call in calls], timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


def _landed(course: Course, calls: list[_Open]) -> Won | None:
    """Put the calls that have ended on record, and take them out; of a good answer the others are hung up."""
    found: Won | None = None
    winner: str | None = None
    for call in [call for call in calls if call.task.done()]:
        outcome, reply = call.task.result()
        calls.remove(call)
        leave(course, call.sent.letter, call.sent.ticket, outcome)
        landed(course, call.sent, outcome, reply, beaten_by=winner)
        if found is None and isinstance(outcome, Answer):
            found, winner = won(call.sent, outcome), call.sent.row.target
    if winner is not None:
        for call in calls:
            given_up(course, call.sent, FailureKind.CANCELLED, lost_to(winner))
            _close(course, call)
        calls.clear()
    return found


async def _second(course: Course, first: Sent) -> Sent | None:
    """The call that joins the first, marked; None: there is none to be had now, and the first goes on alone."""
    remaining = course.remaining_s()
    if course.control.asked() or (remaining is not None and remaining <= DUE_S):
        return None
    ask = course.walk.hedge(first.letter.ask.target, partial(closed_door, course))
    letter = written(course, ask) if ask is not None else None
    if letter is None:
        return None
    target = letter.ask.target
    if course.purse is not None and course.purse.refusal(target.name, letter.estimate_nano or 0) is not None:
        return None  # both are open until one has ended
    ticket = joined(course, letter)
    if not ticket.admitted:  # who would have to wait for a place comes too late
        course.bench.gate.quit(ticket)
        return None
    enter(course, letter, ticket)
    sent: Sent | None = None
    row, mark = begun(course, letter)
    try:
        if not await asyncio.shield(mark):
            refused(course, row)
        elif not course.bench.engine.fresh():  # as for the first call: the claim may have passed on meanwhile
            unsent(course, row)
        else:
            sent = Sent(letter, row, ticket, clock.monotonic_s())
            course.walk.hedged = True
            course.calls += 1
    except OverBudget:
        refused(course, row)
    except Closing:  # the process ends and the database is away; whether the mark is there nobody knows
        unsent(course, row)
    except asyncio.CancelledError:
        course.marking = (row, mark)
        raise
    finally:
        if sent is None:
            leave(course, letter, ticket, None)
    return sent


async def _on_record(course: Course) -> None:
    """A call failed and the other may take long: what is known is not kept in memory alone."""
    job = course.job
    close, course.done = course.done, []
    entry = Entry(job.id, job.claim_id, close=close, budget_key=job.budget_key)
    with suppress(Spooled):  # safe on disk, and the other call goes on
        await asyncio.shield(course.bench.engine.writer.write(entry, urgent=course.bench.engine.urgent(job.lane)))
