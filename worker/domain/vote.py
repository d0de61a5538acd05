"""What a member of a panel said, as a vote that can be compared with others."""

from __future__ import annotations

from dataclasses import dataclass

from worker.domain.answer import Json
from worker.domain.question import AnswerSpec, Language


@dataclass(frozen=True, slots=True)
class Usable:
    """A vote.

    value       of a boolean, choice, number or probability in canonical form; of json as the member wrote it
    confidence  0..1, that the answer is right; None: the member named none
    rationale   at most MAX_RATIONALE characters
    """

    value: Json
    confidence: float | None = None
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Abstained:
    """The member could not judge. It answered, but it is no vote."""

    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """No vote: the call failed, or its text cannot be read as an answer. `reason` is for people."""

    reason: str


Vote = Usable | Abstained | Unusable


def read_vote(spec: AnswerSpec, text: str | None, parsed: Json | None = None, language: Language = "en") -> Vote:
    """The vote in a member's answer. Nothing is guessed: what can be read in two ways is unusable.

    parsed    the JSON of the answer where the engine has it; None: the text is read
    language  in which a number was perhaps written: `1,234` is a thousand and more in English, unclear in Spanish
    """
    raise NotImplementedError


def canonical(spec: AnswerSpec, value: Json) -> Json:
    """The form in which answers are compared. Doing it twice changes nothing."""
    raise NotImplementedError


def same_key(spec: AnswerSpec, value: Json) -> str:
    """Two answers are the same answer exactly if their keys are equal."""
    raise NotImplementedError
