"""Votes counted: which answer has how much behind it, and whether the votes that are still out can change that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worker.domain.answer import Json

SLACK: Final = 1e-9  # weights are floats: 0.1 + 0.2 against 0.3 is a tie


@dataclass(frozen=True, slots=True)
class Cast:
    """A usable vote in the count; `key` tells its answer from others."""

    name: str
    place: int
    weight: float
    value: Json
    key: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """An answer with those behind it, by place; it is written as the first of them wrote it."""

    casts: tuple[Cast, ...]
    weight: float

    @property
    def value(self) -> Json:
        return self.casts[0].value

    @property
    def count(self) -> int:
        return len(self.casts)

    @property
    def places(self) -> frozenset[int]:
        return frozenset(cast.place for cast in self.casts)

    @property
    def confidence(self) -> float:
        """What its supporters say on average; who says nothing is left out."""
        told = [cast.confidence for cast in self.casts if cast.confidence is not None]
        return math.fsum(told) / len(told) if told else 0.0


def standings(casts: Iterable[Cast]) -> tuple[Standing, ...]:
    """Heaviest first; of equals, the one with the earlier supporter."""
    by_key: dict[str, list[Cast]] = {}
    for cast in sorted(casts, key=lambda one: one.place):
        by_key.setdefault(cast.key, []).append(cast)
    made = [Standing(tuple(found), weigh(found)) for found in by_key.values()]
    return tuple(sorted(made, key=lambda one: (-one.weight, one.casts[0].place)))


def weigh(casts: Iterable[Cast]) -> float:
    return math.fsum(cast.weight for cast in casts)


def share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0


def equals(ranked: Sequence[Standing]) -> Sequence[Standing]:
    """Those that share the first place, by their first supporter."""
    top = [one for one in ranked if one.weight >= ranked[0].weight * (1 - SLACK)]
    return sorted(top, key=lambda one: one.casts[0].place)


@dataclass(frozen=True, slots=True)
class Bar:
    """What share an answer needs. `least` None: more than half, or, where a tie has been decided by a rule, half."""

    least: float | None
    ties_count: bool

    def passed(self, part: float, *, after_tie: bool) -> bool:
        if self.least is not None:
            return part >= self.least * (1 - SLACK)
        return part > 0.5 * (1 + SLACK) or (after_tie and part >= 0.5 * (1 - SLACK))

    def never(self, ranked: Sequence[Standing], rest: float) -> bool:
        """Whether no answer can pass any more, not even if all that is out (`rest`, a weight) goes to it."""
        total = math.fsum(one.weight for one in ranked) + rest
        best = (ranked[0].weight if ranked else 0.0) + rest
        return not self.passed(share(best, total), after_tie=self.ties_count)

    def surely(self, ranked: Sequence[Standing], rest: float) -> bool:
        """Whether the first answer stays first and passes, even if all that is out goes to one other."""
        if not ranked:
            return False
        first, second = ranked[0].weight, ranked[1].weight if len(ranked) > 1 else 0.0
        total = math.fsum(one.weight for one in ranked) + rest
        return second + rest < first * (1 - 2 * SLACK) and self.passed(share(first, total), after_tie=False)


def by_field(casts: Sequence[Cast], keys: Mapping[int, Mapping[str, str]]) -> Mapping[str, tuple[Standing, ...]]:
    """The standings of each field of objects. `keys`: by place and field. A field left out is an answer like others."""
    names = sorted({name for of_one in keys.values() for name in of_one})
    return {
        name: standings(
            Cast(
                cast.name,
                cast.place,
                cast.weight,
                (cast.value[name],) if name in cast.value else (),
                keys[cast.place].get(name, ""),
                cast.confidence,
            )
            for cast in casts
        )
        for name in names
    }
