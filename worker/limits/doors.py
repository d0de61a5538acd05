"""The door of one target: its breakers, how many calls it may have open, and whether it says anything at all.

The local breaker stands alone while Redis is away. Otherwise the fleet's verdict counts, which `Gate._sync` brings and
`Door.adopt` takes over: what this process has seen goes there, and one process of all gets the leave to probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from worker import clock
from worker.domain.breaker import STEPS, Breaker, BreakerPolicy, ramp_share
from worker.domain.failure import FailureKind
from worker.domain.repeats import Repeats
from worker.domain.walk import COLD_POLL_S, Closed

AWAKE_S: Final = 60.0  # who answered this long ago may have fallen asleep since: endpoints scale to zero
SCOUT_S: Final = 120.0  # a scout that has not come back by then is forgotten
LOOK_S: Final = 0.5  # between two looks whether the scout is back
FIRST: Final = 32  # calls open at once at a target that has not answered yet; doubled by each answer
CROWD: Final = 16  # fewer calls than this take nobody's place
SILENCE_S: Final = 0.5  # a target that answers faster than this is not called silent before
UNKNOWN_SILENCE_S: Final = 2.0
PROBE_LEASE_S: Final = 5.0  # of a worker that may have died; renewed while it lives
UNUSED_S: Final = 3.0  # a leave to probe that no job takes goes back
IDLE_S: Final = 300.0  # nobody asked for it: what is known of it is forgotten
STRANGER_S: Final = 10.0  # the same of one that never answered nor failed: any name may be asked for
PARK_S: Final = 6.0  # longer than a job waits in its place: the place is needed for other targets
_COLD: Final = BreakerPolicy(volume=1, ratio=0.0, open_s=COLD_POLL_S, longest_open_s=COLD_POLL_S, step_s=0.0)

Forced = Literal["open", "close"]


@dataclass(slots=True)
class Verdict:
    """What the fleet says of a target, with times of this process's steady clock."""

    state: Literal["open", "probing", "ramp"]
    until_s: float
    ramp_s: float = 0.0  # when its ramp began
    seen_s: float = 0.0  # when this state was first seen here


