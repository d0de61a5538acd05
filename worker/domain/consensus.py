"""From votes to one answer: pure, and the same whatever order the votes arrive in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.domain.answer import Json
from worker.domain.question import AnswerSpec
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


def check_consensus(spec: AnswerSpec, settings: Consensus, members: Sequence[str]) -> None:
    """Raises BadQuestion for settings that do not fit the answer's type or the panel."""
    raise NotImplementedError


def seated(names: Sequence[str], settings: Consensus, learned: Mapping[str, float] | None = None) -> tuple[Member, ...]:
    """The panel with its weights; `learned` by name, needed where settings.weights is `learned`."""
    raise NotImplementedError


def decide(spec: AnswerSpec, ballots: Sequence[Ballot], settings: Consensus, ruling: Ruling | None = None) -> Verdict:
    """What the ballots come to. `ruling` of a judge; None: there is none, or it failed, and the vote decides."""
    raise NotImplementedError


def closed(spec: AnswerSpec, ballots: Sequence[Ballot], open_members: Sequence[Member], settings: Consensus) -> bool:
    """Whether the open calls can be ended: whatever they would say, `consensus` and the answer stay as they are."""
    raise NotImplementedError


def needs_judge(spec: AnswerSpec, ballots: Sequence[Ballot], settings: Consensus) -> bool:
    """Whether a judge could change anything: there are two answers, a quorum, and no majority it must not overturn."""
    raise NotImplementedError
