"""A prediction as it is stored: the question, who is asked, and how their votes become one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from worker.domain.answer import Json
from worker.domain.consensus import Consensus, Member, seated
from worker.domain.question import AnswerSpec, Question
from worker.domain.route import Target

MAX_MEMBERS: Final = 25
JUDGE: Final = "judge"  # as its calls are recorded; no member has this name


@dataclass(frozen=True, slots=True)
class Place:
    """A seat of the panel. `models`: a route, a target, or targets in order, of which the later ones are fallbacks."""

    name: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """`learned`: weights that were learned, as of the day the question was put; `parameters` go to every member."""

    question: Question
    places: tuple[Place, ...]
    consensus: Consensus
    learned: Mapping[str, float] | None = None
    parameters: Mapping[str, Json] = field(default_factory=dict)

    def members(self) -> tuple[Member, ...]:
        return seated([place.name for place in self.places], self.consensus, self.learned)

    @property
    def models(self) -> tuple[str, ...]:
        """Every name that has to be known, each once, in the order of the panel."""
        judge = () if self.consensus.judge is None else (self.consensus.judge,)
        return tuple(dict.fromkeys([*(model for place in self.places for model in place.models), *judge]))

    def stored(self) -> dict[str, Json]:
        question = self.question
        return {
            "question": question.text,
            "context": question.context,
            "language": question.language,
            "answer": asdict(question.answer),
            "panel": [{"name": place.name, "models": list(place.models)} for place in self.places],
            "consensus": asdict(self.consensus),
            "learned": None if self.learned is None else dict(self.learned),
            "parameters": dict(self.parameters),
        }


def read_panel(stored: Mapping[str, Json]) -> Panel:
    """What `Panel.stored` gave."""
    answer = stored["answer"]
    spec = AnswerSpec(**{**answer, "options": tuple(answer["options"])})
    return Panel(
        Question(stored["question"], stored["context"], spec, stored["language"]),
        tuple(Place(place["name"], tuple(place["models"])) for place in stored["panel"]),
        Consensus(**stored["consensus"]),
        stored["learned"],
        stored["parameters"],
    )


def places_of(asked: Sequence[Place]) -> tuple[Place, ...]:
    """Seats with names of their own: whoever sits twice is counted, `groq/x#1`, `groq/x#2`."""
    names = [place.name for place in asked]
    seen: dict[str, int] = {}
    made = []
    for place in asked:
        seen[place.name] = seen.get(place.name, 0) + 1
        own = place.name if names.count(place.name) == 1 else f"{place.name}#{seen[place.name]}"
        made.append(Place(own, place.models))
    return tuple(made)


def alike(one: Target, other: Target) -> bool:
    """Whether two targets are the same model, perhaps at different providers."""
    return one.name == other.name or _model(one) == _model(other)


def _model(target: Target) -> str:
    """`openai/gpt-oss-20b:cheapest` at one provider is `gpt-oss-20b` at another."""
    return target.model.rpartition("/")[2].partition(":")[0].casefold()
