"""Members of a panel that differ: each is right as often as its name says, and says so with its own kind of confidence.

Nobody was asked anything: what is true follows from the words of a question (`truth`), and who is right about it from
the question and the member. So every run of the same questions has the same votes, and the same scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal

Json = Any
Manner = Literal["", "-bold", "-shy"]
_UNSURE: Final = 0.04  # of its answers, a shy one leaves so many out
_SPREAD: Final = 0.16  # between a member's least and greatest confidence


def truth(question: str, count: int) -> int:
    """Which of `count` answers is the right one; of yes and no, 0 is yes."""
    return int(_draw("truth", " ".join(question.split())) * count)


def vote(question: str, schema: Mapping[str, Json], percent: int, manner: Manner) -> str | None:
    """What a member says, in the asked form; None: that is not the form of a vote."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not {"answer", "abstain", "confidence"} <= properties.keys():
        return None
    kinds = properties["answer"].get("anyOf") if isinstance(properties["answer"], Mapping) else None
    if not isinstance(kinds, list) or not kinds or not isinstance(kinds[0], Mapping):
        return None
    luck = _draw(f"{percent}{manner}", question)
    right = luck < percent / 100
    sure = _confidence(question, percent, manner)
    answer = _answer(kinds[0], question, sure, right=right)
    if answer is None or (manner == "-shy" and luck > 1 - _UNSURE):
        return _said("[sandbox] I cannot tell.", None, None)
    return _said(f"[sandbox] The dice of panelist-{percent}{manner} say so.", answer, sure)


def _answer(schema: Mapping[str, Json], question: str, sure: float, *, right: bool) -> Json:
    options = schema.get("enum")
    match schema.get("type"):
        case "boolean":
            return (truth(question, 2) == 0) is right
        case "string" if isinstance(options, list) and options:
            return _one_of(options, question, right=right)
        case "number" if (schema.get("minimum"), schema.get("maximum")) == (0, 1):
            return sure if (truth(question, 2) == 0) is right else round(1 - sure, 3)
        case _:
            return None


def _one_of(options: Sequence[Json], question: str, *, right: bool) -> Json:
    true = truth(question, len(options))
    if right or len(options) == 1:
        return options[true]
    wrong = [option for n, option in enumerate(options) if n != true]
    return wrong[int(_draw("wrong", question) * len(wrong))]


def _confidence(question: str, percent: int, manner: Manner) -> float:
    """About as high as it is right; a bold one is always nearly certain, a shy one never much more than undecided."""
    base = {"": percent / 100, "-bold": 0.96, "-shy": 0.58}[manner]
    wobble = _SPREAD * (_draw(f"sure {percent}{manner}", question) - 0.5)
    return round(min(0.99, max(0.5, base + (wobble if manner == "" else wobble / 4))), 3)


def _said(rationale: str, answer: Json, confidence: float | None) -> str:
    abstain = answer is None
    said = {"rationale": rationale, "abstain": abstain, "answer": answer, "confidence": None if abstain else confidence}
    return json.dumps(said, ensure_ascii=False)


def _draw(purpose: str, question: str) -> float:
    """In [0, 1), and always the same."""
    digest = blake2b(f"{purpose}\0{question}".encode(errors="replace"), digest_size=7).digest()
    return int.from_bytes(digest) / 2**56


NAME: Final = re.compile(r"panelist-(?P<percent>\d{1,2}|100)(?P<manner>-bold|-shy)?")
