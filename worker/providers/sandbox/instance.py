"""A value that satisfies a simple JSON Schema: the same value for the same schema and seed.

Understood: const, enum, type (or a list of them), properties, required, additionalProperties, items, prefixItems,
local `$ref`, anyOf and oneOf (one branch), allOf (merged), and the bounds of strings, numbers and arrays. The rest is
ignored. Any schema comes to an end, in a value of a bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

Json = Any
Schema = Any  # a mapping, or True or False

_DEEP: Final = 6  # from this depth on, and after so many values, only what is required
_MANY: Final = 1_000
_END: Final = 24  # from here on nothing, required or not
_TOO_MANY: Final = 5_000
_LONG: Final = 10_000
_LARGE: Final = 1e15  # bounds beyond it are not exact in a float anyway
_FORMATS: Final = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "email": "sandbox@example.com",
    "hostname": "sandbox.example.com",
    "uri": "https://sandbox.example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


def instance(schema: Schema, seed: bytes) -> Json:
    """`schema` must be valid by its own rules; bounds may be out of reach."""
    return _Instance(schema, seed).of(schema, "", 0)


class _Instance:
    def __init__(self, root: Schema, seed: bytes) -> None:
        self._root = root
        self._seed = seed
        self._made = 0

    def of(self, schema: Schema, path: str, depth: int) -> Json:
        self._made += 1
        if schema is True or schema == {}:
            return "[sandbox]"
        if not isinstance(schema, Mapping) or depth > _END or self._made > _TOO_MANY:
            return None
        spare = depth >= _DEEP or self._made > _MANY
        schema = self._flat(schema, spare=spare)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._one_of(schema["enum"], path)
        match _type(schema):
            case "object":
                return self._object(schema, path, depth, spare=spare)
            case "array":
                return self._array(schema, path, depth, spare=spare)
            case "integer":
                return self._integer(schema, path)
            case "number":
                return self._number(schema, path)
            case "boolean":
                return self._draw(path, 2) == 1
            case "null":
                return None
            case _:
                return _string(schema, path)

    def _flat(self, schema: Mapping[str, Json], *, spare: bool) -> dict[str, Json]:
        """Without `$ref`, allOf, anyOf and oneOf: one branch is taken and laid over the rest."""
        flat = dict(schema)
        for _ in range(_END):
            parts: list[Schema] = []
            if "$ref" in flat:
                parts.append(self._referred(flat.pop("$ref")))
            parts.extend(flat.pop("allOf", ()))
            for word in ("anyOf", "oneOf"):
                branches = flat.pop(word, None)
                if branches:
                    nulls = [branch for branch in branches if branch == {"type": "null"}]
                    others = [branch for branch in branches if branch not in nulls]
                    parts.append((nulls if nulls and spare else others or nulls)[0])
            if not parts:
                return flat
            for part in parts:
                flat = _merged(flat, part) if isinstance(part, Mapping) else flat
        return flat

    def _referred(self, reference: Json) -> Schema:
        """What a local reference points at; nothing for one that points elsewhere or nowhere."""
        found = self._root
        for step in str(reference).removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _object(self, schema: Mapping[str, Json], path: str, depth: int, *, spare: bool) -> dict[str, Json]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        names = [name for name in properties if not spare or name in required]
        names += [name for name in required if name not in properties]
        further = schema.get("additionalProperties", True)
        return {name: self.of(properties.get(name, further), f"{path}.{name}", depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Json], path: str, depth: int, *, spare: bool) -> list[Json]:
        first = schema.get("prefixItems", ())
        least = int(schema.get("minItems", 0))
        count = max(least, len(first), 0 if spare or schema.get("items") is False else 2)
        count = min(count, int(schema.get("maxItems", count)), _TOO_MANY)
        kinds = [*first, *[schema.get("items", True)] * (count - len(first))]
        return [self.of(kind, f"{path}[{i}]", depth + 1) for i, kind in enumerate(kinds[:count])]

    def _integer(self, schema: Mapping[str, Json], path: str) -> int:
        step = schema.get("multipleOf", 1)
        step = int(step) if step >= 1 else 1
        low, high = _bounds(schema, 100)
        low = math.floor(low) + 1 if low == schema.get("exclusiveMinimum") else math.ceil(low)
        high = math.ceil(high) - 1 if high == schema.get("exclusiveMaximum") else math.floor(high)
        first, last = -(-low // step), high // step
        return step * (first + self._draw(path, max(last - first + 1, 1)))

    def _number(self, schema: Mapping[str, Json], path: str) -> float:
        if schema.get("multipleOf", 0) >= 1:
            return self._integer(schema, path)
        low, high = _bounds(schema, 1)
        return float(low + (high - low) * (1 + self._draw(path, 99)) / 100)

    def _one_of(self, values: Sequence[Json], path: str) -> Json:
        return values[self._draw(path, len(values))]

    def _draw(self, path: str, below: int) -> int:
        digest = blake2b(path.encode(errors="replace"), key=self._seed[:64], digest_size=8).digest()
        return int.from_bytes(digest) % below


def _type(schema: Mapping[str, Json]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((word for word in kind if word != "null"), "null")
    if kind is not None:
        return str(kind)
    for words, implied in (
        (("properties", "required", "additionalProperties"), "object"),
        (("items", "prefixItems", "minItems"), "array"),
        (("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    ):
        if any(word in schema for word in words):
            return implied
    return "string"


def _merged(one: Mapping[str, Json], other: Mapping[str, Json]) -> dict[str, Json]:
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return merged


def _bounds(schema: Mapping[str, Json], width: int) -> tuple[float, float]:
    """The tightest bounds, inclusive or not; where one is missing, `width` away from the other."""
    lows = [schema[word] for word in ("minimum", "exclusiveMinimum") if word in schema]
    highs = [schema[word] for word in ("maximum", "exclusiveMaximum") if word in schema]
    low = max(lows) if lows else min(0, min(highs) - width) if highs else 0
    high = min(highs) if highs else low + width
    return min(max(low, -_LARGE), _LARGE), min(max(high, -_LARGE), _LARGE)


def _string(schema: Mapping[str, Json], path: str) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = f"[sandbox] {path.rsplit('.', 1)[-1]}".strip()
    text = text.ljust(int(min(schema.get("minLength", 0), _LONG)), ".")
    return text[: int(min(schema.get("maxLength", _LONG), _LONG))]
