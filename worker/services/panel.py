"""The panel of one claim: a seat and a way of its own for each member, rebuilt from the rows of earlier claims. No I/O.

`predict` runs it; here is how it begins, what each member may ask, and what the votes come to as a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from worker.domain import judging
from worker.domain.answer import Failure, Json
from worker.domain.budget import Purse, maybe_billed
from worker.domain.consensus import Ballot, Member, Ruling, Verdict
from worker.domain.decision import decide
from worker.domain.failure import RETRYABLE, FailureKind
from worker.domain.job import AttemptRow, Claimed, Ending
from worker.domain.money import added, cost_json
from worker.domain.panel import JUDGE, Panel, alike, read_panel
from worker.domain.question import messages, schema_for
from worker.domain.route import Route, Target, needs_of
from worker.domain.state import AttemptState, JobStatus
from worker.domain.vote import Abstained, Unusable, Usable, Vote, read_vote
from worker.domain.walk import Closed, Walk
from worker.engine.control import Control
from worker.engine.held import Held
from worker.providers.catalog import UnknownModel
from worker.services.course import Bench, Course, deadline_of, purse_of, replay, stops_of
from worker.services.schema import fits
from worker.store.attempts import Attempt
from worker.store.text import dumps, loads


@dataclass(slots=True)
class Seat:
    """A member at work; see `course.Seat`.

    own      its models as they were asked for: samples of one route have the same, and stand in nobody's way
    first    the target it speaks for; None: its models are not known any more
    asked    the target of its newest call
    ballot   what came of it; None: nothing yet
    voted    the call that answered
    failure  why there is no answer
    """

    place: Member
    own: tuple[str, ...]
    first: Target | None
    course: Course | None
    reads: Callable[[str | None], str | None]
    others: Sequence[Seat] = ()
    history: Sequence[Attempt] = ()
    asked: Target | None = None
    ballot: Ballot | None = None
    voted: AttemptRow | None = None
    failure: Failure | None = None
    dropped: str | None = None

    @property
    def member(self) -> str:
        return self.place.name

    def asks(self, target: Target) -> str:
        self.asked = target
        return self.member

    def complaint(self, text: str | None) -> str | None:
        return self.reads(text)

    def taken(self, target: Target) -> Closed | None:
        """Who falls back to a model that sits on the panel already would give it a second vote."""
        if self.first is not None and target.name == self.first.name:
            return None
        for other in self.others:
            if other is self or other.own == self.own:
                continue
            if any(on is not None and alike(on, target) for on in (other.first, other.asked)):
                return Closed(FailureKind.NO_TARGET, 0.0, f"{target.name} is on the panel already, as {other.member}")
        return None

    def spent(self) -> tuple[int | None, bool]:
        """Nano-dollars over all its calls, and whether that is all of it."""
        nano, complete = None, True
        for past in self.history:
            nano = added(nano, past.row.cost_nano)
            complete = complete and (past.row.cost_nano is not None or not maybe_billed(past.row))
        if self.course is not None:
            nano, complete = added(nano, self.course.cost), complete and self.course.cost_complete
        return nano, complete


@dataclass(slots=True)
class Sitting:
    """One claim of a prediction."""

    bench: Bench
    job: Claimed
    control: Control
    panel: Panel
    seats: list[Seat]
    purse: Purse | None
    deadline_s: float | None
    numbers: Iterator[int]
    stops: int
    history: Mapping[str, Sequence[Attempt]]
    judge: Seat | None = None
    shown: tuple[judging.Candidate, ...] = field(default=())

    @property
    def courses(self) -> list[Course]:
        seats = self.seats if self.judge is None else [*self.seats, self.judge]
        return [seat.course for seat in seats if seat.course is not None]

    @property
    def ballots(self) -> list[Ballot]:
        return [seat.ballot for seat in self.seats if seat.ballot is not None]

    @property
    def usable(self) -> int:
        return sum(isinstance(ballot.vote, Usable) for ballot in self.ballots)

    @property
    def has_quorum(self) -> bool:
        return self.usable >= max(1, self.panel.consensus.quorum)

    def read(self, text: str | None) -> Vote:
        return read_vote(self.panel.question.answer, text, language=self.panel.question.language)


def convened(bench: Bench, held: Held, control: Control) -> Sitting:
    """The panel with the votes that are on record already."""
    job = held.job
    panel = read_panel(loads(job.body)["input"])
    history: dict[str, list[Attempt]] = {}
    for past in held.history:
        history.setdefault(past.row.member or "", []).append(past)
    sitting = Sitting(
        bench,
        job,
        control,
        panel,
        [],
        purse_of(held),
        deadline_of(job),
        count(job.rows + 1),
        stops_of(held.history),
        history,
    )
    request = {"messages": messages(panel.question), **panel.parameters}
    schema = schema_for(panel.question.answer)

    def reads(text: str | None) -> str | None:
        vote = sitting.read(text)
        return vote.reason if isinstance(vote, Unusable) else None

    for place, member in zip(panel.places, panel.members(), strict=True):
        try:
            route = bench.catalog.resolve(place.models)
        except UnknownModel as exc:  # the settings have changed since
            seat = Seat(member, place.models, None, None, reads)
            failed(seat, Failure(FailureKind.NO_TARGET, str(exc)))
        else:
            seat = Seat(member, place.models, route.targets[0], None, reads, sitting.seats)
            _begin(sitting, seat, route, request, schema)
        sitting.seats.append(seat)
    for seat in sitting.seats:
        if seat.ballot is None and (row := _answered(seat.history)) is not None:
            vote(sitting, seat, row)
    return sitting


def judge_of(sitting: Sitting) -> Seat | None:
    """The judge's seat; None: it is not known any more.

    What a judge said in an earlier claim is not used again: it spoke of the answers that were there then.
    """
    panel = sitting.panel
    sitting.shown = judging.candidates(panel.question, sitting.ballots, sitting.job.id)
    schema = judging.schema_for(sitting.shown)

    def reads(text: str | None) -> str | None:
        value, why = fits(schema, text)
        return why if judging.ruling_of(sitting.shown, value) is None else None

    assert panel.consensus.judge is not None, "a panel with this method has one"
    models = (panel.consensus.judge,)
    try:
        route = sitting.bench.catalog.resolve(models)
    except UnknownModel:
        return None
    seat = Seat(Member(JUDGE, len(sitting.seats)), models, route.targets[0], None, reads)
    request = {"messages": judging.messages(panel.question, sitting.shown), **panel.parameters}
    _begin(sitting, seat, route, request, schema)
    sitting.judge = seat
    return seat


def _begin(sitting: Sitting, seat: Seat, route: Route, request: Mapping[str, Json], schema: Mapping[str, Json]) -> None:
    job = sitting.job
    needs = needs_of("completion", request, schema=False, size=len(job.body))
    most = job.max_attempts if job.max_attempts is not None else route.max_attempts
    walk = Walk(route, job.lane, needs, most)
    seat.history = sitting.history.get(seat.member, ())
    replay(walk, seat.history)
    known = {target.name: target for target in route.targets}
    for past in seat.history:
        if past.row.state is not AttemptState.SKIPPED:
            seat.asked = known.get(past.row.target, seat.asked)
    seat.course = Course(
        sitting.bench,
        job,
        sitting.control,
        walk,
        "completion",
        request,
        schema,
        sitting.purse,
        sitting.deadline_s,
        sitting.numbers,
        stops=sitting.stops,
        seat=seat,
    )


def _answered(history: Sequence[Attempt]) -> AttemptRow | None:
    return next((p.row for p in history if p.row.state is AttemptState.ANSWERED and p.row.answer is not None), None)


# -- what came of a member ----------------------------------------------------------------------------------------


def answered_now(seat: Seat) -> AttemptRow:
    """The call that ended a member's way well: it is not on record yet."""
    assert seat.course is not None
    return next(row for row in reversed(seat.course.done) if row.state is AttemptState.ANSWERED)


