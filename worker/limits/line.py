"""The line of calls that wait for the rates and places of an account.

A limit belongs to an account of a provider (its keys share it), and perhaps to one model of it. Calls join the line of
their target and account; grants come in blocks, from Redis for the whole fleet or from this process's own share.
What a call is reserved is an estimate; what it used is settled with the next block.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from worker import clock, events
from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.bucket import LATE_S
from worker.domain.failure import FailureKind
from worker.domain.pace import Pace
from worker.domain.retry import IN_PLACE_S
from worker.limits.doors import Door
from worker.limits.scope import BURST_S, LONGEST_GAP_S, Scope, Vector
from worker.limits.shared import Shared
from worker.limits.sizes import Size, Sizes

BLOCK: Final = 256  # calls that one exchange asks for
PLACES_LEASE_S: Final = 10.0
LINE_S: Final = 30.0  # a batch line that would wait longer is parked
SOONEST_S: Final = IN_PLACE_S + 1.0  # after this at the earliest: a shorter wait would keep its place
BOOKED_S: Final = 300.0  # and comes back after this at the latest
HAND_S: Final = 0.3  # grants that nobody took by then go back
AHEAD_S: Final = 0.15  # so many seconds' worth of grants are kept in hand where calls come steadily
GAP_S: Final = 0.04  # between two exchanges while a limit is used up: what comes together is granted together

_NOTHING: Final[Vector] = (0.0, 0.0, 0.0, 0.0)
_SCOUT: Final[Vector] = (1.0, 0.0, 0.0, 0.0)  # a call that finds out what calls take must not wait for a guess


@dataclass(slots=True, eq=False)
class Ticket:
    """A call on its way: it waits in the line until it is let in, then it is made, then it is over."""

    line: Line
    urgent: bool
    size: Size
    cost: Vector = _NOTHING  # of the moment when it was let in: while it waited there was more to learn
    coming: asyncio.Future[None] | None = None  # done when it was let in, or need not wait any more
    admitted: bool = False
    epoch: int = 0
    entered_s: float | None = None


class Line:
    """Calls of one target on one account. Used on the engine's loop only."""

    def __init__(self, scopes: list[Scope], door: Door, shared: Shared | None, live: Callable[[], int]) -> None:
        self.scopes = [scope for scope in scopes if scope.rates.any]
        self.door = door
        self.pace = Pace()
        self.sleeps = False  # its provider scales to zero
        self._shared = shared
        self._live = live
        self._hurried: deque[Ticket] = deque()
        self._others: deque[Ticket] = deque()
        self._wake = asyncio.Event()
        self._feeding: asyncio.Task[None] | None = None
        self._hand: deque[tuple[Vector, float]] = deque()
        self._places = any(scope.rates.concurrency is not None for scope in self.scopes)
        self._next_s = 0.0  # when the next grant is to be had, as far as is known
        self._booked_s = 0.0
        self._count = 0  # calls let in since the last look
        self._flow = 0.0  # the same per second, smoothed
        self._counted_s: float | None = None
        self._sizes = Sizes()
        self._scout: Ticket | None = None

    # -- before a call --------------------------------------------------------------------------------------------

    def full(self, now_s: float, *, urgent: bool) -> float:
        """Seconds to stay away because the line is too long; 0: join it. A batch line's time is booked with that."""
        if not self._others and not self._hurried and self._next_s <= now_s and self.pace.free(now_s):
            return 0.0
        rate = self._rate(now_s)
        held = self.pace.wait_s(now_s)
        if rate is None:  # nothing limits it, or nobody knows yet how much: who books on a guess comes back too late
            return held if held > (IN_PLACE_S if urgent else LINE_S) else 0.0
        ahead = len(self._hurried) + (0 if urgent else len(self._others))
        expected = max(held, min(60.0, self._next_s - now_s), 0.0) + ahead / rate
        if urgent:
            return expected if expected > IN_PLACE_S else 0.0
        # A line that is done before a parked job can be back is not full, however many wait in it. Where each worker
        # has a share of its own, another one may have room sooner.
        stays_s = LINE_S if self._sharing or self._live() == 1 else SOONEST_S
        if expected <= SOONEST_S or (expected <= stays_s and ahead < self.door.slots // 2):
            return 0.0
        # Early rather than late: a job that comes too soon is parked again, one that comes too late leaves a gap.
        first = now_s + max(expected, SOONEST_S)
        fleet = rate if self._sharing else rate * self._live()  # whoever finds it due then may have room
        self._booked_s = min(now_s + BOOKED_S, max(first, self._booked_s) + 1.0 / (1.2 * fleet))
        return (self._booked_s - now_s) * (0.9 + 0.2 * clock.draw())

    def join(self, size: Size, now_s: float, *, urgent: bool) -> Ticket:
        ticket = Ticket(self, urgent, size)
        if not self.scopes and not self._hurried and (urgent or not self._others):
            if self.door.room(now_s) > 0 and self.pace.wait_s(now_s) == 0.0:
                self._admit(ticket, now_s)
                return ticket
        elif not self._waits() and not self._sharing and self.door.room(now_s) > 0:
            self._price(ticket)
            if self._alone_s(ticket.cost, now_s) == 0.0:
                self._take_alone(ticket.cost, now_s)
                self._admit(ticket, now_s)
                return ticket
        elif self._hand and not self._waits() and self.door.room(now_s) > 0:
            granted, _ = self._hand.popleft()
            self._price(ticket)
            self._adjust(granted, ticket.cost)
            self._admit(ticket, now_s)
            self._top_up(now_s)
            return ticket
        ticket.coming = asyncio.get_running_loop().create_future()
        (self._hurried if urgent else self._others).append(ticket)
        self.door.waiting += 1
        self._feed_soon()
        return ticket

    # -- after it -------------------------------------------------------------------------------------------------

    def leave(self, ticket: Ticket) -> None:
        """It waits no longer, or was let in and is not made."""
        if ticket.admitted:
            self._back(ticket)
            self._give(ticket.cost)
            return
        queue = self._hurried if ticket.urgent else self._others
        if ticket in queue:
            queue.remove(ticket)
            self.door.waiting -= 1
        if ticket.coming is not None:
            ticket.coming.cancel()  # a grant that is on its way is not for it any more

    def over(self, ticket: Ticket, outcome: Outcome | None) -> None:
        """The call was made; None: nobody knows how it ended."""
        self._back(ticket)
        if not self.scopes:
            return
        _, reserved, reserved_in, reserved_out = ticket.cost
        usage = outcome.usage if outcome is not None else None
        used_in, used_out = (usage.input_tokens, usage.output_tokens) if usage is not None else (None, None)
        told = used_in is not None or used_out is not None
        if not told and isinstance(outcome, Failure) and outcome.kind is not FailureKind.TIMEOUT:
            self._give((0.0, reserved, reserved_in, reserved_out))  # it failed before a token was spent
            return
        usual_in, usual_out = self._sizes.usual(ticket.size)  # where a provider does not say
        real_in = usual_in if used_in is None else float(used_in)
        real_out = usual_out if used_out is None else float(used_out)
        self._give((0.0, reserved - real_in - real_out, reserved_in - real_in, reserved_out - real_out))
        if told or isinstance(outcome, Answer):
            self._sizes.learn(ticket.size.input_tokens, real_in, real_out)
            if self._sizes.answers == 1:
                self._wake.set()  # those that wait need less than was thought, or more

    def woken(self) -> None:
        """There may be room now."""
        if self._feeding is not None:
            self._wake.set()

    def expel(self) -> None:
        """The target is shut: those that wait look again, and go elsewhere."""
        for ticket in (*self._hurried, *self._others):
            if ticket.coming is not None and not ticket.coming.done():
                ticket.coming.set_result(None)

    def idle(self, now_s: float) -> bool:
        """Whether nothing waits in it, comes to it, or has been learnt that still holds."""
        busy = self._waits() or self._feeding is not None or self._hand or self._scout is not None
        return not busy and self.pace.limit(now_s) is None and self.pace.free(now_s)

    def tick(self, now_s: float) -> None:
        """Each quarter of a second: measure the flow, give back what nobody took, tell Redis what changed."""
        if not self.scopes:
            return
        if self._counted_s is not None:
            self._flow += 0.3 * (self._count / max(0.05, now_s - self._counted_s) - self._flow)
        self._count, self._counted_s = 0, now_s
        while self._hand and now_s - self._hand[0][1] > HAND_S:
            self._give(self._hand.popleft()[0])
        if self._shared is None or not self._shared.up or self._feeding is not None:
            return
        if any(
            any(scope.settle) or scope.held != scope.told or (scope.held and now_s - scope.refreshed_s > 2.0)
            for scope in self.scopes
        ):
            self._feed_soon()

    def alone(self, now_s: float) -> None:
        """Redis went away: the own share begins empty, and what was granted before is not counted on."""
        self._hand.clear()
        for scope in self.scopes:
            scope.live_on(self._live())
            scope.empty(now_s)
            scope.owe(scope.settle)
            scope.settle = [0.0] * 4
            scope.apart = True
        if self.scopes:
            self.expel()  # the line is too long for a share: others may have room in theirs

    # -- within ---------------------------------------------------------------------------------------------------

    @property
    def _sharing(self) -> bool:
        return self._shared is not None and self._shared.up

    def _waits(self) -> int:
        return len(self._hurried) + len(self._others)

    def _rate(self, now_s: float) -> float | None:
        """Calls a second that the limits let through at best; None: any number, as far as is known."""
        share = 1 if self._sharing else self._live()
        mean = self._sizes.mean
        found = []
        for scope in self.scopes:
            for rate, units in zip(scope.rates.per_minute, mean, strict=True):
                if rate is not None and units > 0.0:
                    found.append(rate / 60.0 / share / units)
            if scope.rates.concurrency is not None:
                took = self.door.latency_s if self.door.latency_s is not None else 1.0
                found.append(max(1, scope.rates.concurrency // share) / max(took, 0.01))
        paced = self.pace.limit(now_s)
        if paced is not None:
            found.append(paced)
        return min(found, default=None)

    def _price(self, *tickets: Ticket) -> None:
        scouts = self._sizes.answers == 0 and self._scout is None
        for ticket in tickets:
            ticket.cost = _SCOUT if scouts else self._sizes.cost(ticket.size)
            scouts = False

    def _admit(self, ticket: Ticket, now_s: float) -> None:
        ticket.admitted = True
        self._count += 1
        self.pace.sent(now_s)
        for scope in self.scopes:
            scope.held += 1
        if self._scout is None and self._sizes.answers == 0:
            self._scout = ticket
        if ticket.coming is not None and not ticket.coming.done():
            ticket.coming.set_result(None)

    def _back(self, ticket: Ticket) -> None:
        if self._scout is ticket:
            self._scout = None
        for scope in self.scopes:
            scope.held -= 1
        if self._places and self._waits():
            self._wake.set()

    def _give(self, units: Vector) -> None:
        for scope in self.scopes:
            scope.give(units, shared=self._sharing)

    def _adjust(self, granted: Vector, cost: Vector) -> None:
        r, t, i, o = (have - want for have, want in zip(granted, cost, strict=True))
        self._give((r, t, i, o))

    def _first(self, n: int) -> list[Ticket]:
        """The first of the line; those that have been told to look again are passed over."""
        return [t for t, _ in zip(self._in_order(), range(n), strict=False)]

    def _in_order(self) -> Iterator[Ticket]:
        for ticket in (*self._hurried, *self._others):
            if ticket.coming is not None and not ticket.coming.done():
                yield ticket

    def _wanted_in_hand(self) -> int:
        if not self._sharing or self._places or not self.scopes or self._sizes.answers == 0:
            return 0
        return min(BLOCK // 4, math.ceil(self._flow * AHEAD_S)) if self._flow > 2.0 else 0

    def _top_up(self, now_s: float) -> None:
        if len(self._hand) < self._wanted_in_hand() / 2 and now_s >= self._next_s:
            self._feed_soon()

    def _feed_soon(self) -> None:
        if self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed())

    def close(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()

    async def _feed(self) -> None:
        try:
            while True:
                self._wake.clear()
                wait_s = await self._serve()
                if not self._waits():
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
        except Exception as exc:  # noqa: BLE001 - those that wait look again within seconds, and it is tried anew
            events.emit("limits.fault", level="error", **events.fault(exc))
        finally:
            self._feeding = None

    async def _serve(self) -> float:
        """Let in whoever may go. Returns the seconds until it is worth trying again."""
        now_s = clock.monotonic_s()
        room = self.door.room(now_s)
        if not self.scopes:
            return self._serve_unlimited(now_s, room)
        n = int(min(BLOCK, self._waits(), max(0.0, room)))
        if self._sharing:
            return await self._serve_shared(n)
        return self._serve_alone(now_s, n)

    def _serve_unlimited(self, now_s: float, room: float) -> float:
        for ticket in list(self._in_order()):
            wait_s = self.pace.wait_s(now_s)
            if wait_s > 0.0 or room < 1:
                return min(LONGEST_GAP_S, wait_s) if wait_s > 0.0 else LONGEST_GAP_S
            self._let_in(ticket, now_s)
            room -= 1
        return LONGEST_GAP_S

    def _serve_alone(self, now_s: float, n: int) -> float:
        first = self._first(n)
        for ticket in first:
            self._price(ticket)
            wait_s = self._alone_s(ticket.cost, now_s)
            if wait_s > 0.0:
                return min(LONGEST_GAP_S, max(0.001, wait_s))
            self._take_alone(ticket.cost, now_s)
            self._let_in(ticket, now_s)
        more = n > 0 and len(first) == n and self.door.room(now_s) >= 1  # not those that are about to leave the line
        return 0.001 if more else LONGEST_GAP_S

    def _alone_s(self, cost: Vector, now_s: float) -> float:
        """Seconds until this process's own share lets such a call through."""
        share = self._live()
        wait_s = self.pace.wait_s(now_s)
        for scope in self.scopes:
            scope.live_on(share)
            wait_s = max(wait_s, scope.wait_s(now_s, cost, share))
        self._next_s = now_s + wait_s
        return wait_s

    def _take_alone(self, cost: Vector, now_s: float) -> None:
        for scope in self.scopes:
            scope.take(now_s, cost)

    async def _serve_shared(self, n: int) -> float:
        async with self.scopes[0].lock:
            now_s = clock.monotonic_s()
            waiting = self._first(n) if self.pace.wait_s(now_s) == 0.0 else []
            spare = max(0, self._wanted_in_hand() - len(self._hand)) if len(waiting) == self._waits() else 0
            self._price(*waiting)
            typical = self._sizes.mean
            reply = await self._exchange([ticket.cost for ticket in waiting] + [typical] * spare, now_s)
            if reply is None:
                return 0.001
            now_s = clock.monotonic_s()
            granted, wait_ms = reply
            self._let_in_first(granted, waiting, now_s)
            self._hand.extend((typical, now_s) for _ in range(granted - len(waiting)))
            self._next_s = now_s + wait_ms / 1000.0 if wait_ms else 0.0
        if wait_ms:
            return min(LONGEST_GAP_S, max(GAP_S, wait_ms / 1000.0)) * (0.8 + 0.4 * clock.draw())
        return GAP_S if self.door.room(now_s) >= 1 and self.pace.wait_s(now_s) == 0.0 else LONGEST_GAP_S

    async def _exchange(self, costs: list[Vector], now_s: float) -> tuple[int, int] | None:
        """Tell Redis what changed, and ask for calls of these costs: how many of them it grants, the first ones first,
        and the milliseconds until the next. None: it does not say.
        """
        assert self._shared is not None
        settled = [scope.settle for scope in self.scopes]
        told = {
            "worker": self._shared.worker(),
            "lease_ms": PLACES_LEASE_S * 1000,
            "burst_ms": BURST_S * 1000,
            "late_ms": LATE_S * 1000,
            "scopes": [scope.tell(now_s) for scope in self.scopes],
            "costs": costs,
        }
        reply = await self._shared.run("take", [scope.key for scope in self.scopes], told)
        if reply is None:
            for scope, units in zip(self.scopes, settled, strict=True):
                scope.owe(units)
            return None
        granted, wait_ms = int(reply[0]), int(reply[1])
        for scope in self.scopes:
            scope.told += granted
        return granted, wait_ms

    def _let_in_first(self, granted: int, waiting: list[Ticket], now_s: float) -> None:
        for ticket in waiting[:granted]:
            if ticket.coming is None or ticket.coming.done():
                self._give(ticket.cost)  # it left meanwhile
            else:
                self._let_in(ticket, now_s)

    def _let_in(self, ticket: Ticket, now_s: float) -> None:
        queue = self._hurried if ticket.urgent else self._others
        if queue and queue[0] is ticket:
            queue.popleft()
        else:
            queue.remove(ticket)
        self.door.waiting -= 1
        self._admit(ticket, now_s)
