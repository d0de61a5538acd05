"""From text to JSON that is safe to keep: what JSON allows but nobody means is refused, with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final

from worker.domain.answer import Json
from worker.services.openai.faults import Fault

MAX_DEPTH: Final = 64
MAX_NAMES: Final = 10_000  # of one object: each that is not known is looked at and told of


class _Unread(ValueError):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class NotJson(_Unread):
    """The text is no JSON at all."""


class NotTaken(_Unread):
    """It is JSON, with a name given twice, a number out of range, or endless nesting."""


def value_of(text: str, line: int | None = None) -> Json:
    """The value. Raises NotJson and NotTaken; `line`: of a text of lines, for their messages."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}" if line is None else f"column {exc.colno}"
        fault = Fault("body", f"is not valid JSON at {where}: {exc.msg}", "Check it with a JSON parser.", line)
        raise NotJson(fault) from None
    except _Refused as exc:
        raise NotTaken(Fault(*exc.words, line)) from None
    except RecursionError:
        raise NotTaken(_too_deep(line)) from None
    except ValueError:  # Python's own bound on the digits of a whole number
        raise NotTaken(Fault("body", "holds a number out of range", "Send numbers of a sane size.", line)) from None
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise NotTaken(_too_deep(line))
    return value


class _Refused(ValueError):
    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.words = (field, message, remedy)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise _Refused("body", f"holds an object of more than {MAX_NAMES:,} fields", "Send fewer.")
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Refused(twice[:60], "is given twice in one object", "Give it once.")
    return made


def _constant(name: str) -> Any:
    raise _Refused("body", f"holds {name}, which is no JSON", "Send null or a number.")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused("body", "holds a number out of range", "Send numbers of a sane size.")
    return number


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _too_deep(line: int | None) -> Fault:
    return Fault("body", f"is nested more than {MAX_DEPTH} levels deep", "Flatten it.", line)


def _deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [part for item in level for part in _parts(item) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item
