"""How fast a target may be asked whose limit nobody configured, learnt from what it says and from what it refuses.

It begins without any limit and a provider that refuses nothing never gets one. A refusal cuts the rate to a part of
what was sent (multiplicative decrease); without refusals it grows again, slowly at first and then faster (a first cut
may have come from very few calls), until it is well above what is sent, and is gone. Counters in the provider's
headers slow it before it comes to a refusal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CUT: Final = 0.8
STEP: Final = 0.01  # of the rate, in each second, for each second since the last cut
MOST_GROWN: Final = 50.0  # in one step; e**50 of any rate is more than anybody sends
REST_S: Final = 1.0  # calls that were out together are refused together: one cut for all of them
TAU_S: Final = 5.0  # over which the rate is measured
LUMP_S: Final = 0.1  # calls within this count as one moment's
LEAST: Final = 0.5  # calls a second
LOW: Final = 0.2  # of a counter: below it, what remains is spread over the time until its reset
LONGEST_HOLD_S: Final = 3600.0


@dataclass(slots=True)
class Pace:
    per_s: float | None = None  # None: as fast as anybody likes
    _due_s: float = 0.0
    _sent: float = 0.0  # decayed count of calls, for the rate in use
    _since_s: float | None = None
    _at_s: float = 0.0
    _cut_s: float = float("-inf")
    _grown_s: float = 0.0
    _hint: float | None = None  # calls a second until `_hint_until_s`
    _hint_until_s: float = 0.0
    _hold_until_s: float = 0.0

    def free(self, now_s: float) -> bool:
        """Whether there is nothing to mind: what holds for most targets most of the time."""
        return self.per_s is None and now_s >= self._hint_until_s and now_s >= self._hold_until_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next call may be made; 0: now."""
        if self.free(now_s):
            return 0.0
        held = self._hold_until_s - now_s
        if held > 0.0:
            return held
        return 0.0 if self.limit(now_s) is None else max(0.0, self._due_s - now_s)

    def limit(self, now_s: float) -> float | None:
        """Calls a second that are let through just now; None: no limit."""
        self._grow(now_s)
        hint = self._hint if now_s < self._hint_until_s else None
        if hint is None:
            return self.per_s
        return hint if self.per_s is None else min(hint, self.per_s)

    def sent(self, now_s: float) -> None:
        if self._since_s is None or now_s - self._at_s > LUMP_S:
            self._decay(now_s)
        self._sent += 1.0
        if not self.free(now_s) and (limit := self.limit(now_s)) is not None:
            self._due_s = max(self._due_s, now_s) + 1.0 / limit

    def refused(self, now_s: float) -> None:
        """The target said that it is asked too fast, or that it cannot take more."""
        if now_s - self._cut_s < REST_S:
            return
        in_use = self._in_use(now_s)
        rate = in_use if self.per_s is None else min(self.per_s, max(in_use, LEAST))
        self.per_s = max(LEAST, CUT * rate)
        self._cut_s = self._grown_s = now_s

    def counted(self, limit: int | None, remaining: int, reset_s: float, share: int, now_s: float) -> None:
        """A counter that came with a reply; `share` is the number of workers that live on it."""
        if remaining <= 0:
            self._hold_until_s = max(self._hold_until_s, now_s + min(reset_s, LONGEST_HOLD_S))
        elif limit is not None and remaining < LOW * limit:
            hint = max(LEAST, remaining / max(reset_s, 1.0) / share)
            fresh = now_s >= self._hint_until_s or self._hint is None
            self._hint = hint if fresh else min(hint, self._hint or hint)
            self._hint_until_s = now_s + min(max(reset_s, 1.0), 2.0)  # the next replies say more

    def _grow(self, now_s: float) -> None:
        if self.per_s is None:
            return
        since, before = now_s - self._cut_s, self._grown_s - self._cut_s
        grown = STEP * ((since - before) + (since**2 - before**2) / 2.0)
        self.per_s *= math.exp(min(grown, MOST_GROWN))  # after some idle minutes `exp` would overflow
        self._grown_s = now_s
        if now_s - self._cut_s > 2 * TAU_S and self.per_s > 2.0 * max(self._in_use(now_s), LEAST):
            self.per_s = None

    def _in_use(self, now_s: float) -> float:
        """Calls a second, over the last few."""
        self._decay(now_s)
        if self._since_s is None:
            return 0.0
        return self._sent / (TAU_S * -math.expm1(-max(now_s - self._since_s, 0.2) / TAU_S))

    def _decay(self, now_s: float) -> None:
        if self._since_s is None:
            self._since_s = self._at_s = now_s
        gone_s = now_s - self._at_s
        if gone_s > LUMP_S:
            self._sent *= math.exp(-gone_s / TAU_S)
            self._at_s = now_s
