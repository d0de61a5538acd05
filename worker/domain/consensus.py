"""How the votes of a panel become one answer: the settings, the panel, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from worker.domain.answer import Json
from worker.domain.question import AnswerSpec, AnswerType, BadQuestion
from worker.domain.vote import Vote

Method = Literal[
    "majority",
    "weighted",
    "unanimous",
    "quorum",
    "mean",
    "median",
    "trimmed_mean",
    "geometric_odds",
    "per_field",
    "first_valid",
    "all",
    "judge",
]
TieRule = Literal["none", "first_member", "highest_confidence"]


@dataclass(frozen=True, slots=True)
class Consensus:
    """How votes become an answer.

    quorum         usable votes needed (method `quorum`: votes for one and the same answer)
    min_agreement  0..1; None: more than half for majority, weighted, per_field; no bound elsewhere
    tie            what decides between answers of equal weight; `none`: then there is no consensus
    early_stop     close as soon as the open calls cannot change the answer
    posterior      0.5..1: close also when the leader would stay ahead with this probability (majority, weighted)
    weights        by member; `learned`: from outcomes; None: all are equal
    tolerance      numbers agree within this share of the larger one, or of max - min; probabilities within this much
    trim           share of the weight that trimmed_mean drops at each end
    judge          the target that judges
    judge_may_overturn  whether the judge may choose against a majority
    """

    method: Method = "majority"
    quorum: int = 1
    min_agreement: float | None = None
    tie: TieRule = "none"
    early_stop: bool = True
    posterior: float | None = None
    weights: Mapping[str, float] | Literal["learned"] | None = None
    tolerance: float = 0.1
    trim: float = 0.2
    judge: str | None = None
    judge_may_overturn: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One seat of a panel. `place` counts from 0 in the order of the panel; no two share one."""

    name: str
    place: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Ballot:
    """A member that is done, with what came of it: also one that abstained, failed or said nothing of use."""

    member: Member
    vote: Vote


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the judge chose: an answer out of the votes."""

    value: Json
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a panel came to.

    answer         None without a consensus, so that nobody acts on it by mistake
    leading        the answer that was ahead, consensus or not; None: nobody's, or a tie
    agreement      0..1, the share of the usable weight that stands behind `leading`
    confidence     0..1, that `leading` is right, from what the members say of themselves; None: they said nothing
    reason         one sentence: how it came to this
    tie_rule_used  the rule that decided between equals; None: none was needed
    dissent        names of members that voted for something else, in the order of the panel
    usable         how many votes counted
    """

    answer: Json
    leading: Json
    agreement: float
    confidence: float | None
    consensus: bool
    reason: str
    tie_rule_used: TieRule | None
    dissent: tuple[str, ...]
    usable: int


# -- which settings fit ------------------------------------------------------------------------------------------

_ANY: Final[tuple[Method, ...]] = ("first_valid", "all", "judge")
_VOTED: Final[tuple[Method, ...]] = ("majority", "weighted", "unanimous", "quorum")
_POOLED: Final[tuple[Method, ...]] = ("median", "mean", "trimmed_mean")
METHODS: Final[Mapping[AnswerType, tuple[Method, ...]]] = {
    "boolean": (*_VOTED, *_ANY),
    "choice": (*_VOTED, *_ANY),
    "number": (*_POOLED, *_VOTED, *_ANY),
    "probability": ("geometric_odds", *_POOLED, *_ANY),
    "json": (*_VOTED, "per_field", *_ANY),
}
WEIGHING: Final[frozenset[Method]] = frozenset({"weighted", *_POOLED, "geometric_odds", "per_field", "judge"})
STOPPING: Final[frozenset[Method]] = frozenset({"majority", "weighted"})
LEAST_WEIGHT: Final = 1e-6
MOST_WEIGHT: Final = 1e6


def default_method(spec: AnswerSpec) -> Method:
    """The first of those that fit."""
    return METHODS[spec.type][0]


def check_consensus(spec: AnswerSpec, settings: Consensus, members: Sequence[str]) -> None:
    """Raises BadQuestion for settings that do not fit the answer's type or the panel."""
    if not members:
        raise BadQuestion("panel", "is empty", "Name at least one member.")
    _check_method(spec, settings)
    _check_bounds(settings, len(members))
    _check_weights(settings, members)
    if settings.method == "judge" and settings.judge is None:
        raise BadQuestion("consensus.judge", "is missing", "Name the model that judges.")
    if settings.method != "judge" and (settings.judge is not None or settings.judge_may_overturn):
        field = "judge" if settings.judge is not None else "judge_may_overturn"
        raise BadQuestion(f"consensus.{field}", f"does not go with {settings.method}", "Leave it out, or use judge.")


