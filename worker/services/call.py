"""One upstream call of a job: written in its wire form, sent, and put on record. Which call it is, others decide."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

import httpx

from worker import clock, events
from worker.domain.answer import Answer, Call, Failure, Outcome
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Served
from worker.domain.state import AttemptState
from worker.domain.walk import Ask
from worker.engine.entry import Entry
from worker.limits.gate import Ticket
from worker.providers.format import Format, Unfit
from worker.providers.formats import FORMATS
from worker.providers.redaction import MASK
from worker.providers.transport import Reply
from worker.providers.waits import counters
from worker.services.course import DUE_S, Course, closed, estimate, judge, size_of, with_repair

_TIMERS_S: Final = 10 * DUE_S  # a loop's timer may be early by some of these
_LEAST_KEY: Final = 8  # letters


@dataclass(frozen=True, slots=True)
class Letter:
    """A call in its wire form, ready to go."""

    ask: Ask
    call: Call
    wire: Format
    request: httpx.Request
    estimate_nano: int | None  # what it may cost, where a budget is kept


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that is marked, with its place among those that its provider takes."""

    letter: Letter
    row: AttemptRow
    ticket: Ticket
    at_s: float  # on this process's steady clock


@dataclass(frozen=True, slots=True)
class Won:
    """A good answer: what the job ends with."""

    answer: Answer
    served: Served


def written(course: Course, ask: Ask) -> Letter | None:
    """The call in the target's wire form; None where that has no way to say it: the target is passed over."""
    catalog = course.bench.catalog
    spec = catalog.providers[ask.target.provider]
    wire = FORMATS[spec.format]
    request = course.request if not ask.repair else with_repair(course)
    call = Call(course.kind, spec.base_url, ask.target.model, request, course.schema)
    if course.seat is not None and "schema" not in ask.target.takes:
        call = replace(call, output_schema=None)  # the words of a panel's request say how to answer, too
    secret = catalog.secret(spec.name, ask.key.name) if ask.key is not None else None
    try:
        try:
            built = wire.build_request(call, secret)
        except Unfit:
            if course.seat is None or call.output_schema is None:
                raise
            call = replace(call, output_schema=None)
            built = wire.build_request(call, secret)
    except Unfit as exc:
        course.walk.unfit(ask.target.name, str(exc))
        return None
    return Letter(ask, call, wire, built, estimate(course, ask))


def joined(course: Course, letter: Letter) -> Ticket:
    """A ticket for the line of the call's target; let in at once where there is no line."""
    ask, urgent = letter.ask, course.job.lane is Lane.INTERACTIVE
    return course.bench.gate.join(ask.target, ask.key, size_of(course), clock.monotonic_s(), urgent=urgent)


def enter(course: Course, letter: Letter, ticket: Ticket) -> None:
    """In the same breath as the door was looked at: of many that wait to probe a target, one goes."""
    ask, again = letter.ask, course.walk.repeats(letter.ask.target)
    course.bench.gate.enter(ticket, ask.target, ask.key, clock.monotonic_s(), again=again)


def leave(course: Course, letter: Letter, ticket: Ticket, outcome: Outcome | None) -> None:
    """The call is over; None: without a verdict."""
    course.bench.gate.leave(ticket, letter.ask.target, letter.ask.key, outcome, clock.monotonic_s())


def begun(course: Course, letter: Letter) -> tuple[AttemptRow, asyncio.Future[bool]]:
    """The row of a call that is about to be made, and its way to the database, with all that waits to be written.

    The future says whether the call may be made (as `Writer.write`); what else it carries is stored in any case.
    """
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
        member=course.seat.asks(target) if course.seat is not None else None,
        held_nano=letter.estimate_nano,
    )
    if course.purse is not None:
        course.purse.hold(row)
    rows, course.skips = [*course.skips, row], []
    close, course.done = course.done, []
    entry = Entry(job.id, job.claim_id, begin=rows, close=close, budget_key=job.budget_key)
    return row, course.bench.engine.writer.write(entry, urgent=course.bench.engine.urgent(job.lane))


