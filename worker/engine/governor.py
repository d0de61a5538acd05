"""Keeps the loop answering: when it lags, the batch lane gets fewer places, long before a waiting person notices.

A saturated loop gains nothing from more calls in flight: they only queue inside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TICK_S: Final = 0.02
CALM_S: Final = 0.015
LAG_S: Final = 0.04


@dataclass(slots=True)
class Governor:
    """Additive increase, multiplicative decrease of the places in use, by the loop's lag."""

    most: int
    least: int = 50
    places: int = 0
    _calm: int = 0

    def __post_init__(self) -> None:
        self.least = min(self.least, self.most)
        self.places = self.most

    def saw(self, lag_s: float) -> None:
        """One tick of the loop came `lag_s` late."""
        if lag_s > LAG_S:
            self.places = max(self.least, int(self.places * 0.85))
            self._calm = 0
        elif lag_s < CALM_S:
            self._calm += 1
            if self._calm >= 5 and self.places < self.most:
                self.places = min(self.most, self.places + max(1, self.most // 50))
                self._calm = 0