def _check_method(spec: AnswerSpec, settings: Consensus) -> None:
    fitting = METHODS[spec.type]
    if settings.method not in get_args(Method):
        raise BadQuestion("consensus.method", f"is {settings.method!r}", f"Use one of {', '.join(fitting)}.")
    if settings.method not in fitting:
        says = f"{settings.method} does not go with {spec.type} answers"
        raise BadQuestion("consensus.method", says, f"Use one of {', '.join(fitting)}.")
    if settings.method == "per_field" and (spec.schema or {}).get("type") != "object":
        raise BadQuestion("answer.schema", "is not of type object", 'Add `"type": "object"`, or use majority.')


def _check_bounds(settings: Consensus, size: int) -> None:
    if not 1 <= settings.quorum <= size:
        says = f"is {settings.quorum}, of a panel of {size}"
        raise BadQuestion("consensus.quorum", says, f"Use 1 to {size}, or a larger panel.")
    if settings.method == "quorum" and settings.quorum == 1 < size:
        says = "is 1: any one vote would decide"
        raise BadQuestion("consensus.quorum", says, "Say how many members have to give the same answer.")
    if settings.tie not in get_args(TieRule):
        raise BadQuestion("consensus.tie", f"is {settings.tie!r}", f"Use one of {', '.join(get_args(TieRule))}.")
    for field, value in (("min_agreement", settings.min_agreement), ("tolerance", settings.tolerance)):
        if value is not None and not 0 <= value <= 1:
            raise BadQuestion(f"consensus.{field}", f"is {value}", "Use 0 to 1.")
    if not 0 <= settings.trim < 0.5:
        raise BadQuestion("consensus.trim", f"is {settings.trim}", "Use 0 to less than 0.5: it is cut at both ends.")
    if settings.posterior is None:
        return
    if not 0.5 <= settings.posterior < 1:
        raise BadQuestion("consensus.posterior", f"is {settings.posterior}", "Use 0.5 to less than 1, such as 0.95.")
    if settings.method not in STOPPING or not settings.early_stop:
        says = "does not go with " + (settings.method if settings.early_stop else "early_stop: false")
        raise BadQuestion("consensus.posterior", says, "Leave it out, or use majority or weighted and early_stop.")


def _check_weights(settings: Consensus, members: Sequence[str]) -> None:
    weights = settings.weights
    if weights is None:
        if settings.method == "weighted":
            remedy = "Give each member's weight, or `learned`; without weights it is majority."
            raise BadQuestion("consensus.weights", "is missing", remedy)
        return
    if settings.method not in WEIGHING:
        says = f"does not go with {settings.method}, where all votes count the same"
        raise BadQuestion("consensus.weights", says, f"Leave it out, or use one of {', '.join(sorted(WEIGHING))}.")
    if isinstance(weights, str):
        if weights != "learned":
            raise BadQuestion("consensus.weights", f"is {weights!r}", "Use `learned`, or a weight for each member.")
        return
    models = {name for member in members for name in (member, _model(member))}
    for name, weight in weights.items():
        if name not in models:
            raise BadQuestion("consensus.weights", f"names {name!r}", "Weigh members of the panel only.")
        if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            remedy = f"Use {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}; leave out of the panel who shall not count."
            raise BadQuestion(f"consensus.weights.{name}", f"is {weight}", remedy)
    for member in members:
        if _weight(weights, member) is None:
            raise BadQuestion("consensus.weights", f"has none for {member!r}", "Give every member a weight.")


def _model(member: str) -> str:
    """Of one who sits several times: `groq/x#2` is groq/x."""
    name, _, number = member.rpartition("#")
    return name if name and number.isdecimal() else member


def _weight(weights: Mapping[str, float], member: str) -> float | None:
    return weights.get(member, weights.get(_model(member)))


def seated(names: Sequence[str], settings: Consensus, learned: Mapping[str, float] | None = None) -> tuple[Member, ...]:
    """The panel with its weights, by name or, of one who sits several times, by model.

    `learned` counts where settings.weights says so; who is not in it weighs what the others do on average.
    """
    match settings.weights:
        case None:
            weights: Mapping[str, float] = {}
        case str():
            weights = learned or {}
        case _:
            weights = settings.weights
    known = [weight for name in names if (weight := _weight(weights, name)) is not None]
    usual = math.fsum(known) / len(known) if known else 1.0
    found = [_weight(weights, name) for name in names]
    return tuple(
        Member(name, place, usual if weight is None else weight)
        for place, (name, weight) in enumerate(zip(names, found, strict=True))
    )
