"""Which targets and keys may be called just now, as this process has seen them.

One gate per worker process, used by its loop thread alone. What it knows: circuit breakers, sleeping endpoints, waits
that providers asked for, the rates of the configuration, and in `pauses` what the whole fleet leaves alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.breaker import Breaker, BreakerPolicy
from worker.domain.bucket import Bucket
from worker.domain.failure import INTERACTIVE, FailureKind
from worker.domain.route import Key, Target
from worker.domain.walk import COLD_POLL_S, Closed
from worker.limits.pauses import Pauses

_K = FailureKind
RATE_REST_S: Final = 1.0
AWAKE_S: Final = 60.0  # who answered this long ago may have fallen asleep since: endpoints scale to zero
FORCED_S: Final = 60.0  # between two looks at a door that a person keeps closed
SCOUT_S: Final = 120.0  # a scout that has not come back by then is forgotten
LOOK_S: Final = 0.5  # between two looks whether the scout is back
_COLD: Final = BreakerPolicy(volume=1, ratio=0.0, open_s=COLD_POLL_S, longest_open_s=COLD_POLL_S)
# Failures that show the provider alive and well.
_ALIVE: Final = frozenset(
    {
        _K.AUTH,
        _K.PERMISSION,
        _K.MODEL_NOT_FOUND,
        _K.GONE,
        _K.CONTEXT_LENGTH,
        _K.CONTENT_FILTER,
        _K.REFUSAL,
        _K.BAD_REQUEST,
        _K.SCHEMA_MISMATCH,
    }
)


@dataclass(frozen=True, slots=True)
class Rates:
    """Configured limits of one provider; None: none. Per minute, and calls at once."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


@dataclass(slots=True)
class _Door:
    """What is known of one target."""

    breaker: Breaker = field(default_factory=Breaker)
    cold: Breaker = field(default_factory=lambda: Breaker(_COLD))
    awake_s: float | None = None  # when it last answered; kept only for those that can fall asleep
    scout_s: float | None = None  # since when one call is out to see whether it is awake

    def unsure(self, now_s: float) -> bool:
        return self.awake_s is None or now_s - self.awake_s > AWAKE_S

    def scouted(self, now_s: float) -> bool:
        return self.scout_s is not None and now_s - self.scout_s < SCOUT_S


@dataclass(slots=True)
class _Rest:
    until_s: float
    closed: Closed


