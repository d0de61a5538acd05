"""A rate as plain arithmetic (GCRA): so much per minute, with a burst of a moment's worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LATE_S: Final = 0.3  # whoever waits for a unit and comes so much too late loses nothing


@dataclass(slots=True)
class Bucket:
    """`per_minute` units; what `burst_s` earns may come at once, and one unit always may. The clock is passed in.

    What is larger than half the burst waits until that much is there and then leaves a debt, so that the mean holds
    and nothing runs over while somebody waits for it.
    """

    per_minute: float
    burst_s: float = 1.0
    _due: float = 0.0  # when the units taken so far will have been earned

    def wait_s(self, now_s: float, units: float = 1.0) -> float:
        """Seconds until so many units may be taken; 0: now."""
        each_s, room_s = 60.0 / self.per_minute, self._room_s
        return max(0.0, self._due + min(units * each_s, max(each_s, room_s / 2)) - now_s - room_s)

    def take(self, now_s: float, units: float) -> None:
        self._due = max(self._due, now_s) + units * 60.0 / self.per_minute

    def give(self, units: float) -> None:
        """Hand back units that were reserved and not used (negative: more was used)."""
        self._due -= units * 60.0 / self.per_minute

    def empty(self, now_s: float) -> None:
        """Nothing is in it and nothing is owed: what it held may have been used elsewhere."""
        self._due = now_s + self._room_s

    @property
    def _room_s(self) -> float:
        return max(self.burst_s, 60.0 / self.per_minute + LATE_S)
