"""Whether OpenAI's strict mode takes a JSON Schema. It answers any other with a 400 that ends the job.

Asked without `strict` it takes every schema and follows it as well as it can; the answer is judged by ourselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.domain.answer import Json
from worker.providers.portable import response_format

SCHEMA_NAME: Final = "answer"

# What else there is in JSON Schema is refused, or is by one of those who speak of `strict`.
_KNOWN: Final = frozenset(
    {
        *("type", "enum", "const", "title", "description", "anyOf", "$ref", "$defs", "definitions"),
        *("properties", "required", "additionalProperties", "items", "minItems", "maxItems", "pattern", "format"),
        *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }
)
_SAYS_WHAT: Final = frozenset({"type", "enum", "const", "anyOf", "$ref"})
_MAPS: Final = ("properties", "$defs", "definitions")


def named_schema(schema: Mapping[str, Json], request: Mapping[str, Json]) -> dict[str, Any]:
    """A schema as a chat's `json_schema` holds it; who asked for `strict` in OpenAI's own words gets it."""
    asked = response_format(request).get("json_schema")
    told = isinstance(asked, Mapping) and asked.get("strict") is True and asked.get("schema") == schema
    return {"name": SCHEMA_NAME, "schema": schema, "strict": told or is_strict(schema)}


def is_strict(schema: Mapping[str, Json]) -> bool:
    """An object at the root; of every object all properties are required, and no others allowed."""
    return schema.get("type") == "object" and "anyOf" not in schema and _fits(schema)


def _fits(schema: Json) -> bool:
    if not isinstance(schema, Mapping) or not schema.keys() <= _KNOWN or schema.keys().isdisjoint(_SAYS_WHAT):
        return False
    kinds = schema.get("type")
    kinds = (kinds,) if isinstance(kinds, str) else kinds if isinstance(kinds, list | tuple) else ()
    if ("object" in kinds or "properties" in schema) and not _is_closed(schema):
        return False
    if "array" in kinds and "items" not in schema:
        return False
    return all(_fits(part) for part in _parts(schema))


def _is_closed(schema: Mapping[str, Json]) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    if schema.get("additionalProperties") is not False or not isinstance(properties, Mapping):
        return False
    return isinstance(required, list | tuple) and all(name in required for name in properties)


def _parts(schema: Mapping[str, Json]) -> Iterator[Json]:
    for word in _MAPS:
        found = schema.get(word)
        yield from found.values() if isinstance(found, Mapping) else ()
    choices = schema.get("anyOf")
    yield from choices if isinstance(choices, list | tuple) else ()
    if "items" in schema:
        yield schema["items"]