async def send(course: Course, letter: Letter) -> tuple[Outcome, Reply | None]:
    """Make the call, within the route's bounds and the job's deadline."""
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
        return _cut(course, reply), None
    _heed(course, letter.ask, reply)
    outcome = letter.wire.read_response(letter.call, reply.status, reply.headers, reply.body)
    if isinstance(outcome, Failure) and (key := _key(course, letter.ask)) and key in reply.body:
        reply = replace(reply, body=reply.body.replace(key, MASK.encode()))  # a failure is shown to whoever asked
        outcome = letter.wire.read_response(letter.call, reply.status, reply.headers, reply.body)
    return judge(course, outcome) if isinstance(outcome, Answer) else outcome, reply


def _key(course: Course, ask: Ask) -> bytes:
    """What the call was made with; nothing where that is no secret (servers that take any key are given `none`)."""
    secret = "" if ask.key is None else course.bench.catalog.secret(ask.target.provider, ask.key.name)
    return secret.encode() if len(secret) >= _LEAST_KEY else b""


def _heed(course: Course, ask: Ask, reply: Reply) -> None:
    """What the provider says of its own limits."""
    gate, now_s = course.bench.gate, clock.monotonic_s()
    if gate.reads_counters(ask.target, now_s):
        found = counters(reply.headers, clock.now())
        seen = [(c.limit, c.remaining, c.reset_s) for c in found if c.remaining is not None and c.reset_s is not None]
        if seen:
            gate.counted(ask.target, ask.key, seen, now_s)


def _cut(course: Course, failure: Failure) -> Failure:
    """A call that our own deadline cut says nothing against its target: no breaker opens for it."""
    remaining = course.remaining_s()
    if failure.kind is not FailureKind.TIMEOUT or remaining is None or remaining > _TIMERS_S:
        return failure
    message = "the deadline of the job passed before the reply was complete"
    return replace(failure, kind=FailureKind.DEADLINE, message=message)


def landed(course: Course, sent: Sent, outcome: Outcome, reply: Reply | None, *, beaten_by: str | None = None) -> None:
    """Put a call that came to its end on record. `beaten_by`: the target whose answer the job ends with instead."""
    row = closed(course, sent.letter.ask.target, sent.row, outcome, reply)
    if beaten_by is not None and isinstance(outcome, Answer):
        row = replace(row, state=AttemptState.SUPERSEDED, reason=lost_to(beaten_by))
    course.done.append(row)
    _log(course.job, row)
    if isinstance(outcome, Failure):
        course.walk.failed(row.target, row.key_name, outcome, at_s=clock.now().timestamp(), draw=clock.draw())


def refused(course: Course, row: AttemptRow) -> None:
    """The call was not marked, and is not made."""
    course.rows -= 1
    if course.purse is not None:
        course.purse.release(row)


def unsent(course: Course, row: AttemptRow) -> None:
    """The call was marked and not made: the row says so."""
    if course.purse is not None:
        course.purse.release(row)
    course.done.append(replace(row, state=AttemptState.CANCELLED, reason="stopped before the request left"))


def given_up(course: Course, sent: Sent, kind: FailureKind, reason: str) -> None:
    """Put an open call that is hung up on record: whether it was billed is unknown."""
    course.cost_complete = False
    total_s = clock.monotonic_s() - sent.at_s
    row = replace(sent.row, state=AttemptState.CANCELLED, kind=kind, reason=reason, total_s=total_s)
    if course.purse is not None:
        course.purse.pay(row)
    course.done.append(row)
    _log(course.job, row)


def hung_up(course: Course, sent: Sent) -> None:
    """Given up because the job was cancelled, at the end of a drain, or because a panel needs it no more."""
    if course.seat is not None and course.seat.dropped is not None:
        given_up(course, sent, FailureKind.CANCELLED, course.seat.dropped)
    elif course.control.why == "draining":
        given_up(course, sent, FailureKind.INTERRUPTED, "the worker stopped before the answer came")
    else:
        given_up(course, sent, FailureKind.CANCELLED, "hung up: the job was cancelled")


def won(sent: Sent, answer: Answer) -> Won:
    target = sent.letter.ask.target
    return Won(answer, Served(target.provider, target.label, answer.model or target.model))


def lost_to(winner: str) -> str:
    return f"lost the race: {winner} answered first"


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
