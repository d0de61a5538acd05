"""What is wrong with a configuration: everything at once, each with a way out, and never a secret in the words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails


@dataclass(frozen=True, slots=True)
class Fault:
    """where: a variable's name, or the path of a key in the file (`routes.default.targets`)."""

    where: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f". {self.hint}" if self.hint else "")

    def concerns(self, other: Fault) -> bool:
        """Whether one is about the other's place, or about a part of it: the second may follow from the first."""
        a, b = self.where + ".", other.where + "."
        return a.startswith(b) or b.startswith(a)


class SettingsError(ValueError):
    """A configuration nobody can start with; `faults` are all there are."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def closest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    found = closest(word, known)
    return None if found is None else f"Did you mean {found}?"


_WORDS = {"valid tuple": "list", "valid frozenset": "list", "valid set": "list", "valid dictionary": "table"}


def explained(error: ErrorDetails) -> tuple[str, str | None]:
    """Pydantic's finding in our words: what must be so, and a suggestion. What was written is not repeated."""
    context: dict[str, Any] = error.get("ctx") or {}
    if error["type"] == "value_error":
        return str(context["error"]), None
    if error["type"] in {"literal_error", "enum"}:
        names = re.findall(r"'([^']+)'", str(context["expected"]))
        return f"must be one of {', '.join(names)}", did_you_mean(str(error["input"]), names)
    if error["type"] == "missing":
        return "is missing", None
    words = error["msg"].partition(", ")[0].replace("Input should be", "must be")
    for theirs, ours in _WORDS.items():
        words = words.replace(theirs, ours)
    return words[:1].lower() + words[1:], None
