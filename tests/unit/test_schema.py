"""A caller's schema is checked, never fetched from, and every answer is held against it."""

from __future__ import annotations

from typing import Any

import pytest

from worker.services.schema import BadSchema, check, fits

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    "schema",
    [
        POINT,
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "array"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array"},
        {},
    ],
)
def test_a_schema_that_stands_alone_is_taken(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "http://169.254.169.254/latest"}, "points elsewhere"),
        ({"properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}}, "points elsewhere"),
        ({"$dynamicRef": "other.json"}, "points elsewhere"),
        ({"$schema": "https://example.com/own-dialect"}, "points elsewhere"),
        ({"type": "banana"}, "not a valid JSON Schema"),
        ({"$ref": "#/$defs/missing"}, "not a valid JSON Schema"),
    ],
)
def test_a_schema_that_points_elsewhere_or_is_none_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSchema, match=says):
        check(schema)


def test_a_bottomless_schema_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"not": schema}
    with pytest.raises(BadSchema, match="64 levels"):
        check(schema)


@pytest.mark.parametrize(
    ("text", "value", "why"),
    [
        ('{"x": 1}', {"x": 1}, None),
        ('```json\n{"x": 2}\n```', {"x": 2}, None),
        ('{"x": "1"}', {"x": "1"}, "x: "),
        ("{}", {}, "the answer: "),
        ("I think x is 1", None, "not JSON"),
        ("", None, "not JSON"),
        (None, None, "not JSON"),
        ("[" * 100_000, None, "not JSON"),
    ],
)
def test_an_answer_is_parsed_and_held_against_the_schema(text: str | None, value: Any, why: str | None) -> None:
    found, complaint = fits(POINT, text)
    assert found == value
    assert (complaint is None) if why is None else (why in (complaint or ""))
