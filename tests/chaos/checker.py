"""Were the promises kept? Over what was told and what SQL says, when all is over; pure, so that it can be tested.

lost        an acknowledged job that SQL does not know, or a job in SQL that nobody asked for
stuck       an acknowledged job that has not ended
twice       two jobs made of one submission; a job that ended more than once, left a final state, or whose version
            did not go up by one with each move
failed      a job that ended without an answer, though not because its worker died STARTS_MAX times with it
foreign     a recorded answer that the provider never gave for this job
unrecorded  a call the provider saw and SQL does not, or the reverse for a call that is said to be answered
money       tokens or cost on record that are not those of the provider's ledger; a sum that does not add up
extra       more calls than jobs, refusals and calls in flight when a worker died account for
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from tests.chaos.books import FINAL, Books, Call, Job, Move
from tests.chaos.history import Event
from worker.domain.job import STARTS_MAX

# States of a call about which the provider may know more than we do.
UNKNOWN: Final = frozenset({"lost", "cancelled", "sent"})
SHOWN: Final = 5  # breaches of one promise that are told; the rest is counted

INPUT_NANO: Final = 1_000  # what the campaign's one model costs: a dollar per million tokens
OUTPUT_NANO: Final = 2_000


@dataclass(frozen=True, slots=True)
class Breach:
    promise: str
    what: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What the figures of a report are made of.

    given_up        jobs that ended as failed because their workers died too often
    sends           requests that reached the provider         refusals  those it refused
    extra           sends beyond one for each job that was sent, and beyond refusals
    in_flight       calls that were open when a worker was killed, frozen or hung up, summed over these moments
    reached         of these the ones that had reached the provider: no queue can know of them whether they count
    superseded      answers that came after the claim had passed on: refused, and kept beside the result
    unknown         answers the provider gave that are on no record, because whoever asked had died
    """

    jobs: int = 0
    completed: int = 0
    given_up: int = 0
    lost: int = 0
    stuck: int = 0
    twice: int = 0
    sends: int = 0
    refusals: int = 0
    extra: int = 0
    in_flight: int = 0
    reached: int = 0
    superseded: int = 0
    lost_calls: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    counts: Counts
    breaches: tuple[Breach, ...]

    def figures(self) -> dict[str, int]:
        return asdict(self.counts)

    def of(self, *promises: str) -> tuple[Breach, ...]:
        return tuple(breach for breach in self.breaches if breach.promise in promises)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The provider's own books, by the number of the request."""

    prompts: Mapping[int, str]
    answers: Mapping[int, Event]
    refusals: frozenset[int]
    asked: Mapping[str, Sequence[int]]  # by prompt
    sent_at: Mapping[int, float]

    @classmethod
    def of(cls, told: Sequence[Event]) -> Ledger:
        sends = [event for event in told if event.what == "send"]
        asked: dict[str, list[int]] = defaultdict(list)
        for event in sends:
            asked[event["prompt"]].append(event["n"])
        return cls(
            {event["n"]: event["prompt"] for event in sends},
            {event["n"]: event for event in told if event.what == "answer"},
            frozenset(event["n"] for event in told if event.what == "refusal"),
            asked,
            {event["n"]: event.at for event in sends},
        )


def check(history: Sequence[Event], books: Books) -> Verdict:
    """All promises at once, over a history that is over."""
    ledger = Ledger.of([event for event in history if event.who == "provider"])
    acknowledged = {event["job"]: event["prompt"] for event in history if event.what == "submit-ok"}
    wanted = {event["prompt"] for event in history if event.what == "submit-sent"}
    deaths = [event for event in history if event.who == "nemesis" and "open" in event.of]
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in books.calls:
        calls[call.job_id].append(call)
    found = [
        *_lost(acknowledged, wanted, books.jobs),
        *_stuck(acknowledged, books.jobs),
        *_twice(books.jobs, books.moves),
        *_failed(books.jobs, calls),
        *_foreign(books.jobs, ledger),
    ]
    for job in books.jobs:
        found += _unrecorded(job, calls[job.id], ledger)
        found += _money(job, calls[job.id], ledger)
    counts = _counts(acknowledged, books, calls, ledger, deaths)
    counts = replace(
        counts,
        lost=sum(1 for b in found if b.promise == "lost"),
        stuck=sum(1 for b in found if b.promise == "stuck"),
        twice=sum(1 for b in found if b.promise == "twice"),
    )
    if counts.extra > counts.in_flight:
        found.append(Breach("extra", f"{counts.extra} calls too many, {counts.in_flight} were in flight at a death"))
    found += _unexplained(books.jobs, calls, ledger, deaths)
    return Verdict(counts, tuple(found))


