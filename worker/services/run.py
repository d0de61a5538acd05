"""Run one claimed job to its end: choose, mark, call, record. The one owner of retries.

Nothing is held while a provider is waited for. A call is marked `sent` in SQL before its bytes leave, and the same
statement checks that the claim still holds and that nobody asked to stop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from worker import clock, events
from worker.domain.answer import Answer, Call, Failure, Outcome
from worker.domain.budget import Purse, maybe_billed, most_tokens, unpriced
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Ending, Return, Served
from worker.domain.money import NO_USAGE, Usage, cost_nano
from worker.domain.retry import IN_PLACE_S
from worker.domain.route import Key, Target, needs_of
from worker.domain.state import AttemptState, JobStatus
from worker.domain.walk import Ask, Closed, Park, Skip, Stop, Walk
from worker.engine.control import Control
from worker.engine.engine import Engine, Held
from worker.engine.writer import Entry, OverBudget
from worker.limits.gate import Gate
from worker.providers.catalog import Catalog, UnknownModel
from worker.providers.format import Format, Unfit
from worker.providers.formats import FORMATS
from worker.providers.prices import published_nano
from worker.providers.transport import Reply, Transport
from worker.services.schema import fits
from worker.store.attempts import Attempt
from worker.store.jobs import Settle
from worker.store.text import dumps

_DUE_S = 0.001  # a deadline this near has passed


@dataclass(frozen=True, slots=True)
class Bench:
    """What every job of a process is run with."""

    engine: Engine
    catalog: Catalog
    gate: Gate
    transport: Transport
    max_answer_bytes: int


@dataclass(slots=True)
class _Course:
    """One claim's way: what has been asked, what is not yet written, what it came to so far."""

    bench: Bench
    job: Claimed
    control: Control
    walk: Walk
    request: Mapping[str, Any]
    schema: Mapping[str, Any] | None
    purse: Purse | None  # None: neither the job nor its key has a budget
    deadline_s: float | None  # on this process's steady clock
    number: int
    calls: int = 0
    rows: int = 0
    usage: Usage = NO_USAGE
    cost: int | None = None
    cost_complete: bool = True
    skips: list[AttemptRow] = field(default_factory=list)
    done: list[AttemptRow] = field(default_factory=list)  # closed calls that the next write takes along
    broken_text: str | None = None  # an answer of the wrong shape, for the repair turn
    complaint: str = ""

    def remaining_s(self) -> float | None:
        return None if self.deadline_s is None else self.deadline_s - clock.monotonic_s()

    def next_number(self) -> int:
        self.number += 1
        self.rows += 1
        return self.number


async def run(bench: Bench, held: Held, control: Control) -> None:
    """Take a claimed job as far as it goes now. Raises Closing when the outcome could not be written."""
    course = _begin(bench, held, control)
    if isinstance(course, Ending):
        await _settle_bare(bench, held.job, course)
        return
    try:
        await _walk(course)
    except asyncio.CancelledError:
        # Hung up between calls: nothing is open, the claim goes back or the cancel is carried out.
        await asyncio.shield(_settle(course, Return()))


def _begin(bench: Bench, held: Held, control: Control) -> _Course | Ending:
    job = held.job
    try:
        body = json.loads(job.body)
        route = bench.catalog.resolve(tuple(json.loads(job.models)))
    except UnknownModel as exc:
        return Ending(JobStatus.FAILED, error=Failure(FailureKind.NO_TARGET, str(exc)))
    schema = body["output_schema"]
    needs = needs_of(job.kind, body["input"], schema=schema is not None, size=len(job.body))
    most = job.max_attempts if job.max_attempts is not None else route.max_attempts
    walk = Walk(route, job.lane, needs, most)
    if held.history:
        _replay(walk, held.history)
    purse = None
    if job.max_cost_nano is not None or job.budget_key is not None:
        purse = Purse.after(job.max_cost_nano, (past.row for past in held.history))
    deadline = None if job.remaining_s is None else clock.monotonic_s() + job.remaining_s
    return _Course(bench, job, control, walk, body["input"], schema, purse, deadline, job.rows)


def _replay(walk: Walk, history: Sequence[Attempt]) -> None:
    """Bring a walk to where the rows on record say it was."""
    for past in history:
        row = past.row
        if row.state is AttemptState.SKIPPED:
            walk.skipped(row.target, row.kind)
        elif row.state in {AttemptState.FAILED, AttemptState.LOST} and row.kind is not None:
            failure = Failure(row.kind, row.reason or row.kind.value, wait_s=row.retry_after_s)
            at_s = past.ended_at.timestamp() if past.ended_at is not None else 0.0
            walk.failed(row.target, row.key_name, failure, at_s=at_s, draw=0.5)
    walk.resumed()


