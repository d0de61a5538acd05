"""Which targets and keys may be called just now, and how many calls at once: the one face that the engine sees.

One gate per worker process, used by its loop's thread alone. Behind it: the doors of targets (breakers, places), the
lines of accounts (rates), both shared by the fleet where there is a Redis; the waits that providers asked for; and in
`pauses` what the whole fleet leaves alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker import clock, events
from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.breaker import BreakerPolicy
from worker.domain.failure import INTERACTIVE, FailureKind
from worker.domain.retry import LONGEST_WAIT_S
from worker.domain.route import Key, Target
from worker.domain.walk import Closed
from worker.limits.doors import Door, Forced, asked
from worker.limits.line import LINE_S, Line, Ticket
from worker.limits.pauses import Pauses
from worker.limits.scope import Rates, Scope, scope_key
from worker.limits.shared import PREFIX, Shared
from worker.limits.sizes import Size

__all__ = ["LINE_S", "Gate", "Rates", "Shared", "Size", "Ticket"]
_K = FailureKind
RATE_REST_S: Final = 1.0
TICK_S: Final = 0.25
SWEEP_S: Final = 5.0  # between two looks for what nobody uses any more
KNOCK_S: Final = 1.0  # between two looks whether Redis is back
COUNTERS_S: Final = 0.2  # the counters of a target's replies are read this often
_DOORS: Final = PREFIX + "{doors}"
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


@dataclass(slots=True)
class _Rest:
    until_s: float
    closed: Closed


class Gate:
    def __init__(
        self,
        rates: Mapping[str, Rates],
        sleepers: Iterable[str] = (),
        *,
        slots: int = 1000,
        shared: Shared | None = None,
        policy: BreakerPolicy | None = None,
    ) -> None:
        """`rates` by the name of a provider or of a target; `sleepers` are providers that scale to zero: one call wakes
        them, no more. `slots` are the places of the process. Without `shared` it lives on its own share.
        """
        self.pauses: Final = Pauses()
        self.live = 1  # worker processes that share a limit; set from the heartbeat
        self._rates = rates
        self._sleepers = frozenset(sleepers)
        self._slots = slots
        self._shared = shared
        self._policy = policy if policy is not None else BreakerPolicy()
        self._doors: dict[str, Door] = {}
        self._scopes: dict[str, Scope] = {}
        self._lines: dict[tuple[str, str], Line] = {}
        self._lines_of: dict[str, list[Line]] = {}
        self._counted_s: dict[str, float] = {}
        self._rests: dict[tuple[str, ...], _Rest] = {}
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        if shared is not None:
            shared.on_away = self._alone

    # -- the run's beginning and end ------------------------------------------------------------------------------

    async def start(self) -> None:
        """On the loop: begin to look after lines and doors."""
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._tend()))
        if self._shared is not None:
            await self._sync(self._shared)
            self._tasks.append(loop.create_task(self._keep_in_step(self._shared)))

    async def close(self) -> None:
        for line in self._lines.values():
            line.close()
        # Said again where it is not heard: the client of Redis waits with `wait_for`, which on Python 3.11 swallows a
        # cancel that comes with its result.
        open_tasks = set(self._tasks)
        while open_tasks:
            for task in open_tasks:
                task.cancel()
            _, open_tasks = await asyncio.wait(open_tasks, timeout=0.1)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._shared is not None:
            await self._shared.close()

    # -- before a call --------------------------------------------------------------------------------------------

    def look(
        self,
        target: Target,
        key: Key | None,
        now_s: float,
        *,
        urgent: bool = True,
        again: bool = False,
        waited: bool = False,
    ) -> Closed | None:
        """Why this target must not be asked now with this key; None: it may.

        urgent  somebody waits: the job would rather go elsewhere than wait long
        again   this target has failed the job before: asking once more must fit the budget for that
        waited  the job has been through the line: how long that is does not matter any more
        """
        paused = self.pauses.look(target, key, now_s)
        if paused is not None:
            return paused
        target_name = target.name
        line = self._lines.get((target_name, _account(key)))
        door = line.door if line is not None else self._doors.get(target_name)
        if door is not None:
            closed = door.closed(now_s)
            if closed is not None:
                if door.wanted:
                    self._hurry.set()
                return closed
            if again and not door.spares(now_s, again=True):
                wait = 6.0 * (1.0 + clock.draw())
                return Closed(_K.OVERLOADED, wait, f"{target.name} fails too often to be asked again at once")
        if self._rests:
            name = (target_name, key.name if key is not None else "")
            rest = self._rests.get(name)
            if rest is not None:
                if rest.until_s > now_s:
                    return Closed(rest.closed.kind, rest.until_s - now_s, rest.closed.reason)
                del self._rests[name]
        if line is not None and not waited and (wait := line.full(now_s, urgent=urgent)) > 0.0:
            return Closed(_K.RATE_LIMIT, wait, f"the limits of {target.provider} are used up")
        return None

    def join(self, target: Target, key: Key | None, size: Size, now_s: float, *, urgent: bool = True) -> Ticket:
        """Join the line of the target's account; `ticket.admitted` when there was none. Then `enter`, or `quit`."""
        line = self._lines.get((target.name, _account(key)))
        if line is None:
            line = self._line(target, key)
        line.door.used_s = now_s
        return line.join(size, now_s, urgent=urgent)

    def quit(self, ticket: Ticket) -> None:
        """The call is not made; nothing where it was."""
        if ticket.entered_s is None:
            ticket.line.leave(ticket)

    def enter(self, ticket: Ticket, target: Target, key: Key | None, now_s: float, *, again: bool = False) -> None:
        """A call that was let in is about to be made."""
        self.pauses.enter(target, key)
        door = ticket.line.door
        ticket.entered_s = now_s
        if ticket.line.sleeps and door.unsure(now_s):
            door.scout_s = now_s
        door.repeats.asked(now_s, again=again)
        ticket.epoch = door.enter(now_s)

    # -- after it -------------------------------------------------------------------------------------------------

    def leave(self, ticket: Ticket, target: Target, key: Key | None, outcome: Outcome | None, now_s: float) -> None:
        """The call is over; None: it was given up without a verdict (cancelled, drained)."""
        self.pauses.leave(target, key, outcome, now_s)
        line, door = ticket.line, ticket.line.door
        door.leave(ticket.epoch)
        door.scout_s = None
        door.used_s = now_s
        line.over(ticket, outcome)
        if isinstance(outcome, Answer):
            took_s = now_s - (ticket.entered_s if ticket.entered_s is not None else now_s)
            if line.sleeps:
                door.awake_s = now_s
            door.heard(now_s)
            door.answered(took_s)
            slow = door.slow_s is not None and took_s > door.slow_s
            self._record(door, ticket, now_s, good=not slow)
            if door.cold.state != "closed":
                door.cold.record(now_s, good=True)
        elif outcome is None:
            if door.forget(ticket.epoch):
                self._hurry.set()
            door.cold.forget_probe()
        else:
            self._failed(door, ticket, target, key, outcome, now_s)
        if door.waiting:
            for waiting in self._lines_of.get(target.name, ()):
                waiting.woken()

    def reads_counters(self, target: Target, now_s: float) -> bool:
        """Whether it is time to look at the counters in a reply's headers; each is as good as the next."""
        if now_s - self._counted_s.get(target.name, 0.0) < COUNTERS_S:
            return False
        self._counted_s[target.name] = now_s
        return True

    def counted(
        self, target: Target, key: Key | None, seen: Sequence[tuple[int | None, int, float]], now_s: float
    ) -> None:
        """Counters of a reply: (limit, remaining, seconds until its reset)."""
        line = self._lines.get((target.name, _account(key)))
        if line is None:
            return
        for limit, remaining, reset_s in seen:
            # Where a limit is configured, its owner knows better; that nothing is left is a fact all the same.
            if remaining <= 0 or not line.scopes:
                line.pace.counted(limit, remaining, reset_s, max(1, self.live), now_s)

    # -- an operator ----------------------------------------------------------------------------------------------

    def force(self, target_name: str, to: Forced | None) -> None:
        """`open`: no calls until it is lifted. `close`: forget what was held against the target, here and in the
        fleet, and go on as usual from there. None: lift what was said. Saying the same again changes nothing.
        """
        door = self._doors.get(target_name)
        if door is None:
            if to is None:
                return
            door = self._door(target_name)
        door.force(to)
        self._hurry.set()

    # -- what is kept ---------------------------------------------------------------------------------------------

    def sweep(self, now_s: float) -> None:
        """Forget what nobody uses: any model of a provider may be asked for, and each name leaves its traces."""
        for name, door in list(self._doors.items()):
            lines = self._lines_of.get(name, [])
            if not door.idle(now_s) or not all(line.idle(now_s) for line in lines):
                continue
            del self._doors[name]
            self._lines_of.pop(name, None)
            self._counted_s.pop(name, None)
        self._lines = {of: line for of, line in self._lines.items() if of[0] in self._lines_of}
        self._rests = {of: rest for of, rest in self._rests.items() if rest.until_s > now_s}

    # -- within ---------------------------------------------------------------------------------------------------

    def _line(self, target: Target, key: Key | None) -> Line:
        account = _account(key)
        scopes = [
            self._scopes.setdefault(name, Scope(name, self._rates[of]))
            for of, name in (
                (target.provider, scope_key(target.provider, account)),
                (target.name, scope_key(target.provider, account, target.model)),
            )
            if of in self._rates
        ]
        line = Line(scopes, self._door(target.name), self._shared, lambda: max(1, self.live))
        line.sleeps = target.provider in self._sleepers
        self._lines[target.name, account] = line
        self._lines_of.setdefault(target.name, []).append(line)
        return line

    def _door(self, target_name: str) -> Door:
        door = self._doors.get(target_name)
        if door is None:
            mine = (self._rates.get(name) for name in (target_name, target_name.partition("/")[0]))
            slow_s = next((r.slow_s for r in mine if r is not None and r.slow_s is not None), None)
            door = self._doors[target_name] = Door(target_name, self._slots, self._policy, slow_s)
        return door

    def _record(self, door: Door, ticket: Ticket, now_s: float, *, good: bool) -> None:
        if door.record(now_s, ticket.epoch, good=good):
            self._hurry.set()

    def _alone(self) -> None:
        now_s = clock.monotonic_s()
        for door in self._doors.values():
            door.alone()
        for line in self._lines.values():
            line.alone(now_s)

    async def _tend(self) -> None:
        swept_s = clock.monotonic_s()
        while True:
            now_s = clock.monotonic_s()
            if now_s - swept_s >= SWEEP_S:
                self.sweep(now_s)
                swept_s = now_s
            for name, lines in self._lines_of.items():
                door = self._doors[name]
                for line in lines:
                    line.tick(now_s)
                if not door.waiting:
                    continue
                shut = door.closed(now_s) is not None
                for line in lines:
                    if shut:
                        line.expel()
                    else:
                        line.woken()
            await asyncio.sleep(TICK_S)

    async def _keep_in_step(self, shared: Shared) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_S if shared.up else KNOCK_S):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            else:
                if not shared.up:
                    await asyncio.sleep(KNOCK_S)
            self._hurry.clear()
            try:
                await self._sync(shared)
            except Exception as exc:  # noqa: BLE001 - the next look is in a moment
                events.emit("limits.fault", level="error", **events.fault(exc))
            await asyncio.sleep(0.02)  # what comes together is told together

    async def _sync(self, shared: Shared) -> None:
        now_s = clock.monotonic_s()
        told = asked(self._doors, shared.worker(), self._policy, now_s)
        reply = await shared.knock("doors", [_DOORS], told)
        if reply is None:
            return
        now_s = clock.monotonic_s()
        seen = json.loads(reply)
        shut = [name for name, door in self._doors.items() if door.fleet is not None]
        for name in seen.keys() | shut:
            door = self._door(name)
            if not door.reset:
                door.adopt(seen.get(name), now_s)

    def _failed(
        self, door: Door, ticket: Ticket, target: Target, key: Key | None, failure: Failure, now_s: float
    ) -> None:
        kind = failure.kind
        if kind is not _K.TIMEOUT:
            door.heard(now_s)
        if kind is _K.LOADING:
            door.known = True
            door.cold.record(now_s, good=False)
        elif door.cold.state != "closed":
            door.cold.forget_probe()
        if INTERACTIVE[kind].breaker == "counts":
            self._record(door, ticket, now_s, good=False)
        elif kind in _ALIVE:
            self._record(door, ticket, now_s, good=True)
        elif door.forget(ticket.epoch):
            self._hurry.set()
        if kind in {_K.RATE_LIMIT, _K.OVERLOADED} and not ticket.line.scopes:
            ticket.line.pace.refused(now_s)
        if kind is _K.OVERLOADED and failure.wait_s is not None:
            door.rest(now_s + min(failure.wait_s, LONGEST_WAIT_S))
        if kind is _K.RATE_LIMIT:
            key_name = key.name if key is not None else ""
            wait = failure.wait_s if failure.wait_s is not None else RATE_REST_S
            self._rest((target.name, key_name), kind, wait, f"{target.name} asked to wait", now_s)

    def _rest(self, name: tuple[str, ...], kind: FailureKind, wait_s: float, reason: str, now_s: float) -> None:
        known = self._rests.get(name)
        if known is None or known.until_s < now_s + wait_s:  # a shorter wait, asked for by another call, ends none
            self._rests[name] = _Rest(now_s + wait_s, Closed(kind, wait_s, reason))

    def report(self, now_s: float) -> dict[str, Any]:
        """What is not open, for people: `{"targets": {name: {state, wait_s}}, "resting": [...], "limits": {...}}`.

        limits  shared: they are counted for the whole fleet; else each worker lives on its share, and `why` says why
        """
        targets = {}
        for name, door in list(self._doors.items()):
            if (told := door.report(now_s)) is not None:
                targets[name] = {"state": told[0], "wait_s": round(told[1], 1)}
        resting = [
            {"of": name[0], "kind": rest.closed.kind.value, "reason": rest.closed.reason, "wait_s": round(left, 1)}
            for name, rest in list(self._rests.items())
            if (left := rest.until_s - now_s) > 0
        ]
        up = self._shared is not None and self._shared.up
        why = "" if up else "no REDIS_URL is set" if self._shared is None else self._shared.why
        limits = {"shared": up, "workers": max(1, self.live), "why": why}
        return {"targets": targets, "resting": resting, "limits": limits}


def _account(key: Key | None) -> str:
    return key.account if key is not None else ""
