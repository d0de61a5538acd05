"""One claim's way with a job: what has been asked, what is not yet written, what it came to so far. No I/O.

`run` drives it; here is how it begins, what may be asked next, and how a call is put on record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final, Protocol

from worker import clock
from worker.domain.answer import Answer, Failure, Kind, Outcome
from worker.domain.budget import Purse, maybe_billed, most_tokens, unpriced
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, Ending, Return, models_in
from worker.domain.money import NO_USAGE, Usage, added, estimate_tokens
from worker.domain.pause import MOST_SCOPES, Scope, mark_of
from worker.domain.route import Key, Target, needs_of, output_ceiling
from worker.domain.state import AttemptState, JobStatus
from worker.domain.walk import Ask, Closed, Skip, Walk
from worker.engine.control import Control
from worker.engine.engine import Engine
from worker.engine.held import Held
from worker.limits.gate import Gate, Size
from worker.providers.catalog import Catalog, UnknownModel
from worker.providers.classify import is_unfit
from worker.providers.redaction import one_line
from worker.providers.transport import Reply, Transport
from worker.services.pricing import priced
from worker.services.schema import fits
from worker.store.attempts import Attempt
from worker.store.settling import Settle
from worker.store.text import dumps, loads

DUE_S: Final = 0.001  # a deadline this near has passed
ANSWER_CUT: Final = 100_000  # characters kept of what a member of a panel said
PARKED_S: Final = 86_400.0  # who waits for a pause is woken when it ends; if nobody is left to do that, it is due then
EXCERPT: Final = 300  # of a reply that made no sense: bytes
_BEFORE: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every job of a process is run with."""

    engine: Engine
    catalog: Catalog
    gate: Gate
    transport: Transport
    max_answer_bytes: int


class Seat(Protocol):
    """What a member of a panel adds to a way.

    member   as its calls are recorded
    dropped  why its open call is hung up on while the job goes on; None: it is not
    """

    dropped: str | None

    @property
    def member(self) -> str: ...

    def asks(self, target: Target) -> str:
        """A call of this target is about to be made. The member's name."""

    def taken(self, target: Target) -> Closed | None:
        """Why this target is not for this member; None: it is."""

    def complaint(self, text: str | None) -> str | None:
        """Why an answer cannot be read; None: it can."""


@dataclass(slots=True)
class Course:
    """One claim's way: what has been asked, what is not yet written, what it came to so far.

    Each member of a panel has a way of its own; `numbers` and `purse` are those of the job.
    """

    bench: Bench
    job: Claimed
    control: Control
    walk: Walk
    kind: Kind
    request: Mapping[str, Any]
    schema: Mapping[str, Any] | None
    purse: Purse | None  # None: neither the job nor its key has a budget
    deadline_s: float | None  # on this process's steady clock
    numbers: Iterator[int]  # of the rows to come
    calls: int = 0
    rows: int = 0
    usage: Usage = NO_USAGE
    cost: int | None = None
    cost_complete: bool = True
    skips: list[AttemptRow] = field(default_factory=list)
    done: list[AttemptRow] = field(default_factory=list)  # closed calls that the next write takes along
    marking: tuple[AttemptRow, asyncio.Future[bool]] | None = None  # a mark that was under way when it was hung up
    left: bool = False  # the write that ends the claim is on its way
    broken_text: str | None = None  # an answer of the wrong shape, for the repair turn
    complaint: str = ""
    stops: int = 0  # earlier claims whose calls were hung up on because their worker was stopped
    seat: Seat | None = None  # None: no panel

    def remaining_s(self) -> float | None:
        return None if self.deadline_s is None else self.deadline_s - clock.monotonic_s()

    def next_number(self) -> int:
        self.rows += 1
        return next(self.numbers)


def begin(bench: Bench, held: Held, control: Control) -> Course | Ending:
    job = held.job
    assert job.kind != "prediction", "a panel has a way for each of its members"
    try:
        body = loads(job.body)
        route = bench.catalog.resolve(models_in(job.models))
    except UnknownModel as exc:
        return Ending(JobStatus.FAILED, error=Failure(FailureKind.NO_TARGET, str(exc)))
    schema = body["output_schema"]
    needs = needs_of(job.kind, body["input"], schema=schema is not None, size=len(job.body))
    most = job.max_attempts if job.max_attempts is not None else route.max_attempts
    walk = Walk(route, job.lane, needs, most)
    if held.history:
        replay(walk, held.history)
    numbers, stops = count(job.rows + 1), stops_of(held.history)
    purse, deadline = purse_of(held), deadline_of(job)
    return Course(bench, job, control, walk, job.kind, body["input"], schema, purse, deadline, numbers, stops=stops)


