"""Error bodies in all the shapes providers send them, read into one.

Seen on the wire: `{"error": {...}}`, `{"error": "text"}`, `{"error": ["text"]}`, the fields flat at the top,
all of it inside a one-element array, FastAPI's `{"detail": ...}`, bare text, HTML of an edge, nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.providers.facts import name_of
from worker.providers.json_text import read_json
from worker.providers.redaction import mask, one_line

_TEXT_READ: Final = 4096  # bytes of a body that is no JSON
_NESTED: Final = 4  # errors inside errors, as gateways wrap them
_TITLE: Final = re.compile(r"<(title|h1)[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<[^>]*>")
_SECONDS: Final = re.compile(r"(\d+(?:\.\d+)?)s?")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error says about itself.

    message  one clean line, or ""
    words    its codes and types in lower case, the most telling first; numbers are left out
    code     the first of them as written
    param    the field of the request it blames
    number   a numeric code in the range of error statuses (some engines repeat the status there)
    wait_s   a wait in a field of its own (RetryInfo, estimated_time), in seconds
    loading  it carries an estimate of when a model will be loaded
    daily    the window it speaks of is a day (Google's QuotaFailure)
    of_model every such window is that of one model
    request_id  the provider's id of the call, where it stands in the body
    fields   the innermost object, for what only one format knows
    """

    message: str = ""
    words: tuple[str, ...] = ()
    code: str | None = None
    param: str | None = None
    number: int | None = None
    wait_s: float | None = None
    loading: bool = False
    daily: bool = False
    of_model: bool = False
    request_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_error_body(body: bytes) -> ErrorBody:
    """Never raises."""
    try:
        return error_of(read_json(body))
    except ValueError:
        return ErrorBody(message=_plain(body[:_TEXT_READ].decode("utf-8", "replace")))


def error_of(value: Any) -> ErrorBody:
    """The error a parsed body holds."""
    layers = list(_layers(value))
    texts = [text for layer in reversed(layers) if (text := _message(layer))]
    objects = [layer for layer in reversed(layers) if isinstance(layer, dict)]
    words = [word for layer in objects for word in _words(layer)]
    estimate = next((_seconds(layer["estimated_time"]) for layer in objects if "estimated_time" in layer), None)
    daily = [quota for layer in objects for quota in _daily(layer)]
    delay = next((wait for layer in objects if (wait := _retry_delay(layer)) is not None), None)
    return ErrorBody(
        message=one_line(texts[0]) if texts else "",
        words=tuple(dict.fromkeys(word.lower() for word in words)),
        code=mask(words[0]) if words else None,
        param=next((p for layer in objects if isinstance(p := layer.get("param"), str)), None),
        number=next((n for layer in objects if (n := _number(layer)) is not None), None),
        wait_s=delay if delay is not None else estimate,
        loading=estimate is not None,
        daily=bool(daily),
        of_model=bool(daily) and all("PerModel" in quota for quota in daily),
        request_id=next((i for layer in objects if (i := name_of(layer.get("request_id")))), None),
        fields=objects[0] if objects else {},
    )


def _layers(value: Any) -> Iterator[Any]:
    """The value and the errors wrapped in it, outermost first."""
    for _ in range(_NESTED):
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0]
        yield value
        if not isinstance(value, dict) or not value.get("error"):
            return
        value = value["error"]


def _message(layer: Any) -> str | None:
    if isinstance(layer, str):
        return layer
    if isinstance(layer, list):
        return "; ".join(item for item in layer[:8] if isinstance(item, str)) or None
    if not isinstance(layer, dict):
        return None
    for name in ("message", "msg", "detail"):
        text = layer.get(name)
        if isinstance(text, str) and text:
            return text
        if isinstance(text, list):
            return _complaints(text)
        if isinstance(text, dict):
            return _message(text) if name not in text else None
    return None


def _complaints(details: list[Any]) -> str | None:
    """FastAPI's list: where and what. Its `input` is the caller's own words and stays out."""
    lines = []
    for item in details[:8]:
        if isinstance(item, str):
            lines.append(item)
        elif isinstance(item, dict):
            place = item.get("loc")
            where = (
                ".".join(str(step) for step in place if isinstance(step, str | int)) if isinstance(place, list) else ""
            )
            lines.append(": ".join(part for part in (where, str(item.get("msg", ""))) if part))
    return "; ".join(line for line in lines if line) or None


def _words(layer: Mapping[str, Any]) -> Iterator[str]:
    details = layer.get("details")
    inner = details if isinstance(details, list) else [details]
    candidates = [item.get(name) for item in inner if isinstance(item, dict) for name in ("error_code", "reason")]
    candidates += [layer.get(name) for name in ("code", "type", "error_type", "status")]
    for word in candidates:
        if isinstance(word, str) and word and len(word) <= 100 and not word.isdecimal():
            yield name_of(word) or word


def _number(layer: Mapping[str, Any]) -> int | None:
    for name in ("code", "status"):
        code = layer.get(name)
        if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
            code = int(code)
        if type(code) is int and 400 <= code <= 599:
            return code
    return None


def _retry_delay(layer: Mapping[str, Any]) -> float | None:
    """Google's RetryInfo: `{"@type": "...RetryInfo", "retryDelay": "34.4s"}` among the details."""
    details = layer.get("details")
    for item in details if isinstance(details, list) else ():
        if isinstance(item, dict) and "retryDelay" in item:
            return _seconds(item["retryDelay"])
    return None


def _daily(layer: Mapping[str, Any]) -> Iterator[str]:
    """Google names the quotas that are used up: `...RequestsPerDayPerProjectPerModel-FreeTier`."""
    details = layer.get("details")
    for item in details if isinstance(details, list) else ():
        found = item.get("violations") if isinstance(item, dict) else None
        for violation in found if isinstance(found, list) else ():
            quota = violation.get("quotaId") if isinstance(violation, dict) else None
            if isinstance(quota, str) and "PerDay" in quota:
                yield quota


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        match = _SECONDS.fullmatch(value.strip()[:32])
        return float(match[1]) if match else None
    return float(value) if type(value) in (int, float) and 0 <= value < 1e9 else None


def _plain(text: str) -> str:
    """What a person would read of a text or an HTML page."""
    if text.lstrip().startswith("<"):
        title = _TITLE.search(text)
        return one_line("an HTML page: " + _TAG.sub(" ", title[2] if title else text))
    return one_line(text)