def vote(sitting: Sitting, seat: Seat, row: AttemptRow) -> None:
    seat.voted = row
    seat.ballot = Ballot(seat.place, sitting.read(row.answer))


def failed(seat: Seat, failure: Failure) -> None:
    seat.failure = failure
    seat.ballot = Ballot(seat.place, Unusable(failure.message))


def left_out(seat: Seat, why: str) -> None:
    seat.ballot = Ballot(seat.place, Unusable(why))


# -- what they come to --------------------------------------------------------------------------------------------


def nobody(sitting: Sitting) -> Failure | None:
    """Why a prediction fails: no member answered at all. None: one did, and what it said is a result; or one was not
    waited for, so that how fast it would have been decides nothing.
    """
    failures = [seat.failure for seat in sitting.seats if seat.failure is not None]
    if any(seat.voted is not None or seat.dropped is not None for seat in sitting.seats) or not failures:
        return None
    hopeful = next((failure for failure in failures if failure.kind in RETRYABLE), failures[0])
    said = "; ".join(f"{seat.member}: {seat.failure.message}" for seat in sitting.seats if seat.failure is not None)
    return Failure(hopeful.kind, f"no member of the panel answered: {said}"[:500])


def concluded(sitting: Sitting) -> Ending:
    """The panel's end, with or without a consensus."""
    failure = nobody(sitting)
    if failure is not None:
        return Ending(JobStatus.FAILED, error=failure)
    panel, judge = sitting.panel, sitting.judge
    ruling = None
    if judge is not None and judge.voted is not None:
        value, _ = fits(judging.schema_for(sitting.shown), judge.voted.answer)
        ruling = judging.ruling_of(sitting.shown, value)
    verdict = decide(panel.question.answer, sitting.ballots, panel.consensus, ruling)
    return Ending(JobStatus.COMPLETED, result=dumps(_result(sitting, verdict, ruling)))