def purse_of(held: Held) -> Purse | None:
    job = held.job
    if job.max_cost_nano is None and job.budget_key is None:
        return None
    return Purse.after(job.max_cost_nano, (past.row for past in held.history))


def deadline_of(job: Claimed) -> float | None:
    """On this process's steady clock."""
    return None if job.remaining_s is None else clock.monotonic_s() + job.remaining_s


def stops_of(history: Sequence[Attempt]) -> int:
    """Claims, not calls: of a panel, or a hedged job, one stop cuts several."""
    return len(
        {
            past.row.claim_id
            for past in history
            if past.row.state is AttemptState.CANCELLED and past.row.kind is FailureKind.INTERRUPTED
        }
    )


def replay(walk: Walk, history: Sequence[Attempt]) -> None:
    """Bring a walk to where the rows on record say it was: failures in the order in which they came."""
    for past in sorted(history, key=lambda one: one.ended_at or _BEFORE):
        row = past.row
        if row.state is AttemptState.SKIPPED:
            walk.skipped(row.target, row.kind)
        elif row.state in {AttemptState.FAILED, AttemptState.LOST} and row.kind is not None:
            said = row.reason or row.kind.value
            unfit = is_unfit(row.kind, row.http_status, said)
            failure = Failure(row.kind, said, http_status=row.http_status, wait_s=row.retry_after_s, unfit=unfit)
            at_s = past.ended_at.timestamp() if past.ended_at is not None else 0.0
            walk.failed(row.target, row.key_name, failure, at_s=at_s, draw=0.5)
    walk.hedged = _overlapped(history)
    walk.resumed(rebuilt=True)


def _overlapped(history: Sequence[Attempt]) -> bool:
    """Whether a call of the job was sent while another was open; `history` is in the order of sending."""
    free_at = _BEFORE
    for past in history:
        if past.sent_at is not None and past.ended_at is not None:
            if past.sent_at < free_at:
                return True
            free_at = max(free_at, past.ended_at)
    return False


def closed_door(course: Course, target: Target, key: Key | None, *, waited: bool = False) -> Closed | None:
    """Why this target must not be asked now with this key; None: it may. `waited`: its line has been waited through."""
    if course.seat is not None and (taken := course.seat.taken(target)) is not None:
        return taken
    if course.purse is not None and _priced(course.bench, target, Usage(1, 1)) is None:
        return unpriced(target.name)
    urgent, again = course.job.lane is Lane.INTERACTIVE, course.walk.repeats(target)
    return course.bench.gate.look(target, key, clock.monotonic_s(), urgent=urgent, again=again, waited=waited)


def size_of(course: Course) -> Size:
    """What a call may take of a provider's tokens."""
    ceiling = output_ceiling(course.request) if course.kind == "completion" else 0
    return Size(estimate_tokens(len(course.job.body)), ceiling)


def parked(course: Course) -> Return | None:
    """How the job leaves when nothing but pauses stands in its way, everywhere; None: something else does."""
    now_s = clock.monotonic_s()
    found: dict[Scope, float] = {}
    for target, key in course.walk.doors():
        closing = course.bench.gate.pauses.closing(target, key, now_s)
        if closing is None:
            return None
        found[closing[0]] = closing[1]
    if not found:
        return None
    soonest = sorted(found, key=lambda scope: (found[scope], scope.id))
    wait_s = PARKED_S * (1.0 + clock.draw())
    if len(soonest) > MOST_SCOPES:  # one that it cannot name may end first: it looks again by itself
        wait_s = max(1.0, found[soonest[0]] - now_s) * (1.0 + clock.draw())
    remaining = course.remaining_s()
    if remaining is not None:
        wait_s = min(wait_s, max(0.0, remaining))
    return Return(wait_s, mark_of(soonest[:MOST_SCOPES]))


def estimate(course: Course, ask: Ask) -> int | None:
    """Nano-dollars that a call may cost; None: no budget is kept."""
    if course.purse is None:
        return None
    size = len(course.job.body)
    if ask.repair and course.broken_text is not None:
        size += len(course.broken_text) + len(course.complaint)
    return _priced(course.bench, ask.target, most_tokens(course.kind, course.request, size))