@dataclass(slots=True)
class Door:
    name: str
    slots: int
    policy: BreakerPolicy
    slow_s: float | None = None
    breaker: Breaker = field(init=False)
    cold: Breaker = field(default_factory=lambda: Breaker(_COLD))
    awake_s: float | None = None  # when it last answered; kept only for those that can fall asleep
    scout_s: float | None = None  # since when one call is out to see whether it is awake
    fleet: Verdict | None = None
    forced: Forced | None = None
    repeats: Repeats = field(default_factory=Repeats)
    epoch: int = 0  # calls that began before it last opened or closed say nothing of it now
    calls: int = 0  # open ones
    fresh: int = 0  # of those, the ones of this epoch: what hangs since before an outage does not count against a ramp
    waiting: int = 0
    latency_s: float | None = None  # of answers, smoothed
    good: int = 0  # not told to the fleet yet
    bad: int = 0
    probe: Literal["none", "granted", "out"] = "none"
    probe_s: float = 0.0
    tell: str | None = None  # what became of the probe
    reset: bool = False
    wanted: bool = False  # somebody would probe
    rest_s: float = 0.0  # until when it asked to be left alone
    known: bool = False  # it answered or failed once; before, all that is known is that a request was refused
    used_s: float = 0.0  # when a call last came or went
    _most: float = FIRST
    _heard_s: float = 0.0  # the last sign of life, or the moment since when one is waited for

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.policy)
        self._proven()

    # -- may it be asked ------------------------------------------------------------------------------------------

    def closed(self, now_s: float) -> Closed | None:
        if self.forced == "open":
            return Closed(FailureKind.OVERLOADED, 30.0, f"{self.name} is held shut by an operator")
        if self.rest_s > now_s:
            return Closed(FailureKind.OVERLOADED, self.rest_s - now_s, f"{self.name} is overloaded and asked to wait")
        if self.fleet is not None:
            wait = self._fleet_wait_s(self.fleet, now_s)
        elif self.breaker.state != "closed":
            wait = self.breaker.wait_s(now_s)
        else:
            wait = 0.0
        if wait > 0.0:
            return Closed(FailureKind.OVERLOADED, wait, f"{self.name} has been failing; its circuit breaker is open")
        if self.cold.state != "closed" and (wait := self.cold.wait_s(now_s)) > 0.0:
            return Closed(FailureKind.LOADING, wait, f"{self.name} is starting")
        if self.scouted(now_s) and self.unsure(now_s):
            return Closed(FailureKind.RATE_LIMIT, LOOK_S, f"one call is out to see whether {self.name} is awake")
        if self.crowded(now_s):
            wait = min(30.0, max(PARK_S, 2.0 * self._silent_s(now_s))) * (1.0 + 0.2 * clock.draw())
            return Closed(FailureKind.OVERLOADED, wait, f"{self.name} holds half of all places and says nothing")
        return None

    def _fleet_wait_s(self, fleet: Verdict, now_s: float) -> float:
        if fleet.state == "ramp" or self.probe == "granted":
            return 0.0
        if fleet.state == "open" and fleet.until_s > now_s:
            return fleet.until_s - now_s
        if fleet.state == "open":  # the next look in a moment finds the leave to probe, or somebody else has it
            self.wanted = True
            return LOOK_S
        self.wanted = self.probe == "none"
        return 1.0 if now_s - fleet.seen_s < UNKNOWN_SILENCE_S else PARK_S

    def spares(self, now_s: float, *, again: bool) -> bool:
        """Whether a call fits the budget for asking again; a probe always does."""
        if not again or self.probe == "granted" or self.breaker.state in {"open", "probing"}:
            return True
        return self.repeats.allowed(now_s)

    def room(self, now_s: float) -> float:
        """How many more calls may be open at once just now."""
        if self._most == math.inf and self.fleet is None and self.breaker.state == "closed":
            return math.inf
        if self.fleet is not None:
            if self.fleet.state != "ramp":
                return 1 if self.probe == "granted" else 0
            share = ramp_share(now_s - self.fleet.ramp_s, self.policy.step_s)
        elif self.breaker.state in {"open", "probing"}:
            return 1
        else:
            share = self.breaker.share(now_s)
        most = self._most if share >= 1.0 else min(self._most, max(1, math.ceil(share * self.slots)))
        return most - self.fresh

    def crowded(self, now_s: float) -> bool:
        """Whether it takes up half the places and does not answer: the others need them."""
        if self.calls == 0 or self.calls + self.waiting < max(CROWD, self.slots // 2):
            return False
        patience = UNKNOWN_SILENCE_S if self.latency_s is None else max(SILENCE_S, 2.0 * self.latency_s)
        return self._silent_s(now_s) > patience

    def _silent_s(self, now_s: float) -> float:
        return now_s - self._heard_s

    def unsure(self, now_s: float) -> bool:
        return self.awake_s is None or now_s - self.awake_s > AWAKE_S

    def scouted(self, now_s: float) -> bool:
        return self.scout_s is not None and now_s - self.scout_s < SCOUT_S

    # -- what happens to it ---------------------------------------------------------------------------------------

    def enter(self, now_s: float) -> int:
        """A call is about to be made. Returns the epoch it belongs to."""
        if self.calls == 0:
            self._heard_s = now_s
        self.calls += 1
        self.fresh += 1
        self.cold.enter(now_s)
        if self.fleet is None:
            self.breaker.enter(now_s)
        elif self.probe == "granted":
            self.probe = "out"
        return self.epoch

    def leave(self, epoch: int) -> None:
        self.calls -= 1
        if epoch == self.epoch:
            self.fresh -= 1

    def heard(self, now_s: float) -> None:
        self._heard_s = now_s

    def answered(self, took_s: float) -> None:
        self.known = True
        self.latency_s = took_s if self.latency_s is None else self.latency_s + 0.1 * (took_s - self.latency_s)
        if self._most < self.slots:
            self._most *= 2
            self._proven()

    def record(self, now_s: float, epoch: int, *, good: bool) -> bool:
        """Count a call that is over. True when the fleet should know at once."""
        if epoch != self.epoch:
            return False
        self.repeats.ended(good=good)
        self.known = self.known or not good
        if self.fleet is not None and self.fleet.state != "ramp":
            return self._probed("good" if good else "bad")
        self.good += good
        self.bad += not good
        if self.fleet is not None:
            return False
        before = self.breaker.state
        self.breaker.record(now_s, good=good)
        if self.breaker.state != before and self.breaker.state == "open":
            self._turned()
            return True
        if before == "probing" and self.breaker.state == "ramping":
            self._turned()
            self.repeats.refill()
        return False

    def forget(self, epoch: int) -> bool:
        """A call is over that says nothing about the target. True when the fleet should know at once."""
        if epoch != self.epoch:
            return False
        self.breaker.forget_probe()
        return self.fleet is not None and self._probed("drop")

    def rest(self, until_s: float) -> None:
        """It said how long it is overloaded; a shorter wait, named to another call, ends none."""
        self.rest_s = max(self.rest_s, until_s)

    def _probed(self, verdict: str) -> bool:
        if self.probe != "out":
            return False
        self.probe, self.tell = "none", verdict
        return True

    def force(self, to: Forced | None) -> None:
        if to == self.forced:
            return
        self.forced = to
        if to == "close":
            self._turned()
            self.breaker.close()
            self.cold.close()
            self.fleet, self.reset, self.probe, self.tell = None, True, "none", None
            self.good = self.bad = 0
            self.rest_s = 0.0

    def idle(self, now_s: float) -> bool:
        """Whether it may be forgotten: nobody has used it for long, and it holds nobody up."""
        if self.forced is not None or self.reset or self.calls or self.waiting or self.rest_s > now_s:
            return False
        if self.fleet is not None or self.breaker.wait_s(now_s) > 0.0 or self.cold.wait_s(now_s) > 0.0:
            return False
        return now_s - self.used_s > (IDLE_S if self.known else STRANGER_S)

    def _turned(self) -> None:
        self.epoch += 1
        self.fresh = 0
        self._most = FIRST
        self._proven()

    def _proven(self) -> None:
        if self._most >= self.slots:
            self._most = math.inf

    # -- what the fleet says --------------------------------------------------------------------------------------

    def adopt(self, seen: list[Any] | None, now_s: float) -> None:
        """`seen` as doors.lua returns it; None: the fleet knows nothing of this target."""
        before = self.fleet
        if seen is None:
            self.alone()
            return
        state, wait_ms, since_ms, mine = seen
        if state == "closed":
            if before is not None:
                self.breaker.close()
            self.fleet, self.probe = None, "none"
            return
        if before is None or (before.state == "ramp") != (state == "ramp"):
            self._turned()
        if state == "ramp":
            self.breaker.close()
            if before is None or before.state != "ramp":
                self.repeats.refill()
        fresh = before is None or before.state != state
        seen_s = now_s if fresh or before is None else before.seen_s
        self.fleet = Verdict(state, now_s + wait_ms / 1000.0, now_s - since_ms / 1000.0, seen_s)
        if state == "probing" and mine and self.tell is None:
            if self.probe == "none":
                self.probe, self.probe_s = "granted", now_s
        elif self.probe == "granted":
            self.probe = "none"

    def alone(self) -> None:
        """The fleet's word is gone (Redis is away, or was wiped): this process remembers what it heard last."""
        if self.fleet is not None and self.fleet.state != "ramp":
            self.breaker.hold_open(self.fleet.until_s)
        self.fleet, self.probe, self.tell = None, "none", None

    def to_tell(self, now_s: float) -> dict[str, Any] | None:
        """What the fleet should hear of this target; None: nothing. It counts as told."""
        if not self.known:  # the fleet keeps no names that perhaps nobody has
            self.good = 0
        if self.probe == "granted" and now_s - self.probe_s > UNUSED_S:
            self.probe, self.tell = "none", "drop"
        probe = self.tell
        if probe is None and self.probe != "none":
            probe = "hold"
        if probe is None and self.wanted and self.fleet is not None:
            probe = "want"
        if not (self.good or self.bad or probe or self.reset or self.fleet is not None):
            return None
        told = {"good": self.good, "bad": self.bad, "probe": probe, "reset": self.reset, "ask": self.fleet is not None}
        self.good = self.bad = 0
        self.tell, self.wanted, self.reset = None, False, False
        return told

    def report(self, now_s: float) -> tuple[str, float] | None:
        """State and wait for people; None: it is closed."""
        if self.forced == "open":
            return "open", 0.0
        if self.rest_s > now_s:
            return "open", self.rest_s - now_s
        if self.cold.state != "closed":
            return "loading", self.cold.wait_s(now_s)
        if self.fleet is not None:
            name = "probing" if self.fleet.state == "ramp" else self.fleet.state
            return name, max(0.0, self.fleet.until_s - now_s) if self.fleet.state == "open" else 0.0
        if self.breaker.state == "closed":
            return None
        name = "probing" if self.breaker.state == "ramping" else self.breaker.state
        return name, self.breaker.wait_s(now_s)


def asked(doors: Mapping[str, Door], worker: str, policy: BreakerPolicy, now_s: float) -> dict[str, Any]:
    """What doors.lua is told by this worker."""
    told = ((name, door.to_tell(now_s)) for name, door in list(doors.items()))
    return {
        "worker": worker,
        "volume": policy.volume,
        "ratio": policy.ratio,
        "window_ms": policy.window_s * 1000,
        "open_ms": policy.open_s * 1000,
        "longest_ms": policy.longest_open_s * 1000,
        "lease_ms": PROBE_LEASE_S * 1000,
        "step_ms": policy.step_s * 1000,
        "steps": STEPS,
        "idle_ms": IDLE_S * 1000,
        "seen": {name: one for name, one in told if one is not None},
    }
