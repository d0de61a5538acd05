"""Does an answer fit the schema that was asked for? Validated here for every provider, whatever it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.domain.schema import BadSchema, check, mismatch
from worker.providers.json_text import answer_json

__all__ = ["BadSchema", "check", "fits"]


def fits(schema: Mapping[str, Any], text: str | None) -> tuple[Any, str | None]:
    """The parsed value and why it does not fit (None: it fits)."""
    try:
        value = answer_json(text or "")
    except ValueError:
        return None, "the answer is not JSON"
    return value, mismatch(schema, value)
