"""From a question as it was asked to the panel that is stored: named panels filled in, everything checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from worker.domain.answer import Json
from worker.domain.consensus import Consensus, check_consensus, default_method
from worker.domain.panel import JUDGE, MAX_MEMBERS, Panel, Place, places_of
from worker.domain.question import AnswerSpec, BadQuestion, Language, asked
from worker.settings import MemberConfig, PanelConfig, closest

DEFAULT: Final = "default"
_KNOWN: Final = frozenset(one.name for one in fields(Consensus))


@dataclass(frozen=True, slots=True)
class Asked:
    """panel: the name of one in the settings, or its seats; None: `samples` of one route (`model`)."""

    question: str
    answer: AnswerSpec
    context: str | None = None
    language: Language | None = None
    panel: str | Sequence[Place] | None = None
    model: str = DEFAULT
    samples: int = 1
    consensus: Mapping[str, Json] = field(default_factory=dict)
    parameters: Mapping[str, Json] = field(default_factory=dict)


def panel_of(panels: Mapping[str, PanelConfig], one: Asked) -> Panel:
    """`panels` of the settings. Whether its models are known is not looked at. Raises BadQuestion."""
    question = asked(one.question, one.answer, one.context, one.language)
    seats, usual = _seats(panels, one)
    if not 1 <= len(seats) <= MAX_MEMBERS:
        raise BadQuestion("panel", f"has {len(seats)} members", f"Give 1 to {MAX_MEMBERS}.")
    if any(place.name == JUDGE for place in seats):
        raise BadQuestion("panel", f"has a member named {JUDGE}", "Choose another name.")
    places = places_of(seats)
    settings = consensus_of(one.answer, {**usual, **one.consensus}, len(places))
    check_consensus(question.answer, settings, [place.name for place in places])
    return Panel(question, places, settings, parameters=one.parameters)


def consensus_of(spec: AnswerSpec, given: Mapping[str, Any], members: int) -> Consensus:
    """What is not said is the domain's own, but for the quorum: at least half of the panel. Raises BadQuestion."""
    for name in given:
        if name not in _KNOWN:
            raise BadQuestion(
                f"consensus.{name[:60]}", "is not a known field", f"Known are {', '.join(sorted(_KNOWN))}."
            )
    settings = Consensus(**{"method": default_method(spec), **given})
    if "quorum" not in given and settings.method not in _ANY_VOTE:
        settings = replace(settings, quorum=(members + 1) // 2)
    return settings


# One vote is an answer to these.
_ANY_VOTE: Final = frozenset({"first_valid", "all"})


def _seats(panels: Mapping[str, PanelConfig], one: Asked) -> tuple[list[Place], Mapping[str, Json]]:
    if one.panel is None:
        return [Place(one.model, (one.model,))] * one.samples, {}
    if not isinstance(one.panel, str):
        return list(one.panel), {}
    found = panels.get(one.panel)
    if found is None:
        near = closest(one.panel, panels)
        remedy = "Name one of completar.toml, or list its members." if near is None else f"Did you mean {near}?"
        raise BadQuestion("panel", "names no panel of the settings", remedy)
    return places_in(found), found.consensus


def places_in(panel: PanelConfig) -> list[Place]:
    return [_place(member) for member in panel.members]


def _place(member: str | MemberConfig) -> Place:
    if isinstance(member, str):
        return Place(member, (member,))
    return Place(member.name or member.model, (member.model, *member.fallback))
