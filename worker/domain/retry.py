"""How long to wait before the next call. No sleep, no clock, no chance in here: the draw comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IN_PLACE_S: Final = 5.0  # a longer wait never holds a place in the engine: the job is parked with a visible `run_at`
LONGEST_WAIT_S: Final = 6 * 3600.0  # providers name days at times; the deadline and people look again sooner


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential with full jitter: a wait between 0 and `base_s * 2**n`, at most `cap_s`."""

    base_s: float = 0.5
    cap_s: float = 60.0

    def delay_s(self, n: int, draw: float) -> float:
        """The wait before retry `n` (0 is the first), for a draw in [0, 1)."""
        return min(self.cap_s, self.base_s * 2.0 ** min(n, 32)) * draw


def wait_s(backoff: Backoff, n: int, draw: float, hint_s: float | None) -> float:
    """A provider's wait is a floor: jitter comes on top, up to a tenth, so that a fleet does not return as one."""
    if hint_s is None:
        return backoff.delay_s(n, draw)
    return min(hint_s, LONGEST_WAIT_S) * (1.0 + 0.1 * draw)