def _lost(acknowledged: Mapping[str, str], wanted: set[str], jobs: Sequence[Job]) -> Iterator[Breach]:
    known = {job.id: job for job in jobs}
    for job_id, prompt in acknowledged.items():
        if job_id not in known:
            yield Breach("lost", f"{job_id} was acknowledged and is not there")
        elif known[job_id].prompt != prompt:
            yield Breach("lost", f"{job_id} was acknowledged for {prompt!r} and asks {known[job_id].prompt!r}")
    for job in jobs:
        if job.prompt not in wanted:
            yield Breach("lost", f"{job.id} asks {job.prompt!r}, which nobody submitted")
    for prompt, count in Counter(job.prompt for job in jobs).items():
        if count > 1:
            yield Breach("twice", f"{count} jobs were made of {prompt!r}, which was submitted once")


def _stuck(acknowledged: Mapping[str, str], jobs: Sequence[Job]) -> Iterator[Breach]:
    for job in jobs:
        if job.id in acknowledged and job.status not in FINAL:
            yield Breach("stuck", f"{job.id} is {job.status} at the end")


def _twice(jobs: Sequence[Job], moves: Sequence[Move]) -> Iterator[Breach]:
    ended: Counter[str] = Counter()
    version: dict[str, int] = {}
    for move in moves:
        if move.was in FINAL:
            yield Breach("twice", f"{move.job_id} left {move.was} for {move.became}")
        elif move.became in FINAL:
            ended[move.job_id] += 1
        if move.version != move.version_was + 1 or move.version_was != version.get(move.job_id, 1):
            yield Breach("twice", f"{move.job_id} went from version {move.version_was} to {move.version}")
        version[move.job_id] = move.version
    for job in jobs:
        if job.status in FINAL and ended[job.id] != 1:
            yield Breach("twice", f"{job.id} is {job.status} and ended {ended[job.id]} times")
        if job.version != version.get(job.id, 1):
            yield Breach("twice", f"{job.id} has version {job.version}, its last move made {version.get(job.id, 1)}")


def _gave_up(job: Job) -> bool:
    return job.status == "failed" and job.error_kind == "poison" and job.deaths >= STARTS_MAX


def _failed(jobs: Sequence[Job], calls: Mapping[str, Sequence[Call]]) -> Iterator[Breach]:
    for job in jobs:
        if job.status in FINAL and job.status != "completed" and not _gave_up(job):
            states = ", ".join(call.state for call in calls.get(job.id, ()))
            yield Breach("failed", f"{job.id} is {job.status} ({job.error_kind}) after {states or 'no call'}")


def _foreign(jobs: Sequence[Job], ledger: Ledger) -> Iterator[Breach]:
    for job in jobs:
        if job.status != "completed":
            continue
        given = [ledger.answers[n]["text"] for n in ledger.asked.get(job.prompt, ()) if n in ledger.answers]
        if job.text not in given:
            yield Breach("foreign", f"{job.id} has {job.text!r}; the provider gave {given}")


def _unrecorded(job: Job, calls: Sequence[Call], ledger: Ledger) -> Iterator[Breach]:
    sends = ledger.asked.get(job.prompt, ())
    if len(calls) < len(sends):
        yield Breach("unrecorded", f"the provider saw {len(sends)} calls for {job.id}, on record are {len(calls)}")
    if job.status in FINAL and any(call.state == "sent" for call in calls):
        yield Breach("unrecorded", f"{job.id} is {job.status} and a call of it is still open")
    named = [call.request_id for call in calls if call.request_id is not None]
    if len(set(named)) != len(named):
        yield Breach("unrecorded", f"{job.id}: one call of the provider is on record twice")
    theirs = {f"req-{n}" for n in sends}
    for call in calls:
        if call.state in {"answered", "superseded"} and call.request_id not in theirs:
            yield Breach("unrecorded", f"{job.id} has an answer {call.request_id}, which the provider did not give it")