async def _walk(course: _Course) -> None:
    control = course.control
    while True:
        if control.asked():
            await _settle(course, Return())  # a job that is `cancelling` ends as cancelled by the same statement
            return
        remaining = course.remaining_s()
        if remaining is not None and remaining <= _DUE_S:
            await _settle(course, _expired(course))
            return
        step = course.walk.next(lambda target, key: _closed_door(course, target, key), clock.draw())
        _note_skips(course)
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


def _closed_door(course: _Course, target: Target, key: Key | None) -> Closed | None:
    """Why this target must not be asked now with this key; None: it may."""
    if course.purse is not None and _priced(course.bench, target, Usage(1, 1)) is None:
        return unpriced(target.name)
    return course.bench.gate.look(target, key, clock.monotonic_s())


async def _rest(course: _Course, wait_s: float, *, park: bool = True) -> bool:
    """Wait here when it is short; else give the place back (False: the job has left)."""
    remaining = course.remaining_s()
    if remaining is not None and wait_s >= remaining:
        # It would wake after its deadline: it ends then, not now, unless nothing could change.
        wait_s = max(0.0, remaining)
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


def _written(course: _Course, ask: Ask) -> _Letter | None:
    """The call in the target's wire form; None where that has no way to say it: the target is passed over."""
    catalog = course.bench.catalog
    spec = catalog.providers[ask.target.provider]
    wire = FORMATS[spec.format]
    request = course.request if not ask.repair else _with_repair(course)
    call = Call(course.job.kind, spec.base_url, ask.target.model, request, course.schema)
    secret = catalog.secret(spec.name, ask.key.name) if ask.key is not None else None
    try:
        return _Letter(ask, call, wire, wire.build_request(call, secret), _estimate(course, ask))
    except Unfit as exc:
        course.walk.unfit(ask.target.name, str(exc))
        return None


def _estimate(course: _Course, ask: Ask) -> int | None:
    """Nano-dollars that a call may cost; None: no budget is kept."""
    if course.purse is None:
        return None
    size = len(course.job.body)
    if ask.repair and course.broken_text is not None:
        size += len(course.broken_text) + len(course.complaint)
    return _priced(course.bench, ask.target, most_tokens(course.job.kind, course.request, size))


async def _ask(course: _Course, letter: _Letter) -> bool:
    """One call. True when the job has left: it ended, or its claim was lost."""
    bench = course.bench
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
        if _closed_door(course, letter.ask.target, letter.ask.key) is not None:
            course.walk.again(letter.ask)  # it closed while we waited for a place
            return False
        return await _call(course, letter)
    finally:
        places.release()


async def _call(course: _Course, letter: _Letter) -> bool:
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
        try:
            outcome, reply = await _send(course, letter)
        except asyncio.CancelledError:
            await asyncio.shield(_hung_up(course, row))
            return True
        if isinstance(outcome, Answer):
            outcome = _judge(course, outcome)
    finally:
        gate.leave(target, key, outcome, tokens, clock.monotonic_s())
    row = _closed(course, target, row, outcome, reply)
    course.done.append(row)
    _log(course.job, row)
    if isinstance(outcome, Answer):
        served = Served(target.provider, target.label, outcome.model or target.model)
        await _settle(course, Ending(JobStatus.COMPLETED, result=_result(outcome), served=served))
        return True
    course.walk.failed(target.name, row.key_name, outcome, at_s=clock.now().timestamp(), draw=clock.draw())
    return False


async def _mark(course: _Course, letter: _Letter) -> AttemptRow | None:
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
    begin, course.skips = [*course.skips, row], []
    close, course.done = course.done, []
    entry = Entry(job.id, job.claim_id, begin=begin, close=close, budget_key=job.budget_key)
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


async def _send(course: _Course, letter: _Letter) -> tuple[Outcome, Reply | None]:
    bench, route = course.bench, course.walk.route
    total = route.attempt_timeout_s
    remaining = course.remaining_s()
    if remaining is not None:
        total = min(total, max(_DUE_S, remaining))
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


