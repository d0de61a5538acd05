"""A caller's schema is checked, never fetched from, and every answer is held against it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from worker.domain.question import AnswerSpec
from worker.domain.schema import mismatch
from worker.domain.schema_load import MOST
from worker.domain.vote import Unusable, read_vote
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
        (' ```\n\n{"x": 2}  ```\n', {"x": 2}, None),
        ('```json {"x": 2}```', None, "not JSON"),
        ('```json\n{"x": 2}', None, "not JSON"),
        ("```", None, "not JSON"),
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


# -- what a schema costs --------------------------------------------------------------------------------------------

BOUND_S = 8.0  # for what took hours, or killed the process


def defined(*bodies: dict[str, Any]) -> dict[str, Any]:
    """Definitions d0, d1 ...; the first one is the schema."""
    return {"$ref": "#/$defs/d0", "$defs": {f"d{i}": body for i, body in enumerate(bodies)}}


def to(i: int) -> dict[str, Any]:
    return {"$ref": f"#/$defs/d{i}"}


def fan(levels: int, word: str = "allOf") -> dict[str, Any]:
    return defined(*({word: [to(i + 1), to(i + 1)]} for i in range(levels)), {"type": "integer"})


def inner_fan(levels: int) -> dict[str, Any]:
    """One member inside another, and each asked for twice."""
    twice = ({"allOf": [{"properties": {"c": to(i + 1)}}, {"properties": {"c": to(i + 1)}}]} for i in range(levels))
    return defined(*twice, {"type": "integer"})


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"c": value}
    return value


def unevaluated(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    return schema


HEAVY = [
    (fan(60), 1),
    (fan(60, "anyOf"), "x"),
    (fan(60, "oneOf"), "x"),
    (defined(*({"not": {"allOf": [to(i + 1), to(i + 1)]}} for i in range(60)), {"type": "integer"}), 1),
    (defined(*({"if": to(i + 1), "then": to(i + 1), "else": to(i + 1)} for i in range(60)), {"type": "integer"}), 1),
    (defined(*({"dependentSchemas": {"a": to(i + 1), "b": to(i + 1)}} for i in range(60)), {}), {"a": 1, "b": 1}),
    (inner_fan(60), nested(60)),
    (unevaluated(28), {}),
    (defined(*(to(i + 1) for i in range(50_000)), {"type": "integer"}), 1),
    ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", **fan(60)}, **fan(60)["$defs"]}}, 1),
]


@pytest.mark.parametrize(("schema", "value"), HEAVY)
def test_a_schema_that_fans_out_is_refused_before_it_holds_up_anybody(schema: dict[str, Any], value: Any) -> None:
    begun = time.monotonic()
    with pytest.raises(BadSchema, match=r"^output_schema .*(fewer|use fewer)"):
        check(schema)
    assert mismatch(schema, value) is not None, "one that an older release has stored"
    assert time.monotonic() - begun < BOUND_S


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        defined({"allOf": [to(0), to(0)]}),
        defined({"anyOf": [{"type": "integer"}, to(1)]}, {"not": to(0)}),
    ],
)
def test_a_schema_that_leads_back_to_itself_at_the_same_place_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadSchema, match="without going into the value"):
        check(schema)


def test_a_reference_that_would_be_read_from_elsewhere_is_refused() -> None:
    inner = {"$id": "urn:inner", **fan(60)}
    with pytest.raises(BadSchema, match="at its top only"):
        check({"$defs": {"d0": {}, "inner": inner}, "$ref": "#/$defs/inner"})


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}},
            "additionalProperties": {"$ref": "#/$defs/node"},
        }
    },
    "$ref": "#/$defs/node",
}
ANY_JSON = {
    "anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "object", "additionalProperties": {"$ref": "#"}},
    ]
}
UNION = defined(
    {"anyOf": [{"type": "integer"}, *(to(i) for i in range(1, 11))]},
    *(
        {
            "type": "object",
            "properties": {"kind": {"const": i}, "c": to(0), "d": to(0)},
            "required": ["kind"],
            "additionalProperties": False,
        }
        for i in range(10)
    ),
)
CLOSED: dict[str, Any] = {"type": "object"}
for _ in range(20):
    CLOSED = {"type": "object", "properties": {"c": CLOSED}, "unevaluatedProperties": False}
SHARED = defined(*({"properties": {"a": to(i + 1), "b": to(i + 1)}} for i in range(60)), {"type": "integer"})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TREE, {"left": {"left": {}}, "right": {}, "more": {}}),
        (ANY_JSON, [{"a": [1, {"b": None}]}] * 20_000),
        (UNION, {"kind": 9, "c": {"kind": 8, "c": {"kind": 7, "d": {"kind": 6, "c": {"kind": 9, "c": 1}}}}, "d": 2}),
        (CLOSED, {"c": {"c": {}}}),
        (SHARED, {"a": {"b": {"a": {}}}}),
        ({"properties": {f"p{i}": {"type": "integer"} for i in range(5_000)}}, {f"p{i}": i for i in range(5_000)}),
        ({"anyOf": [{"const": i} for i in range(MOST - 1)]}, 7),
    ],
)
def test_schemas_that_are_large_deep_or_recursive_are_taken_as_ever(schema: dict[str, Any], value: Any) -> None:
    check(schema)
    assert mismatch(schema, value) is None


def test_a_recursive_schema_that_fans_out_takes_values_as_deep_as_it_can_afford() -> None:
    schema = defined({"allOf": [{"properties": {"c": to(0)}}, {"properties": {"c": to(0)}}]})
    check(schema)
    assert mismatch(schema, nested(10)) is None
    begun = time.monotonic()
    assert "more than can be held against" in (mismatch(schema, nested(40)) or "")
    assert time.monotonic() - begun < BOUND_S


def test_a_heavy_schema_takes_no_endless_list() -> None:
    schema = {"items": {"allOf": [{"type": "integer"}] * (MOST - 1)}}
    check(schema)
    assert mismatch(schema, [1] * 500) is None
    begun = time.monotonic()
    assert "more than can be held against" in (mismatch(schema, [1] * 1_000_000) or "")
    assert time.monotonic() - begun < BOUND_S


def test_of_an_answer_that_is_wrong_in_every_place_one_fault_is_looked_for() -> None:
    schema = {"items": {"required": [f"name{i}" for i in range(20_000)]}}
    check(schema)
    begun = time.monotonic()
    assert mismatch(schema, [{}] * 200) == '0: "name0" is a required property'  # all of them once took gigabytes
    assert time.monotonic() - begun < BOUND_S


@pytest.mark.parametrize("options", [[{"a": i} for i in range(9_000)], [i + 0.5 for i in range(9_000)]])
def test_a_long_list_of_options_takes_no_endless_list(options: list[Any]) -> None:
    schema = {"items": {"enum": options}}
    check(schema)
    assert mismatch(schema, options[-1:] * 100) is None
    begun = time.monotonic()
    assert "more than can be held against" in (mismatch(schema, options[-1:] * 5_000) or "")
    assert time.monotonic() - begun < BOUND_S


def test_options_that_are_looked_up_by_their_names_cost_nothing() -> None:
    schema = {"items": {"enum": [f"option {i}" for i in range(100_000)]}}
    check(schema)
    assert mismatch(schema, ["option 99999"] * 5_000) is None


def test_a_pattern_that_looks_around_goes_back_only_so_often() -> None:
    schema = {"pattern": "(?=x)(.*)(.*)y"}
    check(schema)
    begun = time.monotonic()
    assert "Max limit for backtracking" in (mismatch(schema, "xb" * 50_000) or "")
    assert time.monotonic() - begun < BOUND_S
    assert mismatch({"pattern": r"^(?=.*[A-Z])(?!.*foo).{8,}$"}, "xb" * 50_000 + "A") is None


def test_a_pattern_takes_no_endless_text() -> None:
    schema = {"items": {"pattern": "[ab]*a[ab]{3000}c"}}
    check(schema)
    assert mismatch(schema, ["a" * 5_000 + "c"]) is None
    begun = time.monotonic()
    assert "letters are more than can be held against" in (mismatch(schema, ["ab" * 60_000] * 20) or "")
    assert time.monotonic() - begun < BOUND_S
    assert mismatch({"items": {"type": "string"}}, ["ab" * 60_000] * 20) is None


@pytest.mark.parametrize("text", ["```json\n{" + " " * 200_000, "```\n" + "\n" * 200_000 + "x"])
def test_a_fence_that_never_ends_is_read_in_one_pass(text: str) -> None:
    begun = time.monotonic()
    assert fits(POINT, text)[1] == "the answer is not JSON"
    assert isinstance(read_vote(AnswerSpec("json", schema=POINT), text), Unusable)
    assert time.monotonic() - begun < BOUND_S
