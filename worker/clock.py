"""The only reader of time, randomness and new ids. Pure code takes `now` and `draw` as arguments."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from random import Random
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: sorts as the numbers do
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_random = Random()  # noqa: S311 - jitter, not secrets


def now() -> datetime:
    """The wall clock, aware UTC. Rows are stamped by the database's clock, not by this one."""
    return datetime.now(UTC)


def monotonic_s() -> float:
    return time.monotonic()


def draw() -> float:
    """A number in [0, 1) for jitter."""
    return _random.random()


def new_id(prefix: str) -> str:
    """`job_` + 26 characters: 48 bits of milliseconds, then 80 random bits, so ids sort by time of making."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "_" + encode32(number, 26)


def least_id(prefix: str, at_s: float) -> str:
    """No id that was made from then on (seconds since 1970) comes before it, and each that was made earlier does."""
    return prefix + "_" + encode32(max(0, round(at_s * 1000)) << 80, 26)


def encode32(number: int, width: int) -> str:
    """The number in `width` digits (even), most significant first."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(5 * width - 10, -1, -10)])


def new_secret(n_bytes: int = 32) -> str:
    """A URL-safe random string for keys."""
    return secrets.token_urlsafe(n_bytes)


def new_bytes(n: int) -> bytes:
    """Random bytes to sign with."""
    return secrets.token_bytes(n)
