"""The question of a prediction, as it is asked: a panel, and how its votes become one answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from worker.domain.consensus import Method, TieRule
from worker.domain.panel import MAX_MEMBERS, Place
from worker.domain.question import AnswerSpec, AnswerType, Language
from worker.services.ask import Asked
from worker.services.openai.fields import FIRST_FAULT, WHOLE, ModelName, Strict, Text, fault
from worker.services.openai.portable import Tokens, set_fields

Name = Annotated[str, Field(min_length=1, max_length=200)]
_Share = Annotated[float, Field(ge=0, le=1)]


class AnswerFields(Strict):
    """`options` go with choice, `unit`, `min` and `max` with number, `schema` with json."""

    type: AnswerType
    options: Annotated[list[Text], FIRST_FAULT] | None = None
    unit: Text | None = None
    min: float | None = None
    max: float | None = None
    shape: Annotated[dict[str, Any] | None, Field(alias="schema", description="JSON Schema of the answer.")] = None

    def spec(self) -> AnswerSpec:
        return AnswerSpec(self.type, tuple(self.options or ()), self.unit, self.min, self.max, self.shape)


class MemberFields(Strict):
    """`model` is a route, a target or a provider; `fallback` is asked, in order, where it fails."""

    model: ModelName
    fallback: Annotated[list[ModelName], Field(max_length=10)] = Field(default_factory=list)
    name: Name | None = None

    def place(self) -> Place:
        return Place(self.name or self.model, (self.model, *self.fallback))


class ConsensusFields(Strict):
    """How votes become an answer. `quorum` is at least half of the panel where it is not said."""

    method: Method | None = None
    quorum: Annotated[int, Field(ge=1, le=MAX_MEMBERS), WHOLE] | None = None
    min_agreement: _Share | None = None
    tie: TieRule | None = None
    early_stop: bool | None = None
    posterior: Annotated[float, Field(ge=0.5, le=1)] | None = None
    weights: (
        Annotated[
            Annotated[dict[Name, Annotated[float, Field(ge=0, le=1_000_000)]], Tag("fixed")]
            | Annotated[Literal["learned"], Tag("learned")],
            Discriminator(lambda given: "fixed" if isinstance(given, dict) else "learned"),
        ]
        | None
    ) = None
    tolerance: _Share | None = None
    trim: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    judge: ModelName | None = None
    judge_may_overturn: bool | None = None


class ModelParameters(Strict):
    """Sent to every member as they are; what is not set is not sent."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    reasoning_effort: Text | None = None


_Seats = Annotated[
    list[
        Annotated[
            Annotated[ModelName, Tag("model")] | Annotated[MemberFields, Tag("member")],
            Discriminator(lambda given: "member" if isinstance(given, dict | MemberFields) else "model"),
        ]
    ],
    Field(min_length=1, max_length=MAX_MEMBERS),
]


class QuestionFields(Strict):
    """A panel is named, or listed; without one, `model` (a route) is asked `n` times, each time on its own."""

    question: Text
    context: Text | None = None
    language: Annotated[Language | None, Field(description="Of the instruction; that of the question otherwise.")] = (
        None
    )
    answer: AnswerFields
    panel: (
        Annotated[
            Annotated[Name, Tag("name")] | Annotated[_Seats, Tag("list")],
            Discriminator(lambda given: "list" if isinstance(given, list) else "name"),
        ]
        | None
    ) = None
    model: ModelName | None = None
    n: Annotated[int, Field(ge=1, le=MAX_MEMBERS), WHOLE] | None = None
    consensus: ConsensusFields | None = None
    parameters: ModelParameters | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        for name in ("model", "n"):
            if self.panel is not None and getattr(self, name) is not None:
                raise fault("cannot stand beside panel", "Give a panel, or a model and n.", name)
        return self

    def asked(self) -> Asked:
        return Asked(
            self.question,
            self.answer.spec(),
            self.context,
            self.language,
            [_place(one) for one in self.panel] if isinstance(self.panel, list) else self.panel,
            self.model or "default",
            1 if self.n is None else self.n,
            {} if self.consensus is None else set_fields(self.consensus),
            {} if self.parameters is None else set_fields(self.parameters),
        )


def _place(member: str | MemberFields) -> Place:
    return Place(member, (member,)) if isinstance(member, str) else member.place()