def _money(job: Job, calls: Sequence[Call], ledger: Ledger) -> Iterator[Breach]:
    by_name = {f"req-{n}": ledger.answers[n] for n in ledger.asked.get(job.prompt, ()) if n in ledger.answers}
    for call in calls:
        if call.state not in {"answered", "superseded"} or call.request_id not in by_name:
            continue
        given = by_name[call.request_id]
        cost = given["input"] * INPUT_NANO + given["output"] * OUTPUT_NANO
        if (call.input, call.output, call.cost_nano) != (given["input"], given["output"], cost):
            yield Breach("money", f"{call.id} has {call.input}+{call.output} tokens at {call.cost_nano} nano-dollars")
    recorded = {call.request_id for call in calls}
    # A call that is cancelled for no reason of a provider's or a person's was marked and never sent.
    nameless = sum(1 for call in calls if call.state in UNKNOWN and (call.state, call.kind) != ("cancelled", None))
    if len(set(by_name) - recorded) > nameless:
        yield Breach("money", f"{job.id}: {len(set(by_name) - recorded)} answers are on no record, {nameless} may be")
    if job.status not in FINAL:
        return
    # An answer that came after the end is on its call, and the job says that its own sum is not the whole.
    counted = [call for call in calls if call.state != "superseded"]
    for name in ("input", "output", "cost_nano"):
        least = sum(getattr(call, name) or 0 for call in counted)
        most = sum(getattr(call, name) or 0 for call in calls)
        if not least <= (getattr(job, name) or 0) <= most:
            yield Breach("money", f"{job.id} says {name} {getattr(job, name)}, its calls {least} to {most}")
    if nameless and job.cost_complete:
        yield Breach("money", f"{job.id} says its cost is complete, with {nameless} calls of unknown cost")


def _counts(
    acknowledged: Mapping[str, str],
    books: Books,
    calls: Mapping[str, Sequence[Call]],
    ledger: Ledger,
    deaths: Sequence[Event],
) -> Counts:
    recorded = {call.request_id for call in books.calls}
    prompt_of = {job.id: job.prompt for job in books.jobs}
    reached = 0
    for death in deaths:
        for opened in death["open"]:
            prompt = prompt_of.get(opened["job"], "")
            reached += any(ledger.sent_at[n] <= death.at for n in ledger.asked.get(prompt, ()))
    return Counts(
        jobs=len(acknowledged),
        completed=sum(1 for job in books.jobs if job.status == "completed"),
        given_up=sum(1 for job in books.jobs if _gave_up(job)),
        sends=len(ledger.prompts),
        refusals=len(ledger.refusals),
        extra=len(ledger.prompts) - len(ledger.refusals) - len(ledger.asked),
        in_flight=sum(len(death["open"]) for death in deaths),
        reached=reached,
        superseded=sum(1 for call in books.calls if call.state == "superseded"),
        lost_calls=sum(1 for call in books.calls if call.state == "lost"),
        unknown=sum(1 for n in ledger.answers if f"req-{n}" not in recorded),
    )


def _unexplained(
    jobs: Sequence[Job], calls: Mapping[str, Sequence[Call]], ledger: Ledger, deaths: Sequence[Event]
) -> Iterator[Breach]:
    """Each call after the first of a job has a reason on record, and a call said to be lost was open at a death."""
    opened = {one["call"] for death in deaths for one in death["open"]}
    for job in jobs:
        of_job = calls.get(job.id, ())
        sends = ledger.asked.get(job.prompt, ())
        reasons = sum(1 for call in of_job if call.state in {"lost", "superseded", "failed", "cancelled"})
        if len(sends) > 1 + reasons:
            yield Breach("extra", f"{job.id} was sent {len(sends)} times for {reasons} reasons")
        for call in of_job:
            if call.state == "lost" and call.id not in opened:
                yield Breach("extra", f"{call.id} of {job.id} is lost, and no worker died with it open")
