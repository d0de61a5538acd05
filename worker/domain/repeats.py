"""A budget for asking a failing target again: a tenth of the calls it gets anyway, so that a fleet makes no storm.

While a target does well nothing is counted: what it failed during an outage is asked again as soon as it is back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RATIO: Final = 0.1
MOST: Final = 10.0  # saved up at most; what a process with few calls begins with
WELL: Final = 0.1  # of the newest calls may fail
WEIGHT: Final = 0.3  # of the newest call
EVERY_S: Final = 10.0  # earned by time alone: where there is little traffic, a job must not wait for somebody else's


@dataclass(slots=True)
class Repeats:
    _left: float = MOST
    _failing: float = 1.0  # the part of the newest calls that failed
    _at_s: float | None = None

    def allowed(self, now_s: float) -> bool:
        self._earn(now_s)
        return self._failing < WELL or self._left >= 1.0

    def asked(self, now_s: float, *, again: bool) -> None:
        """A call is made; `again`: of a job that this target has failed before."""
        self._earn(now_s)
        self._left = max(0.0, self._left - 1.0) if again else min(MOST, self._left + RATIO)

    def ended(self, *, good: bool) -> None:
        self._failing += WEIGHT * ((0.0 if good else 1.0) - self._failing)

    def refill(self) -> None:
        """The target is back after an outage: a few may find out how well."""
        self._left = MOST

    def _earn(self, now_s: float) -> None:
        if self._at_s is not None:
            self._left = min(MOST, self._left + max(0.0, now_s - self._at_s) / EVERY_S)
        self._at_s = now_s
