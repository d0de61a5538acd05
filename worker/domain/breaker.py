"""A circuit breaker for one target, as plain arithmetic over a clock that is passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

State = Literal["closed", "open", "probing", "ramping"]
STEPS: Final = 10  # from the good probe to all calls again


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Opens when, of at least `volume` calls in the last `window_s`, `ratio` or more failed.

    step_s  after a good probe a tenth more of the calls is let through each `step_s`; 0: all at once
    """

    volume: int = 5
    ratio: float = 0.5
    window_s: float = 30.0
    open_s: float = 10.0
    longest_open_s: float = 20.0  # a target that is back is in use again within 30 s
    step_s: float = 0.5


@dataclass(slots=True)
class Breaker:
    policy: BreakerPolicy = field(default_factory=BreakerPolicy)
    state: State = "closed"
    _calls: list[tuple[float, bool]] = field(default_factory=list)
    _open_until: float = 0.0
    _opened: int = 0
    _probe_at: float = 0.0
    _ramp_from: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """0 when a call may be made now; else seconds until it is worth asking again. Does not start the probe."""
        if self.state == "open":
            return max(0.0, self._open_until - now_s)
        if self.state == "probing":  # a probe whose caller died would hold the door for ever
            return max(0.0, self._probe_at + self.policy.longest_open_s - now_s) and 1.0
        return 0.0

    def share(self, now_s: float) -> float:
        """The part of the calls that is let through after a good probe; 1: all."""
        if self.state != "ramping":
            return 1.0
        done = ramp_share(now_s - self._ramp_from, self.policy.step_s)
        if done >= 1.0:
            self.close()
        return done

    def enter(self, now_s: float) -> None:
        """A call is about to be made: after an open spell it is the one probe."""
        if self.state in {"open", "probing"}:
            self.state = "probing"
            self._probe_at = now_s

    def record(self, now_s: float, *, good: bool) -> None:
        if self.state in {"open", "probing"}:
            if not good:
                self._trip(now_s)
            elif self.policy.step_s > 0.0:
                self.state = "ramping"
                self._ramp_from = now_s
            else:
                self.close()
            return
        if self.state == "ramping":
            self.share(now_s)  # the last step closes it
        self._calls.append((now_s, good))
        horizon = now_s - self.policy.window_s
        if len(self._calls) > 8 * self.policy.volume or not good:
            self._calls = [c for c in self._calls if c[0] >= horizon][-4 * self.policy.volume :]
        if good:
            return
        bad = sum(1 for _, ok in self._calls if not ok)
        if len(self._calls) >= self.policy.volume and bad >= self.policy.ratio * len(self._calls):
            self._trip(now_s)

    def close(self) -> None:
        """As if it had never opened."""
        self.state = "closed"
        self._opened = 0
        self._calls.clear()

    def hold_open(self, until_s: float) -> None:
        """It is known from elsewhere that the target fails."""
        self.state = "open"
        self._opened = max(1, self._opened)
        self._open_until = until_s
        self._calls.clear()

    def forget_probe(self) -> None:
        """The probe ended without a verdict (cancelled, its own fault): the next caller probes."""
        if self.state == "probing":
            self.state = "open"
            self._open_until = 0.0

    def _trip(self, now_s: float) -> None:
        self.state = "open"
        self._opened += 1
        spell = min(self.policy.longest_open_s, self.policy.open_s * 2 ** (self._opened - 1))
        self._open_until = now_s + spell
        self._calls.clear()


def ramp_share(since_s: float, step_s: float) -> float:
    """A tenth at once, then a tenth more each step."""
    return min(STEPS, 1 + int(max(0.0, since_s) / step_s)) / STEPS
