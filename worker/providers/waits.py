"""How long a provider asks us to wait, wherever it says so.

In this order: `retry-after-ms`, `retry-after` (seconds, or an HTTP date), a field of the body, a wait named in the
message, the reset of a counter that stands at 0. Read on errors only: some send `retry-after` with every answer.
Waits that are not positive say nothing. None is believed beyond MAX_WAIT_S.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from worker.domain.http_field import http_date, number
from worker.providers.error_body import ErrorBody

MAX_WAIT_S: Final = 86_400.0  # the longest windows (requests or tokens a day) end within one

BODY: Final = "body"  # `Failure.wait_from` of a wait that stood in no header

_UNITS_S: Final = {
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("us", "µs", "μs"), 1e-6),
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}
_UNIT: Final = "|".join(sorted(_UNITS_S, key=len, reverse=True))
_PART: Final = re.compile(rf"(\d{{1,12}}(?:\.\d{{1,20}})?)\s?({_UNIT})(?![a-zµμ])", re.IGNORECASE)
_SPOKEN: Final = re.compile(
    r"\b(?:try again|retry|wait|available(?: again)?|resets?)\s+(?:(?:in|after|for|about|at least)\s+){0,2}"
    rf"((?:{_PART.pattern}(?:,? and |, |\s)?)+)",
    re.IGNORECASE,
)
_GO: Final = re.compile(rf"(?:{_PART.pattern})+", re.IGNORECASE)
_COUNTER: Final = re.compile(
    r"(?:x-)?ratelimit-(?P<field>limit|remaining|reset)(?:-(?P<name>[\w-]+))?"
    r"|[a-z]+-ratelimit-(?P<name2>[\w-]+)-(?P<field2>limit|remaining|reset)"
)
_POLICY: Final = re.compile(r'"?(?P<name>[^";,]*)"?\s*;\s*r=(?P<remaining>\d{1,15})\s*;\s*t=(?P<reset>\d{1,15})')


@dataclass(frozen=True, slots=True)
class Counter:
    """One of the counters a provider shows in its headers.

    header   where its reset stands
    reset_s  seconds until it is full again; None: not said, or not in the future
    """

    name: str
    header: str
    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


def wait_of(headers: Mapping[str, str], error: ErrorBody, now: datetime) -> tuple[float, str] | tuple[None, None]:
    """Seconds and where they were read, of an error reply; `now` is used where the reply has no `date` of its own."""
    if wait := _positive(number(headers.get("retry-after-ms")), 1e-3):
        return wait, "retry-after-ms"
    if wait := _retry_after(headers.get("retry-after"), headers, now):
        return wait, "retry-after"
    if wait := _positive(error.wait_s) or spoken_wait_s(error.message):
        return wait, BODY
    empty = [c for c in counters(headers, now) if c.remaining == 0 and c.reset_s is not None]
    if empty:
        last = max(empty, key=lambda counter: counter.reset_s or 0.0)
        if wait := _positive(last.reset_s):
            return wait, last.header
    return None, None


def spoken_wait_s(message: str) -> float | None:
    """The wait in a sentence: "try again in 9m38.016s", "after 1 seconds", "in 1 minute and 20 seconds"."""
    match = _SPOKEN.search(message)
    return _positive(_sum(match[1])) if match else None


def duration_s(text: str) -> float | None:
    """A Go duration (`120ms`, `6m0s`, `1h2m3s`) in seconds."""
    text = text.strip()
    return _sum(text) if len(text) <= 64 and _GO.fullmatch(text) else None


def counters(headers: Mapping[str, str], now: datetime) -> list[Counter]:
    """The rate counters of a reply, good or bad: `x-ratelimit-*`, `anthropic-ratelimit-*`, `ratelimit`."""
    found: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    for header, value in headers.items():
        if "ratelimit" not in header:
            continue
        if match := _COUNTER.fullmatch(header):
            name = match["name"] or match["name2"] or ""
            kind = match["field"] or match["field2"]
            found.setdefault(name, {})[kind] = value
            if kind == "reset" or name not in places:
                places[name] = header
    seen = [
        Counter(
            name,
            places[name],
            _whole(f.get("limit")),
            _whole(f.get("remaining")),
            _reset_s(f.get("reset"), headers, now),
        )
        for name, f in found.items()
    ]
    policies = _POLICY.finditer(headers.get("ratelimit", "")[:1000])
    return seen + [
        Counter(m["name"], "ratelimit", None, int(m["remaining"]), _positive(float(m["reset"]))) for m in policies
    ]


def _retry_after(value: str | None, headers: Mapping[str, str], now: datetime) -> float | None:
    if value is None:
        return None
    seconds = number(value)
    if seconds is None:
        seconds = duration_s(value)
    if seconds is None:
        moment = http_date(value)
        seconds = None if moment is None else (moment - _now(headers, now)).total_seconds()
    return _positive(seconds)


def _reset_s(value: str | None, headers: Mapping[str, str], now: datetime) -> float | None:
    """A reset in any of the notations in use: Go duration, seconds, moment (RFC 3339, or a Unix time)."""
    if value is None:
        return None
    told = number(value)
    if told is None:
        seconds = duration_s(value)
        if seconds is None and (moment := _instant(value)) is not None:
            seconds = (moment - _now(headers, now)).total_seconds()
        return _positive(seconds)
    if told > 1e12:
        told /= 1000  # milliseconds of Unix time
    if told > 1e9:
        told -= _now(headers, now).timestamp()
    return _positive(told)


def _now(headers: Mapping[str, str], now: datetime) -> datetime:
    """The provider's clock where it shows one: its moments were written by that clock."""
    shown = http_date(headers.get("date", ""))
    return now if shown is None else shown


def _instant(value: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value.strip()[:64])
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _whole(value: str | None) -> int | None:
    told = number(value)
    return int(told) if told is not None and 0 <= told < 1e15 else None


def _positive(seconds: float | None, unit_s: float = 1.0) -> float | None:
    if seconds is None or not seconds > 0:
        return None
    return min(seconds * unit_s, MAX_WAIT_S)


def _sum(text: str) -> float:
    return math.fsum(float(part[1]) * _UNITS_S[part[2].lower()] for part in _PART.finditer(text))
