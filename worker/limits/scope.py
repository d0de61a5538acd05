"""Limits of an account, or of one model of it, and what is left of them in this process.

The keys of an account share its limits. What Redis grants the whole fleet, or this process grants itself while Redis is
away, is booked here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from worker.domain.bucket import Bucket
from worker.limits.shared import PREFIX

TIGHT: Final = 0.985  # of a limit is used: a provider's minute is not ours, and calls take a moment to arrive
BURST_S: Final = 1.0
LONGEST_GAP_S: Final = 0.25

Vector = tuple[float, float, float, float]  # requests, tokens, input tokens, output tokens


@dataclass(frozen=True, slots=True)
class Rates:
    """Configured limits; None: none. Per minute, and calls at once. `slow_s`: a longer call counts as a failed one."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    input_tpm: int | None = None
    output_tpm: int | None = None
    slow_s: float | None = None

    @property
    def per_minute(self) -> tuple[int | None, ...]:
        return (self.rpm, self.tpm, self.input_tpm, self.output_tpm)

    @property
    def any(self) -> bool:
        return self.concurrency is not None or any(rate is not None for rate in self.per_minute)


@dataclass(slots=True)
class Scope:
    """One account, or one model of it, with what is left of its limits in this process."""

    key: str
    rates: Rates
    held: int = 0  # places
    told: int = 0  # places that Redis knows of
    settle: list[float] = field(default_factory=lambda: [0.0] * 4)  # to be given back (negative: taken) in Redis
    buckets: list[Bucket | None] = field(init=False)
    share: int = 1  # workers that the buckets are divided by
    refreshed_s: float = 0.0
    apart: bool = False  # its own share was lived on: what Redis takes for unused may be used
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one exchange at a time: each tells what is held

    def __post_init__(self) -> None:
        self.buckets = [None if rate is None else Bucket(TIGHT * rate, BURST_S) for rate in self.rates.per_minute]

    def live_on(self, share: int) -> None:
        if share == self.share:
            return
        self.share = share
        for bucket, rate in zip(self.buckets, self.rates.per_minute, strict=True):
            if bucket is not None and rate is not None:
                bucket.per_minute = TIGHT * rate / share

    def wait_s(self, now_s: float, cost: Vector, share: int) -> float:
        if self.rates.concurrency is not None and self.held >= max(1, self.rates.concurrency // share):
            return LONGEST_GAP_S
        return max((b.wait_s(now_s, units) for b, units in zip(self.buckets, cost, strict=True) if b), default=0.0)

    def take(self, now_s: float, cost: Vector) -> None:
        for bucket, units in zip(self.buckets, cost, strict=True):
            if bucket is not None:
                bucket.take(now_s, units)

    def give(self, units: Vector, *, shared: bool) -> None:
        for n, unit in enumerate(units):
            bucket = self.buckets[n]
            if shared:
                self.settle[n] += unit
            elif bucket is not None:
                bucket.give(unit)

    def empty(self, now_s: float) -> None:
        for bucket in self.buckets:
            if bucket is not None:
                bucket.empty(now_s)

    def tell(self, now_s: float) -> dict[str, Any]:
        """What Redis is to hear of it; it counts as told from here on."""
        said = {
            "per_minute": [0 if rate is None else TIGHT * rate for rate in self.rates.per_minute],
            "places": 0 if self.rates.concurrency is None else self.rates.concurrency,
            "held": self.held,
            "settle": self.settle,
            "apart": self.apart,
        }
        self.settle = [0.0] * 4
        self.apart = False
        self.told, self.refreshed_s = self.held, now_s
        return said

    def owe(self, units: list[float]) -> None:
        """What Redis was to be told and was not: used more than reserved is owed here, the rest is let go."""
        for bucket, unit in zip(self.buckets, units, strict=True):
            if bucket is not None:
                bucket.give(min(0.0, unit))


def scope_key(provider: str, account: str, model: str | None = None) -> str:
    """In a cluster the keys of one account live together: the braces say so."""
    key = f"{PREFIX}{{{provider}|{account}}}"
    return key if model is None else f"{key}:{model}"
