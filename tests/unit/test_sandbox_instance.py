"""Values made for a schema satisfy it, and no schema makes the maker run away."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.providers.sandbox.instance import instance

Json = Any

_small = st.integers(0, 6)
_whole = st.integers(-1000, 1000)
_leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({}),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, _whole, _small),
    st.builds(lambda low: {"type": "integer", "exclusiveMinimum": low, "multipleOf": 7}, _whole),
    st.builds(lambda high: {"type": "integer", "exclusiveMaximum": high}, _whole),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 0.5}, _whole),
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, _small, _small),
    st.builds(lambda values: {"enum": values}, st.lists(st.none() | st.booleans() | st.text(), min_size=1)),
    st.builds(lambda value: {"const": value}, st.none() | _whole | st.text()),
    st.just({"type": ["null", "string"]}),
    st.just({"$ref": "#/$defs/word"}),
)


def _objects(kinds: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.dictionaries(st.text(max_size=4), kinds, max_size=4).flatmap(
        lambda properties: st.builds(
            lambda required, closed: {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": not closed,
            },
            st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([]),
            st.booleans(),
        )
    )


def _branches(kinds: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.one_of(
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, kinds, _small),
        st.builds(
            lambda first, items: {"type": "array", "prefixItems": first, "items": items},
            st.lists(kinds, min_size=1, max_size=3),
            kinds,
        ),
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 1}, kinds),
        st.builds(lambda one, other: {"anyOf": [one, other]}, kinds, kinds),
        _objects(kinds),
    )


@given(st.recursive(_leaves, _branches, max_leaves=12), st.binary(max_size=80))
def test_an_instance_satisfies_its_schema(schema: Json, seed: bytes) -> None:
    schema = {**schema, "$defs": {"word": {"type": "string", "minLength": 1}}}
    value = instance(schema, seed)
    jsonschema_rs.validate(schema, value)
    assert instance(schema, seed) == value


_SELF = {"$ref": "#"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": _SELF, "name": {"type": "string"}}, "required": ["name"]},
        {"properties": {"next": {"anyOf": [_SELF, {"type": "null"}]}}, "required": ["next"]},
        {"properties": {"children": {"type": "array", "items": _SELF}}, "required": ["children"]},
        {"type": "object", "properties": {str(i): _SELF for i in range(50)}},
        {"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"required": ["b"]}]},
        {"type": "string", "format": "date-time"},
        {"minimum": 3},
        {"required": ["a"], "additionalProperties": {"type": "integer"}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}},
        {"type": "array", "minItems": 3.0, "items": {"type": "string", "minLength": 2.0}},
        {"type": "number", "multipleOf": 5, "minimum": 7},
        True,
    ],
)
def test_by_hand(schema: Json) -> None:
    jsonschema_rs.validate(schema, instance(schema, b"seed"))


@pytest.mark.parametrize(
    "schema",
    [
        {"required": ["a", "b"], "properties": {"a": _SELF, "b": _SELF}},  # nothing finite satisfies it
        {"type": "array", "minItems": 10**12, "items": _SELF},
        {"type": "string", "minLength": 10**12},
        {"type": "integer", "minimum": json.loads("1e400")},
        {"type": "number", "minimum": json.loads("-1e400"), "maximum": json.loads("1e400")},
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"$ref": "#"},
        {"$ref": "https://example.com/other"},
        {"allOf": [False, {"type": "string"}]},
        {"enum": []},
        False,
    ],
)
def test_what_cannot_be_satisfied_still_comes_to_a_small_end(schema: Json) -> None:
    assert len(json.dumps(instance(schema, b""))) < 1_000_000
