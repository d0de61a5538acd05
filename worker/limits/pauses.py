"""The pauses of the fleet as this process knows them: a mirror of the rows, and what was seen here but is not in it.

Used by the loop's thread alone, except for `news`, which another thread takes away and writes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.failure import FailureKind
from worker.domain.pause import AS_FAILURE, Cause, Pause, PauseKind, Scope, cause_of, scopes_over
from worker.domain.route import Key, Target
from worker.domain.walk import Closed

PROBE_SOON_S: Final = 1.0  # when a probe is due and somebody must get the right to it
_TOLD_S: Final = 1.0  # a pause that a failure makes longer by less than this is not written again
# The model answered, though not well: the key is good and the account has money.
_SERVED: Final = frozenset(
    {
        FailureKind.REFUSAL,
        FailureKind.EMPTY_OUTPUT,
        FailureKind.BAD_OUTPUT,
        FailureKind.TRUNCATED,
        FailureKind.SCHEMA_MISMATCH,
    }
)


@dataclass(frozen=True, slots=True)
class Answered:
    """The probe of a pause was answered: it is over."""

    scope: Scope


@dataclass(frozen=True, slots=True)
class Due:
    """Somebody came by whose way is free but for the probe, which is due."""

    scope: Scope


@dataclass(frozen=True, slots=True)
class News:
    """What happened here, in order: `number` tells a mirror what it contains already."""

    number: int
    what: Cause | Answered | Due


@dataclass(slots=True)
class _Known:
    kind: PauseKind
    reason: str
    until_s: float
    number: int = 0  # of the news it made here


class Pauses:
    def __init__(self) -> None:
        self.news: deque[News] = deque()
        self.stir: Callable[[], None] = _nobody  # called when there is news that should not wait
        self._open: dict[Scope, _Known] = {}
        self._ended: dict[Scope, int] = {}  # here, and perhaps not yet on record
        self._granted: dict[Scope, float] = {}  # one call may go through, until then
        self._probing: set[Scope] = set()
        self._due: set[Scope] = set()
        self._number = 0

    # -- what the calls of this process see and tell ----------------------------------------------------------------

    def closing(self, target: Target, key: Key | None, now_s: float) -> tuple[Scope, float] | None:
        """The pause that closes this target with this key, and until when it does; None: none."""
        if not self._open:
            return None
        for scope in scopes_over(target, key):
            known = self._open.get(scope)
            if known is not None and self._granted.get(scope, 0.0) <= now_s:
                return scope, known.until_s
        return None

    def look(self, target: Target, key: Key | None, now_s: float) -> Closed | None:
        """Why this target must not be asked now with this key; None: no pause stands in the way."""
        found = self.closing(target, key, now_s)
        if found is None:
            return None
        scope, until_s = found
        if until_s <= now_s and scope not in self._due:
            self._due.add(scope)
            self._tell(Due(scope))
        known = self._open[scope]
        wait = PROBE_SOON_S if math.isinf(until_s) else max(PROBE_SOON_S, until_s - now_s)
        return Closed(AS_FAILURE[known.kind], wait, known.reason)

    def enter(self, target: Target, key: Key | None) -> None:
        """A call is about to be made: where it goes by a right to probe, that right is used up."""
        if self._granted:
            for scope in scopes_over(target, key):
                if self._granted.pop(scope, None) is not None:
                    self._probing.add(scope)

    def leave(self, target: Target, key: Key | None, outcome: Outcome | None, now_s: float) -> None:
        """The call is over; None: without a verdict. Only a probe ends a pause: older calls prove nothing."""
        if self._probing:
            served = isinstance(outcome, Answer) or (outcome is not None and outcome.kind in _SERVED)
            for scope in scopes_over(target, key):
                if scope in self._probing:
                    self._probing.discard(scope)
                    if served and self._open.pop(scope, None) is not None:
                        self._ended[scope] = self._tell(Answered(scope))
                        self.stir()
        if isinstance(outcome, Failure):
            cause = cause_of(target, key, outcome)
            if cause is not None:
                self._failed(cause, now_s)

    def _failed(self, cause: Cause, now_s: float) -> None:
        known = self._open.get(cause.scope)
        if known is None:
            self._ended.pop(cause.scope, None)
            until_s = now_s + cause.wait_s
        elif cause.floor_s is None or known.until_s + _TOLD_S >= now_s + cause.floor_s:
            return
        else:
            until_s = now_s + cause.floor_s
        self._open[cause.scope] = _Known(cause.kind, cause.reason, until_s, self._tell(cause))
        self.stir()

    def _tell(self, what: Cause | Answered | Due) -> int:
        self._number += 1
        self.news.append(News(self._number, what))
        return self._number

    # -- what comes from outside --------------------------------------------------------------------------------------

    def mirror(self, pauses: Iterable[Pause], number: int, now_s: float) -> None:
        """Take over what is on record, where the news up to `number` are in it."""
        self._ended = {scope: at for scope, at in self._ended.items() if at > number}
        found = {
            pause.scope: _Known(pause.kind, pause.reason, now_s + pause.wait_s)
            for pause in pauses
            if pause.over_s is None and pause.scope not in self._ended
        }
        found |= {scope: known for scope, known in self._open.items() if known.number > number}
        self._open = found
        self._granted = {scope: until for scope, until in self._granted.items() if scope in found and until > now_s}
        self._due.clear()

    def grant(self, scope: Scope, until_s: float) -> None:
        """This process, and no other, may let one call through to look; the next probe is at `until_s`."""
        known = self._open.get(scope)
        if known is not None:
            known.until_s = max(known.until_s, until_s)
            self._granted[scope] = until_s

    def may_probe(self, provider: str) -> bool:
        """Whether this process has a leave to look at something of this provider that no call has used. Any thread."""
        return any(scope.provider == provider for scope in tuple(self._granted))


def _nobody() -> None:
    return
