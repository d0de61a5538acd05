"""How much work a JSON Schema may make: how many schemas meet at one place of a value.

A validator follows `$ref`, `allOf`, `anyOf` and the like anew each time it comes by, and asks nobody whether it may:
sixty definitions that each name the next one twice are 4 KB and 2 ** 60 evaluations. Options of an `enum` count as
schemas where the validator compares with one after the other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

MOST: Final = 10_000  # schemas that may meet at one place
_CHAIN: Final = 200  # of references that lead on at one place: validators recurse
_DEEPEST: Final = 100  # levels of a value that is held against a schema
_LEAST: Final = 20  # levels that are looked at, however large a schema is
_EFFORT: Final = 2_000_000  # edges that are looked at, in all levels: two seconds
_SMALL: Final = 4  # words of a schema
_ENDLESS: Final = 10**9

_REFS: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_ALONE: Final = ("not", "if", "then", "else")
_LISTS: Final = ("allOf", "anyOf", "oneOf")
_MAPS: Final = ("dependentSchemas", "dependencies")
# What applies beside these is evaluated again to see what it has looked at (as measured).
_AGAIN: Final = ("unevaluatedProperties", "unevaluatedItems")
_CROWDED: Final = (
    f"makes more than {MOST} schemas meet at one place of a value, through $ref, allOf, anyOf, enum and the like; "
    "refer to each definition fewer times, and give fewer options"
)

Schema = Mapping[str, Any]


class TooMuchWork(ValueError):
    """Or nobody can tell how much. The message says why, without a subject."""


@dataclass(frozen=True, slots=True)
class _Edge:
    """To a schema of what is inside a value: of the member `name`, or of any that is not in `but` (None: a name)."""

    child: int  # id of a schema
    array: bool
    name: str | int | None
    but: frozenset[str | int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Place:
    """own: schemas that meet where this one applies; inside: how often each edge is taken from there."""

    own: int
    inside: Mapping[_Edge, int]


def loads(schema: Schema) -> tuple[int, ...]:
    """By levels of nesting of a value, how many schemas may meet at one place of it; deeper ones: as the last.

    Raises TooMuchWork where more than MOST meet at one place of a value of any depth, unless only the depth of a
    value sets the bound (a schema that refers to itself for what is inside), or where a schema refers to itself for
    the same place.
    """
    return _Survey(schema).loads()


class _Survey:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._schemas: dict[int, Schema] = {}
        self._places: dict[int, _Place] = {}
        self._entered: set[int] = set()
        self._anchors: dict[str, Schema] | None = None
        self._alike: dict[str, Schema] = {}

    def loads(self) -> tuple[int, ...]:
        waiting, seen = [self._root], {id(self._root)}
        for schema in waiting:
            for edge in self._place(schema).inside:
                if edge.child not in seen:
                    seen.add(edge.child)
                    waiting.append(self._schemas[edge.child])
        most = {key: self._places[key].own for key in seen}
        found = [most[id(self._root)]]
        edges = sum(len(self._places[key].inside) for key in seen)
        for _ in range(min(_DEEPEST, max(_LEAST, _EFFORT // (edges + 1)))):
            deeper = {key: max(self._places[key].own, _fullest(self._places[key].inside, most)) for key in seen}
            if deeper == most:
                if found[-1] > MOST:
                    raise TooMuchWork(_CROWDED)
                break
            most = deeper
            found.append(most[id(self._root)])
            if found[-1] > _ENDLESS:
                if not self._returns(seen):
                    raise TooMuchWork(_CROWDED)
                break
        else:  # it leads back to itself and goes on growing: the depth of a value sets the bound
            found.append(_ENDLESS)
        return tuple(found)

    def _returns(self, keys: set[int]) -> bool:
        """Whether any of these leads back to itself: some are left when those that lead nowhere are taken away."""
        left = {key: {edge.child for edge in self._places[key].inside} for key in keys}
        while ends := [key for key, children in left.items() if not children & left.keys()]:
            for key in ends:
                del left[key]
        return bool(left)

    def _place(self, schema: Schema) -> _Place:
        key = id(schema)
        if (known := self._places.get(key)) is not None:
            return known
        if key in self._entered:
            raise TooMuchWork("refers to itself without going into the value; leave that reference out")
        if len(self._entered) >= _CHAIN:
            raise TooMuchWork(f"leads on through more than {_CHAIN} references at one place; use fewer")
        self._entered.add(key)
        own, inside = 1 + _compared(schema), Counter(self._inside(schema))
        again = any(word in schema for word in _AGAIN)
        for others, either in self._beside(schema):
            taken: Counter[_Edge] = Counter()
            for other in others:
                place = self._place(other)
                own += 3 * place.own if again else place.own
                taken = taken | Counter(place.inside) if either else taken + Counter(place.inside)
            for edge, times in taken.items():
                inside[edge] += 2 * times if again else times
        if own > MOST:
            raise TooMuchWork(_CROWDED)
        self._entered.remove(key)
        self._schemas[key] = schema
        made = self._places[key] = _Place(own, inside)
        return made

    def _beside(self, schema: Schema) -> Iterator[tuple[list[Schema], bool]]:
        """The schemas that it applies to the same place; True: a value goes into one of them only."""
        for word in _REFS:
            if isinstance(ref := schema.get(word), str):
                yield [*_schemas(self._found(ref))], False
        yield [one for word in _ALONE for one in _schemas(schema.get(word))], False
        for word in _LISTS:
            parts = [one for part in _list(schema.get(word)) for one in _schemas(part)]
            yield parts, word != "allOf" and self._told_apart(parts)
        yield [one for word in _MAPS for part in _map(schema.get(word)).values() for one in _schemas(part)], False

    def _told_apart(self, parts: list[Schema]) -> bool:
        """Whether a constant member names the kind, as in a union of classes: the validator looks into one of them."""
        marks: list[dict[str, str]] = []
        for part in parts:
            ref = part.get("$ref")
            members = _map(_map(self._found(ref) if isinstance(ref, str) else part).get("properties"))
            consts = {name: _map(one).get("const") for name, one in members.items()}
            if members:
                marks.append({name: repr(const) for name, const in consts.items() if const is not None})
        shared = set.intersection(*(set(mark) for mark in marks)) if marks else set()
        return any(len({mark[name] for mark in marks}) == len(marks) for name in shared)

    def _inside(self, schema: Schema) -> Iterator[_Edge]:
        """The schemas that it applies to what is inside the value."""
        named = _map(schema.get("properties"))
        items = schema.get("items")
        places = _list(schema.get("prefixItems")) or _list(items)
        for name, part in named.items():
            yield from self._edges(part, array=False, name=name)
        for place, part in enumerate(places):
            yield from self._edges(part, array=True, name=place)
        for part in (schema.get("propertyNames"), *_map(schema.get("patternProperties")).values()):
            yield from self._edges(part, array=False)
        for word in ("additionalProperties", "unevaluatedProperties"):
            yield from self._edges(schema.get(word), array=False, but=frozenset(named))
        yield from self._edges(schema.get("contains"), array=True)
        for part in (items, schema.get("additionalItems"), schema.get("unevaluatedItems")):
            yield from self._edges(part, array=True, but=frozenset(range(len(places))))

    def _edges(
        self, part: Any, *, array: bool, name: str | int | None = None, but: frozenset[str | int] = frozenset()
    ) -> Iterator[_Edge]:
        for given in _schemas(part):
            child = given
            for _ in range(_CHAIN):  # two references to one definition are one child
                if child.keys() != {"$ref"} or not isinstance(child["$ref"], str):
                    break
                if not isinstance(target := self._found(child["$ref"]), Mapping):
                    return
                child = target
            if len(child) <= _SMALL:  # nor do two that say the same in the same few words differ
                child = self._alike.setdefault(json.dumps(child, sort_keys=True), child)
            self._schemas[id(child)] = child
            yield _Edge(id(child), array, name, but)

    def _found(self, ref: str) -> Any:
        """What a reference into the same document names. Raises TooMuchWork where nobody can tell."""
        pointer = unquote(ref.removeprefix("#"))
        if pointer and not pointer.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(_anchors(self._root))
            if pointer in self._anchors:
                return self._anchors[pointer]
        else:
            found: Any = self._root
            for part in pointer.split("/")[1:]:
                step = part.replace("~1", "/").replace("~0", "~")
                if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                    found = found[int(step)]
                elif isinstance(found, Mapping) and step in found:
                    found = found[step]
                else:
                    break
            else:
                return found
        raise TooMuchWork(f"is not a valid JSON Schema: nothing in it is where {ref[:80]!r} points")


def _fullest(inside: Mapping[_Edge, int], most: Mapping[int, int]) -> int:
    """How many schemas may meet at, or below, one member of a value."""
    full = 0
    for array in (False, True):
        named: Counter[str | int] = Counter()
        others = 0
        for edge, times in inside.items():
            if edge.array is not array:
                continue
            weight = times * most[edge.child]
            if edge.name is not None:
                named[edge.name] += weight
                continue
            others += weight
            for name in edge.but:
                named[name] -= weight
        full = max(full, others, *(others + weight for weight in named.values()))
    return full


def _compared(schema: Schema) -> int:
    """Options that a value is compared with; among texts alone, or whole numbers alone, it is looked up (measured)."""
    options = _list(schema.get("enum"))
    kinds = {type(option) for option in options}
    return 0 if len(kinds) <= 1 and kinds <= {str, int} else len(options)


def _anchors(value: Any) -> Iterator[tuple[str, Schema]]:
    if isinstance(value, Mapping):
        for word in ("$anchor", "$dynamicAnchor", "$id", "id"):
            if isinstance(name := value.get(word), str):
                yield name.removeprefix("#"), value
        for part in value.values():
            yield from _anchors(part)
    elif isinstance(value, list):
        for part in value:
            yield from _anchors(part)


def _schemas(value: Any) -> tuple[Schema, ...]:
    """As one where it is one: `true` and `false` cost nothing."""
    return (value,) if isinstance(value, Mapping) else ()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