class Gate:
    def __init__(self, rates: Mapping[str, Rates], sleepers: Iterable[str] = ()) -> None:
        """`rates` by provider name; `sleepers` are providers that scale to zero: one call wakes them, no more."""
        self.pauses: Final = Pauses()
        self._sleepers = frozenset(sleepers)
        self._doors: dict[str, _Door] = {}
        self._forced: set[str] = set()  # closed by a person
        self._rests: dict[tuple[str, ...], _Rest] = {}
        self._requests = {name: Bucket(r.rpm) for name, r in rates.items() if r.rpm is not None}
        self._tokens = {name: Bucket(r.tpm) for name, r in rates.items() if r.tpm is not None}
        self._places = {
            name: asyncio.Semaphore(r.concurrency) for name, r in rates.items() if r.concurrency is not None
        }

    def look(self, target: Target, key: Key | None, now_s: float) -> Closed | None:
        """Why this target must not be asked now with this key; None: it may. Changes nothing."""
        paused = self.pauses.look(target, key, now_s)
        if paused is not None:
            return paused
        if target.name in self._forced:
            return Closed(_K.OVERLOADED, FORCED_S, f"{target.name} was closed by an operator")
        door = self._doors.get(target.name)
        if door is not None:
            if door.breaker.state != "closed" and (wait := door.breaker.wait_s(now_s)) > 0.0:
                return Closed(_K.OVERLOADED, wait, f"{target.name} has been failing; its circuit breaker is open")
            if door.cold.state != "closed" and (wait := door.cold.wait_s(now_s)) > 0.0:
                return Closed(_K.LOADING, wait, f"{target.name} is starting")
            if door.scouted(now_s) and door.unsure(now_s):
                return Closed(_K.RATE_LIMIT, LOOK_S, f"one call is out to see whether {target.name} is awake")
        if self._rests:
            name = (target.name, key.name if key is not None else "")
            rest = self._rests.get(name)
            if rest is not None:
                if rest.until_s > now_s:
                    return Closed(rest.closed.kind, rest.until_s - now_s, rest.closed.reason)
                del self._rests[name]
        for buckets, unit in ((self._requests, "requests"), (self._tokens, "tokens")):
            bucket = buckets.get(target.provider)
            if bucket is not None and (wait := bucket.wait_s(now_s)) > 0.0:
                return Closed(_K.RATE_LIMIT, wait, f"the configured {unit} per minute of {target.provider} are used up")
        return None

    def place(self, target: Target) -> asyncio.Semaphore | None:
        """The places of this target's provider, where their number is limited."""
        return self._places.get(target.provider)

    def force(self, target: str, to: Literal["open", "close"] | None) -> None:
        """What a person wants of a target's circuit breaker: `open`, no call until told otherwise; `close`, calls as if
        nothing had ever failed; None, as it goes by itself.
        """
        if to == "open":
            self._forced.add(target)
        else:
            self._forced.discard(target)
        if to == "close":
            self._doors.pop(target, None)

    def enter(self, target: Target, tokens: int, now_s: float, key: Key | None = None) -> None:
        """A call is about to be made; `tokens` is the estimate to reserve."""
        self.pauses.enter(target, key)
        door = self._doors.get(target.name)
        if target.provider in self._sleepers:
            door = self._doors.setdefault(target.name, _Door()) if door is None else door
            if door.unsure(now_s):
                door.scout_s = now_s
        if door is not None:
            door.breaker.enter(now_s)
            door.cold.enter(now_s)
        if target.provider in self._requests:
            self._requests[target.provider].take(now_s, 1)
        if target.provider in self._tokens:
            self._tokens[target.provider].take(now_s, tokens)

    def leave(self, target: Target, key: Key | None, outcome: Outcome | None, tokens: int, now_s: float) -> None:
        """The call is over; None: it was given up without a verdict (cancelled, drained)."""
        self.pauses.leave(target, key, outcome, now_s)
        door = self._doors.get(target.name)
        if target.provider in self._tokens and outcome is not None:
            used = (outcome.usage.input_tokens or 0) + (outcome.usage.output_tokens or 0)
            self._tokens[target.provider].give(tokens - used)
        if door is not None and door.scout_s is not None:
            door.scout_s = None
        if isinstance(outcome, Answer):
            if door is not None:
                if target.provider in self._sleepers:
                    door.awake_s = now_s
                door.breaker.record(now_s, good=True)
                if door.cold.state != "closed":
                    door.cold.record(now_s, good=True)
            return
        if door is None:
            door = self._doors.setdefault(target.name, _Door())
        if outcome is None:
            door.breaker.forget_probe()
            door.cold.forget_probe()
            return
        self._failed(door, target, key, outcome, now_s)

    def _failed(self, door: _Door, target: Target, key: Key | None, failure: Failure, now_s: float) -> None:
        kind = failure.kind
        if kind is _K.LOADING:
            door.cold.record(now_s, good=False)
        elif door.cold.state != "closed":
            door.cold.forget_probe()
        if INTERACTIVE[kind].breaker == "counts":
            door.breaker.record(now_s, good=False)
        elif kind in _ALIVE:
            door.breaker.record(now_s, good=True)
        else:
            door.breaker.forget_probe()
        if kind is _K.RATE_LIMIT:
            key_name = key.name if key is not None else ""
            wait = failure.wait_s if failure.wait_s is not None else RATE_REST_S
            self._rest((target.name, key_name), kind, wait, f"{target.name} asked to wait", now_s)

    def _rest(self, name: tuple[str, ...], kind: FailureKind, wait_s: float, reason: str, now_s: float) -> None:
        known = self._rests.get(name)
        if known is None or known.until_s < now_s + wait_s:  # a shorter wait, asked for by another call, ends none
            self._rests[name] = _Rest(now_s + wait_s, Closed(kind, wait_s, reason))

    def report(self, now_s: float) -> dict[str, Any]:
        """What is not open, for people: `{"targets": {name: {state, wait_s, reason}}, "resting": [...]}`."""
        targets = {}
        for name, door in self._doors.items():
            state = "loading" if door.cold.state != "closed" else door.breaker.state
            if state != "closed":
                wait = max(door.breaker.wait_s(now_s), door.cold.wait_s(now_s))
                targets[name] = {"state": state, "wait_s": round(wait, 1)}
        resting = [
            {"of": name[0], "kind": rest.closed.kind.value, "reason": rest.closed.reason, "wait_s": round(left, 1)}
            for name, rest in self._rests.items()
            if (left := rest.until_s - now_s) > 0
        ]
        return {"targets": targets, "resting": resting}
