"""What a scenario hands back: figures, and which promise was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.checker import SHOWN, Breach, Verdict

Profile = Literal["smoke", "full"]
Figure = int | float | str | None


@dataclass(frozen=True, slots=True)
class Promise:
    """`said` is the promise in words, `found` what came of it."""

    said: str
    kept: bool
    found: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    figures: Mapping[str, Any]
    promises: Sequence[Promise] = field(default_factory=tuple)

    @property
    def kept(self) -> bool:
        return all(promise.kept for promise in self.promises)


def nothing(said: str, breaches: Sequence[Breach]) -> Promise:
    """Kept when there is no breach."""
    shown = "; ".join(breach.what for breach in breaches[:SHOWN])
    more = f" and {len(breaches) - SHOWN} more" if len(breaches) > SHOWN else ""
    return Promise(said, not breaches, shown + more)


def at_most(said: str, value: float, bound: float, unit: str = "") -> Promise:
    return Promise(said, value <= bound, f"{value:g}{unit} of at most {bound:g}{unit}")


def at_least(said: str, value: float, bound: float, unit: str = "") -> Promise:
    return Promise(said, value >= bound, f"{value:g}{unit} of at least {bound:g}{unit}")


def standing(verdict: Verdict, *, extra: bool = True) -> list[Promise]:
    """The promises that hold whatever is broken. `extra`: no call but those that were open at a death is repeated."""
    return [
        nothing("no acknowledged job is lost", verdict.of("lost")),
        nothing("no job is stuck", verdict.of("stuck")),
        nothing("no job ends twice, none leaves its end", verdict.of("twice")),
        nothing("no job fails without a provider's fault", verdict.of("failed")),
        nothing("each answer is one the provider gave for that job", verdict.of("foreign")),
        nothing("each call the provider saw is on record", verdict.of("unrecorded")),
        nothing("tokens and costs on record are the provider's", verdict.of("money")),
        *([nothing("no call is repeated but those open at a death", verdict.of("extra"))] if extra else []),
    ]
