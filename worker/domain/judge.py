"""A judge over a panel: it sees the answers without names and numbers, in an order that a draw decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.domain.answer import Json
from worker.domain.consensus import Ballot, Ruling
from worker.domain.question import AnswerSpec, Question


@dataclass(frozen=True, slots=True)
class Docket:
    """The different answers of a panel, as the judge sees them: `A` is the first."""

    answers: tuple[Json, ...]
    rationales: tuple[tuple[str, ...], ...]


def docket(spec: AnswerSpec, ballots: Sequence[Ballot], draw: float) -> Docket:
    """`draw` in 0..1; the same draw and ballots give the same order, so that a ruling can be read after a crash."""
    raise NotImplementedError


def judge_messages(question: Question, docket: Docket) -> list[dict[str, str]]:
    raise NotImplementedError


def judge_schema(docket: Docket) -> dict[str, Json]:
    """JSON Schema of what the judge says: `{rationale, choice}`."""
    raise NotImplementedError


def read_ruling(docket: Docket, text: str | None, parsed: Json | None = None) -> Ruling | None:
    """None: the judge chose nothing, or nothing that can be read; the vote decides."""
    raise NotImplementedError
