"""Keeps the loop answering: when it lags, the batch lane gets fewer places, long before a waiting person notices.

A saturated loop gains nothing from more calls in flight: they only queue inside it. What counts is the lag over some
ticks, not one late tick: a group of results that comes back at once is late by nature and over at once. While somebody
waits for a job of this process (`hurried`), and for a little after, much less lag is put up with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TICK_S: Final = 0.02
CALM_S: Final = 0.010
LAG_S: Final = 0.02
HURRY: Final = 0.15  # of the lag that is put up with otherwise
_WEIGHT: Final = 0.2  # of the newest tick
_SETTLE_TICKS: Final = 10  # a change of places takes a call's length to show
_REMEMBERED_TICKS: Final = 150  # about three seconds: who waited just now asks again soon


@dataclass(slots=True)
class Governor:
    """Additive increase, multiplicative decrease of the places in use, by the loop's smoothed lag."""

    most: int
    least: int = 50
    places: int = 0
    lag_s: float = 0.0
    _rest: int = 0
    _hurry: int = 0

    def __post_init__(self) -> None:
        self.least = min(self.least, self.most)
        self.places = self.most

    def saw(self, lag_s: float, *, hurried: bool = False) -> None:
        """One tick of the loop came `lag_s` late."""
        self.lag_s += _WEIGHT * (lag_s - self.lag_s)
        self._hurry = _REMEMBERED_TICKS if hurried else max(0, self._hurry - 1)
        bearable = HURRY if self._hurry else 1.0
        if self._rest > 0:
            self._rest -= 1
        elif self.lag_s > LAG_S * bearable:
            self.places = max(self.least, int(self.places * (0.5 if self._hurry else 0.85)))
            self._rest = _SETTLE_TICKS
        elif self.lag_s < CALM_S * bearable and self.places < self.most:
            self.places = min(self.most, self.places + max(1, self.most // (100 if self._hurry else 25)))
            self._rest = _SETTLE_TICKS
