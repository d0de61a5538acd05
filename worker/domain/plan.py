"""What would follow if a provider went on failing in one way: the policy table as a sequence that people can read.

Nothing is decided here. A Walk, the one that runs jobs, is asked for its next step and told of one more failure, until
it stops or the job's deadline passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind, Lane, Then, rule_for
from worker.domain.job import STARTS_MAX
from worker.domain.route import Needs, Route, Target
from worker.domain.walk import Ask, Park, Stop, Walk

Do = Literal["call", "repair", "wait", "fail", "expire", "end"]

SHOWN: Final = 3  # calls of one target and key that use up nothing; what follows them is more of the same
CALL_S: Final = 1.0  # what a call is taken to need
_ENOUGH: Final = 5_000  # steps; whoever still goes on then does so until the deadline
_UPPER: Final = 1.0  # the draw that no jitter exceeds: waits are shown as "at most"
_PROMPT: Final = Needs(frozenset({"completion"}), 1)


@dataclass(frozen=True, slots=True)
class PlanStep:
    """call, repair  one call of `target` with `key`, `wait_s` after what was before it; repair: with a turn to mend it
    wait             the job gives its place back for `wait_s` and is visible as queued
    fail, expire     how it ends; end: by our own decision, which this kind stands for

    wait_s   at most: the jitter only shortens it (a wait the provider names is a floor, with up to a tenth on top)
    counts   it uses up one of the job's `max_attempts`
    skipped  further steps, all like the last ones, that are left out after this one
    """

    do: Do
    target: str | None = None
    key: str | None = None
    wait_s: float = 0.0
    counts: bool = False
    skipped: int = 0


def plan(
    route: Route, lane: Lane, kind: FailureKind, *, hint_s: float | None = None, deadline_s: float = 86_400.0
) -> list[PlanStep]:
    """The steps of a job of this lane on this route when every call fails as `kind`.

    hint_s      the wait that each failure names; None: it names none
    deadline_s  of the job, from its first call
    """
    seen: Counter[tuple[str | None, str | None]] = Counter()
    shown: list[PlanStep] = []
    for step in _steps(route, lane, kind, hint_s, deadline_s):
        if step.do in {"call", "repair"} and not step.counts:
            seen[step.target, step.key] += 1
        ends = step.do in {"fail", "expire", "end"}
        if seen and max(seen.values()) > SHOWN and not ends:
            shown[-1] = replace(shown[-1], skipped=shown[-1].skipped + 1)
        else:
            shown.append(step)
    return shown


def joined(route: Route) -> tuple[Target, Target] | None:
    """The targets of a job's first call and of the one that joins it when it is slow; None: none does."""
    walk = Walk(route, Lane.INTERACTIVE, _PROMPT, route.max_attempts)
    first = walk.next()
    second = walk.hedge(first.target) if isinstance(first, Ask) else None
    return (first.target, second.target) if isinstance(first, Ask) and second is not None else None


def _steps(route: Route, lane: Lane, kind: FailureKind, hint_s: float | None, deadline_s: float) -> Iterator[PlanStep]:
    walk = Walk(route, lane, _PROMPT, route.max_attempts)
    failure = Failure(kind, kind.value, wait_s=hint_s)
    rule = rule_for(kind, lane, route.on)
    at_s, started = 0.0, 0
    for _ in range(_ENOUGH):
        step = walk.next(draw=_UPPER)
        match step:
            case Stop():
                yield PlanStep("end" if rule.then is Then.END else "fail")
                return
            case Park(wait_s):
                yield PlanStep("wait", wait_s=wait_s)
                at_s += wait_s
                walk.resumed()
            case Ask(target, key, wait_s, repair):
                at_s += wait_s
                if at_s < deadline_s:
                    name = key.name if key is not None else None
                    yield PlanStep("repair" if repair else "call", target.name, name, wait_s, not rule.free)
                    at_s += CALL_S
                    walk.failed(target.name, name, failure, at_s=at_s, draw=_UPPER)
                    started += 1
        if at_s >= deadline_s:
            break
        if kind is FailureKind.INTERRUPTED and started == STARTS_MAX:  # the store's rule, not the walk's
            yield PlanStep("fail")
            return
    yield PlanStep("expire")
