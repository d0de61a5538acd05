"""Embeddings as a reply holds them, checked number by number."""

from __future__ import annotations

import math
from typing import Any

from worker.domain.answer import Json


def vector_of(numbers: Any) -> list[float]:
    """Raises ValueError, OverflowError."""
    if not isinstance(numbers, list) or not numbers or not set(map(type, numbers)) <= {int, float}:
        raise ValueError("a vector is no list of numbers")
    floats = list(map(float, numbers))
    if not all(map(math.isfinite, floats)):
        raise ValueError("a number out of range")
    return floats


def vectors_in(value: Any, inputs: Json) -> list[list[float]]:
    """A vector for each input; that of a single one may come bare. Raises ValueError, OverflowError."""
    several = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    vectors = [vector_of(item) for item in several]
    asked = inputs_in(inputs)
    if len(vectors) != asked:
        raise ValueError(f"{len(vectors)} for {asked} inputs")
    return vectors


def inputs_in(given: Json) -> int:
    """How many inputs: one text or one list of tokens, or a list of either."""
    return len(given) if isinstance(given, list | tuple) and given and not isinstance(given[0], int) else 1