def _result(sitting: Sitting, verdict: Verdict, ruling: Ruling | None) -> dict[str, Json]:
    consensus = sitting.panel.consensus
    votes = [_vote_json(seat) for seat in sitting.seats]
    seats = sitting.seats if sitting.judge is None else [*sitting.seats, sitting.judge]
    nano, complete = None, True
    for seat in seats:
        own, whole = seat.spent()
        nano, complete = added(nano, own), complete and whole
    return {
        "answer": verdict.answer,
        "leading": verdict.leading,
        "agreement": verdict.agreement,
        "confidence": verdict.confidence,
        "consensus": verdict.consensus,
        "reason": verdict.reason,
        "method": consensus.method,
        "tie": consensus.tie,
        "tie_rule_used": verdict.tie_rule_used,
        "requested": len(sitting.seats),
        "usable": verdict.usable,
        "failed": sum(not one["usable"] for one in votes),
        "dissent": list(verdict.dissent),
        "votes": votes,
        "judge": None if consensus.method != "judge" else _judge_json(sitting, ruling),
        "cost": cost_json(nano, complete=complete),
    }


def _vote_json(seat: Seat) -> dict[str, Json]:
    ballot, row = seat.ballot, seat.voted
    assert ballot is not None
    cast = ballot.vote
    nano, complete = seat.spent()
    reason = "it abstained" if isinstance(cast, Abstained) else cast.reason if isinstance(cast, Unusable) else None
    asked = row.target if row is not None else seat.asked.name if seat.asked is not None else None
    return {
        "member": seat.member,
        "weight": seat.place.weight,
        "model": asked,
        "answer": cast.value if isinstance(cast, Usable) else None,
        "confidence": cast.confidence if isinstance(cast, Usable) else None,
        "rationale": None if isinstance(cast, Unusable) else cast.rationale,
        "usable": isinstance(cast, Usable),
        "reason": reason,
        "kind": seat.failure.kind.value if seat.failure is not None else None,
        "latency_s": row.total_s if row is not None else None,
        "cost": cost_json(nano, complete=complete),
    }


def _judge_json(sitting: Sitting, ruling: Ruling | None) -> dict[str, Json] | None:
    """None: it was not asked, for it could not have changed anything."""
    judge = sitting.judge
    if judge is None:
        return None
    nano, complete = judge.spent()
    return {
        "model": judge.voted.target if judge.voted is not None else judge.own[0],
        "answer": ruling.value if ruling is not None else None,
        "rationale": ruling.rationale if ruling is not None else None,
        "usable": ruling is not None,
        "reason": judge.failure.message if judge.failure is not None else None,
        "latency_s": judge.voted.total_s if judge.voted is not None else None,
        "cost": cost_json(nano, complete=complete),
    }
