"""A JSON Schema in the subset that Anthropic's structured output takes; it answers any other with a 400.

What is left out stands in the description, where the model can still read it; `output_schema` is judged by ourselves as
the caller wrote it. Facts: `transform_schema` of Anthropic's SDK 2.12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from worker.domain.answer import Json

_MAPS: Final = frozenset({"properties", "$defs", "definitions"})
_LISTS: Final = frozenset({"anyOf", "allOf"})
_KEPT: Final = frozenset({"type", "enum", "const", "$ref", "title", "description", "default", "required"})
_SILENT: Final = frozenset({"$schema", "$id", "$comment"})  # they tell a model nothing
_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)


def narrowed(schema: Mapping[str, Json]) -> dict[str, Any]:
    """Objects that list their properties are closed, as the API demands.

    One that lists none is left as it is: closed it could only be empty, and the provider's complaint is clearer.
    """
    taken: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _MAPS and isinstance(value, Mapping):
            taken[word] = {name: _inner(part) for name, part in value.items()}
        elif word in _LISTS and isinstance(value, list | tuple):
            taken[word] = [_inner(part) for part in value]
        elif word == "oneOf" and isinstance(value, list | tuple) and "anyOf" not in schema:
            taken["anyOf"] = [_inner(part) for part in value]
        elif word == "items":
            taken[word] = _inner(value)
        elif word in _KEPT or word == "additionalProperties" or _is_of_those_taken(word, value):
            taken[word] = value
        elif word not in _SILENT:
            left[word] = value
    if isinstance(schema.get("properties"), Mapping):
        taken["additionalProperties"] = False
    if left:
        told = json.dumps(left, ensure_ascii=False, separators=(", ", ": "))
        before = schema.get("description")
        taken["description"] = f"{before}\n\n{told}" if isinstance(before, str) and before else told
    return taken


def _inner(part: Json) -> Any:
    return narrowed(part) if isinstance(part, Mapping) else part


def _is_of_those_taken(word: str, value: Json) -> bool:
    if word == "format":
        return isinstance(value, str) and value in _FORMATS
    return word == "minItems" and value in (0, 1)