def _judge(course: _Course, answer: Answer) -> Outcome:
    """A good answer of the wrong shape is a failure of its own kind."""
    if course.schema is None or course.job.kind != "completion" or answer.finish_reason == "tool_calls":
        return answer
    value, why = fits(course.schema, answer.text)
    if why is None:
        return replace(answer, json=value)
    if answer.finish_reason == "length":  # cut by the caller's own ceiling: another call would be cut again
        return replace(answer, json=None)
    course.broken_text, course.complaint = answer.text, why
    return Failure(
        FailureKind.SCHEMA_MISMATCH,
        f"the answer does not fit output_schema: {why}",
        http_status=200,
        usage=answer.usage,
        model=answer.model,
        request_id=answer.request_id,
    )


def _with_repair(course: _Course) -> Mapping[str, Any]:
    """The same conversation, with the answer that did not fit and what was wrong with it."""
    request = dict(course.request)
    turns = request.pop("messages", None)
    if turns is None:
        turns = [{"role": "user", "content": request.pop("prompt", "")}]
    if course.broken_text is not None:
        turns = [
            *turns,
            {"role": "assistant", "content": course.broken_text},
            {
                "role": "user",
                "content": f"That does not fit the schema: {course.complaint}. Answer again with JSON that fits it.",
            },
        ]
    return {**request, "messages": turns}


def _closed(course: _Course, target: Target, row: AttemptRow, outcome: Outcome, reply: Reply | None) -> AttemptRow:
    """The row as it is stored after the call, and the sums with it."""
    usage = outcome.usage
    cost = _priced(course.bench, target, usage, outcome.model)
    failure = outcome if isinstance(outcome, Failure) else None
    status = reply.status if reply is not None else None
    if failure is not None and failure.http_status is not None:
        status = failure.http_status
    row = replace(
        row,
        state=AttemptState.ANSWERED if failure is None else AttemptState.FAILED,
        kind=failure.kind if failure is not None else None,
        http_status=status,
        first_byte_s=reply.first_byte_s if reply is not None else None,
        total_s=reply.total_s if reply is not None else None,
        retry_after_s=failure.wait_s if failure is not None else None,
        reason=failure.message if failure is not None else None,
        usage=usage,
        cost_nano=cost,
        returned_model=outcome.model,
        provider_request_id=outcome.request_id,
    )
    course.usage = course.usage + usage
    if cost is not None:
        course.cost = cost if course.cost is None else course.cost + cost
    elif maybe_billed(row):
        course.cost_complete = False
    if course.purse is not None:
        course.purse.pay(row)
    return row


def _priced(bench: Bench, target: Target, usage: Usage, served_model: str | None = None) -> int | None:
    """By the configured price, else by the published one: of the model as the provider names it, then as we do."""
    if target.price is not None:
        return cost_nano(usage, target.price)
    base_url = bench.catalog.providers[target.provider].base_url
    at = clock.now()
    served = published_nano(base_url, served_model, usage, at) if served_model is not None else None
    return served if served is not None else published_nano(base_url, target.model, usage, at)


async def _never_sent(course: _Course, row: AttemptRow, mark: asyncio.Future[bool]) -> None:
    """The call was marked and not made: the row says so."""
    with suppress(OverBudget):
        if await mark:
            course.done.append(replace(row, state=AttemptState.CANCELLED, reason="stopped before the request left"))
    await _settle(course, Return())


async def _hung_up(course: _Course, row: AttemptRow) -> None:
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


async def _settle(course: _Course, to: Ending | Return) -> None:
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


def _expired(course: _Course) -> Ending:
    last = course.walk.last
    after = f" (last: {last.message})" if last is not None else ""
    message = f"its deadline passed after {course.job.attempts + course.calls} calls{after}"
    return Ending(JobStatus.EXPIRED, error=Failure(FailureKind.DEADLINE, message))


def _note_skips(course: _Course) -> None:
    for skip in course.walk.skips:
        course.skips.append(_skip_row(course, skip))
    course.walk.skips.clear()


def _skip_row(course: _Course, skip: Skip) -> AttemptRow:
    return AttemptRow(
        id=clock.new_id("att"),
        job_id=course.job.id,
        claim_id=course.job.claim_id,
        number=course.next_number(),
        state=AttemptState.SKIPPED,
        target=skip.target.name,
        provider=skip.target.provider,
        model=skip.target.model,
        kind=skip.kind,
        reason=skip.reason,
    )


def _result(answer: Answer) -> str:
    if answer.embeddings is not None:
        return dumps({"embeddings": answer.embeddings})
    return dumps(
        {
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "tool_calls": answer.tool_calls or None,
            "json": answer.json,
            "message": answer.message,
        }
    )


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
