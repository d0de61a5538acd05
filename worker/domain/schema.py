"""JSON Schemas from callers: checked before they are kept, never fetched from, and values held against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs

MESSAGE_CUT: Final = 300
_POINTERS: Final = ("$ref", "$dynamicRef", "$recursiveRef", "$schema")
_DIALECTS: Final = ("http://json-schema.org/draft-", "https://json-schema.org/draft/")


class BadSchema(ValueError):
    """The schema itself is not usable; the message says why."""


def check(schema: Mapping[str, Any]) -> None:
    """Raise BadSchema for a schema that is none, or that points outside itself (a `$ref` would be fetched)."""
    for word, ref in _refs(schema, 0):
        # A dialect that the validator does not know would be fetched, like any other reference.
        if not ref.startswith(_DIALECTS if word == "$schema" else "#"):
            raise BadSchema(f"output_schema may only refer to itself: {word} {ref[:80]!r} points elsewhere")
    try:
        _validator(json.dumps(schema))
    except (ValueError, jsonschema_rs.ValidationError) as exc:
        raise BadSchema(f"output_schema is not a valid JSON Schema: {str(exc)[:MESSAGE_CUT]}") from exc


def mismatch(schema: Mapping[str, Any], value: Any) -> str | None:
    """Why a value does not fit; None: it fits."""
    error = next(iter(_validator(json.dumps(schema)).iter_errors(value)), None)
    if error is None:
        return None
    where = "/".join(str(part) for part in error.instance_path) or "the answer"
    return f"{where}: {error.message}"[:MESSAGE_CUT]


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for(json.loads(schema), retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may not refer to {uri[:80]}")


def _refs(value: Any, depth: int) -> list[tuple[str, str]]:
    if depth > 64:
        raise BadSchema("output_schema is nested more than 64 levels deep")
    if isinstance(value, dict):
        own = [(word, value[word]) for word in _POINTERS if isinstance(value.get(word), str)]
        return own + [ref for part in value.values() for ref in _refs(part, depth + 1)]
    if isinstance(value, list):
        return [ref for part in value for ref in _refs(part, depth + 1)]
    return []
