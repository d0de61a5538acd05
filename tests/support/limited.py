"""A provider that enforces limits by the minute, smoothly, and tells what was used and what it refused."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, Script


@dataclass
class Limited:
    """Give it to `ScriptedProvider.always`.

    burst_s  what so many seconds earn may come at once; a provider that counts whole minutes has 60
    tokens   of each answer: (input, output)
    """

    rpm: int | None = None
    tpm: int | None = None
    burst_s: float = 2.0
    tokens: tuple[int, int] = (50, 50)
    delay_s: float = 0.1
    taken: list[float] = field(default_factory=list)  # when
    refused: list[float] = field(default_factory=list)
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Received) -> Script:
        with self._lock:
            asked = [("requests", self.rpm, 1), ("tokens", self.tpm, sum(self.tokens))]
            limits = [(name, rate / 60.0, units) for name, rate, units in asked if rate is not None]
            left = {}
            for name, per_s, units in limits:
                before, at_s = self._left.get(name, (per_s * self.burst_s, request.at_s))
                left[name] = min(per_s * self.burst_s, before + per_s * (request.at_s - at_s)) - units
            if any(rest < 0 for rest in left.values()):
                self.refused.append(request.at_s)
                return script.error(429, "Too many requests", code="rate_limit_exceeded", headers={"retry-after": "1"})
            self._left |= {name: (rest, request.at_s) for name, rest in left.items()}
            self.taken.append(request.at_s)
        return script.chat("fine", tokens=self.tokens, delay_s=self.delay_s)

    def used(self, after_s: float = 0.0) -> float:
        """Of the tightest limit, between so many seconds after the first request and the last one: 1.0 is all of it."""
        begin, end = self.taken[0] + after_s, self.taken[-1]
        calls = sum(at > begin for at in self.taken) / (end - begin)
        per_minute = 60.0 * calls
        of_requests = per_minute / self.rpm if self.rpm else 0.0
        return max(of_requests, per_minute * sum(self.tokens) / self.tpm if self.tpm else 0.0)
