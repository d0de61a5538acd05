"""JSON from strangers: every reading ends in a value or a ValueError, and every text kept is valid Unicode."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any, Final

from pydantic_core import from_json

from worker.domain.fence import unfenced

MAX_DEPTH: Final = 100  # of values that are kept; deeper ones break whoever walks them later
# Some templates swallow the opening tag. What begins as JSON may speak of a tag in its texts.
_THOUGHTS: Final = re.compile(r"(?!\s*[{\[`\"]).*?</think>", re.DOTALL)


def read_json(body: bytes) -> Any:
    """The value of a body, forgiving: bytes that are no UTF-8 become U+FFFD, NaN and Infinity become null.

    A paid answer is not thrown away for half a character. Raises ValueError.
    """
    if b"NaN" not in body and b"Infinity" not in body:
        with suppress(ValueError):  # the strict reader, in a third of the time; what it refuses is read with care
            return from_json(body)
    try:
        return _FORGIVING.decode(body.decode("utf-8-sig", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_strict_json(text: str) -> Any:
    """The value a model wrote; it is kept, so it is exact JSON, finite, of bounded depth. Raises ValueError."""
    try:
        value = _STRICT.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    walk = "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH
    return kept(value) if walk else value


def answer_json(text: str) -> Any:
    """The JSON of an answer, without the thoughts before it or the fence around it that some models write anyway.

    Raises ValueError.
    """
    if thoughts := _THOUGHTS.match(text):
        text = text[thoughts.end() :]
    return read_strict_json(unfenced(text.strip()))


def kept(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value fit to be stored: texts clean, numbers finite, no deeper than `depth`. Raises ValueError."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return _finite(value)
    if not isinstance(value, list | dict):
        return value
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [kept(item, depth - 1) for item in value]
    return {clean(name): kept(item, depth - 1) for name, item in value.items()}


def clean(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: no encoder accepts them. NUL and controls stay."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str | float) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


_FORGIVING: Final = json.JSONDecoder(parse_constant=lambda _: None, strict=False)
_STRICT: Final = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