def judge(course: Course, answer: Answer) -> Outcome:
    """A good answer of the wrong shape is a failure of its own kind."""
    if course.kind != "completion" or answer.tool_calls:  # of a forced call many say that it ended by `stop`
        return answer
    if course.seat is not None:
        value, why = None, course.seat.complaint(answer.text)
    elif course.schema is not None:
        value, why = fits(course.schema, answer.text)
    else:
        return answer
    if why is None:
        return replace(answer, json=value)
    if answer.finish_reason == "length":  # cut by the caller's own ceiling: another call would be cut again
        return replace(answer, json=None)
    course.broken_text, course.complaint = answer.text, why
    return Failure(
        FailureKind.SCHEMA_MISMATCH,
        f"the answer does not fit {'output_schema' if course.seat is None else 'the question'}: {why}",
        http_status=200,
        usage=answer.usage,
        model=answer.model,
        request_id=answer.request_id,
    )


def with_repair(course: Course) -> Mapping[str, Any]:
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


def closed(course: Course, target: Target, row: AttemptRow, outcome: Outcome, reply: Reply | None) -> AttemptRow:
    """The row as it is stored after the call, and the sums with it."""
    usage = outcome.usage
    failure = outcome if isinstance(outcome, Failure) else None
    unsent = failure is not None and failure.unsent
    # Of an embedding no tokens come out, and most providers do not say so.
    silent = course.kind == "embedding" and usage.output_tokens is None
    billed = replace(usage, output_tokens=0) if silent else usage
    cost = 0 if unsent else _priced(course.bench, target, billed, outcome.model)
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
        reason=told(failure, reply) if failure is not None else None,
        usage=usage,
        cost_nano=cost,
        returned_model=outcome.model,
        provider_request_id=outcome.request_id,
    )
    if course.seat is not None and failure is None and isinstance(outcome, Answer):
        row = replace(row, answer=(outcome.text or "")[:ANSWER_CUT])
    course.usage = course.usage + usage
    course.cost = added(course.cost, cost)
    if cost is None and maybe_billed(row):
        course.cost_complete = False
    if course.purse is not None:
        course.purse.pay(row)
    return row


def told(failure: Failure, reply: Reply | None) -> str:
    """The failure's message; of a reply that made no sense, with how it began, for whoever has to find out why."""
    if failure.kind is not FailureKind.BAD_OUTPUT or reply is None or not reply.body:
        return failure.message
    return f"{failure.message}; the reply began: {one_line(reply.body[:EXCERPT].decode('utf-8', 'replace'), EXCERPT)}"


def _priced(bench: Bench, target: Target, usage: Usage, served_model: str | None = None) -> int | None:
    return priced(bench.catalog, target, usage, served_model)


def settled(courses: Sequence[Course], to: Ending | Return) -> Settle:
    """The move, with what the claim's ways came to in all."""
    job = courses[0].job
    calls, rows, usage, cost, complete = 0, 0, NO_USAGE, None, True
    for course in courses:
        calls += course.calls
        rows += course.rows
        usage += course.usage
        cost = added(cost, course.cost)
        complete &= course.cost_complete
    return Settle(job.id, job.claim_id, to, calls=calls, rows=rows, usage=usage, cost_nano=cost, cost_complete=complete)


def expired(course: Course) -> Ending:
    last = course.walk.last
    after = f" (last: {last.message})" if last is not None and last.kind is not FailureKind.DEADLINE else ""
    message = f"its deadline passed after {course.job.attempts + course.calls} calls{after}"
    return Ending(JobStatus.EXPIRED, error=Failure(FailureKind.DEADLINE, message))


def note_skips(course: Course) -> None:
    for skip in course.walk.skips:
        course.skips.append(_skip_row(course, skip))
    course.walk.skips.clear()


def _skip_row(course: Course, skip: Skip) -> AttemptRow:
    return AttemptRow(
        id=clock.new_id("att"),
        job_id=course.job.id,
        claim_id=course.job.claim_id,
        number=course.next_number(),
        state=AttemptState.SKIPPED,
        target=skip.target.name,
        provider=skip.target.provider,
        model=skip.target.model,
        member=course.seat.member if course.seat is not None else None,
        kind=skip.kind,
        reason=skip.reason,
    )


def result_of(answer: Answer) -> str:
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
