"""A rate as plain arithmetic (GCRA): so much per minute, with a burst of a few seconds' worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """`per_minute` units; `burst_s` of them may come at once. The clock is passed in."""

    per_minute: float
    burst_s: float = 6.0
    _due: float = 0.0  # when the units taken so far will have been earned

    def wait_s(self, now_s: float) -> float:
        """Seconds until another unit may be taken; 0: now."""
        return max(0.0, self._due - now_s - self.burst_s)

    def take(self, now_s: float, units: float) -> None:
        self._due = max(self._due, now_s) + units * 60.0 / self.per_minute

    def give(self, units: float) -> None:
        """Hand back units that were reserved and not used (negative: more was used)."""
        self._due -= units * 60.0 / self.per_minute
