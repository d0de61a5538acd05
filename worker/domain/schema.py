"""JSON Schemas from callers: checked before they are kept, never fetched from, and values held against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs

from worker.domain.schema_load import TooMuchWork, loads

MOST_WORK: Final = 10_000_000  # evaluations for one value: a second. The validator lets nothing else run meanwhile.
MOST_LETTERS: Final = 200_000  # of an answer, where there is a pattern: some take microseconds for each letter
MESSAGE_CUT: Final = 300
# A pattern that looks around is tried anew from each letter on, and each time to the end.
_PATTERNS: Final = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000)
_POINTERS: Final = ("$ref", "$dynamicRef", "$recursiveRef", "$schema")
_DIALECTS: Final = ("http://json-schema.org/draft-", "https://json-schema.org/draft/")


class BadSchema(ValueError):
    """The schema itself is not usable; the message says why."""


def check(schema: Mapping[str, Any]) -> None:
    """Raise BadSchema for a schema that is none, or that points outside itself (a `$ref` would be fetched)."""
    refs = _refs(schema, 0)
    for word, ref in refs:
        # A dialect that the validator does not know would be fetched, like any other reference.
        if not ref.startswith(_DIALECTS if word == "$schema" else "#"):
            raise BadSchema(f"output_schema may only refer to itself: {word} {ref[:80]!r} points elsewhere")
    if any(word != "$schema" for word, _ in refs) and any(_renamed(part) for part in schema.values()):
        raise BadSchema("output_schema may have an $id at its top only: a reference would be read from there")
    try:
        _validator(json.dumps(schema))
    except TooMuchWork as exc:
        raise BadSchema(f"output_schema {exc}") from None
    except (ValueError, jsonschema_rs.ValidationError) as exc:
        raise BadSchema(f"output_schema is not a valid JSON Schema: {str(exc)[:MESSAGE_CUT]}") from exc


def mismatch(schema: Mapping[str, Any], value: Any) -> str | None:
    """Why a value does not fit; None: it fits."""
    try:
        validator, most = _validator(json.dumps(schema))
    except TooMuchWork as exc:  # it was stored by an older release
        return f"the schema {exc}"[:MESSAGE_CUT]
    size, depth, letters = _extent(value)
    if size * most[min(depth, len(most) - 1)] > MOST_WORK:
        return f"{size} values in {depth} levels are more than can be held against this schema"
    if letters > MOST_LETTERS and _has_pattern(schema):
        return f"{letters} letters are more than can be held against a pattern"
    try:
        validator.validate(value)  # `iter_errors` looks for all of them before it tells the first: gigabytes, once
    except jsonschema_rs.ValidationError as error:
        where = "/".join(str(part) for part in error.instance_path) or "the answer"
        return f"{where}: {error.message}"[:MESSAGE_CUT]
    return None


@lru_cache(maxsize=256)
def _validator(schema: str) -> tuple[Any, tuple[int, ...]]:
    """With how many schemas may meet at one place of a value, by its depth. Raises TooMuchWork."""
    read = json.loads(schema)
    most = loads(read)  # first: to build the validator of a long chain of references takes long, too
    return jsonschema_rs.validator_for(read, retriever=_refuse, pattern_options=_PATTERNS), most


def _extent(value: Any) -> tuple[int, int, int]:
    """How many values there are in it, itself counted, in how many levels below it, and the letters of its texts."""
    size, depth, level = 1, 0, [value]
    letters = _letters(level)
    while True:
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return size, depth, letters
        size, depth, letters = size + len(level), depth + 1, letters + _letters(level)


def _letters(values: list[Any]) -> int:
    """Names of members are texts too: a pattern may be for them."""
    return sum(
        len(one) if isinstance(one, str) else sum(map(len, one)) if isinstance(one, dict) else 0 for one in values
    )


def _has_pattern(value: Any) -> bool:
    if isinstance(value, dict):
        return not value.keys().isdisjoint({"pattern", "patternProperties"}) or any(map(_has_pattern, value.values()))
    return isinstance(value, list) and any(map(_has_pattern, value))


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


def _renamed(value: Any) -> bool:
    """Whether a reference in it may mean something else than from the top."""
    if isinstance(value, dict):
        name = value.get("$id")
        own = isinstance(name, str) and not name.startswith("#")
        return own or any(_renamed(part) for part in value.values())
    return isinstance(value, list) and any(_renamed(part) for part in value)
