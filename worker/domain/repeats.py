"""A budget for asking a failing target again: a tenth of the calls it gets anyway, so that a fleet makes no storm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RATIO: Final = 0.1
MOST: Final = 10.0  # saved up at most; what a process with few calls begins with
EVERY_S: Final = 10.0  # earned by time alone: where there is little traffic, a job must not wait for somebody else's


@dataclass(slots=True)
class Repeats:
    _left: float = MOST
    _at_s: float | None = None

    def allowed(self, now_s: float) -> bool:
        self._earn(now_s)
        return self._left >= 1.0

    def asked(self, now_s: float, *, again: bool) -> None:
        """A call is made; `again`: of a job that this target has failed before."""
        self._earn(now_s)
        self._left = max(0.0, self._left - 1.0) if again else min(MOST, self._left + RATIO)

    def _earn(self, now_s: float) -> None:
        if self._at_s is not None:
            self._left = min(MOST, self._left + max(0.0, now_s - self._at_s) / EVERY_S)
        self._at_s = now_s
