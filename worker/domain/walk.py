"""One job's way over its route: which call comes next, decided from what has happened so far and nothing else.

A Walk is fed failures and asked for the next step. It is rebuilt from the attempt rows after a crash or a park, so the
caps hold across processes: `Walk(...)`, then `failed()` for each recorded failure in order, then `next()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from worker.domain.answer import MESSAGE_CUT, Failure
from worker.domain.failure import Aside, FailureKind, Lane, Pause, Rule, Then, rule_for
from worker.domain.retry import IN_PLACE_S, LONGEST_WAIT_S, wait_s
from worker.domain.route import Key, Needs, Route, Target, unfit

COLD_POLL_S = 10.0  # between two looks at a sleeping endpoint that named no wait
REFUSED = 400  # the lowest status of a reply that is no answer
QUOTA_POLL_S = 60.0  # between two looks at an account without money, or at a pool of refused keys


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a target (or a key of it) is not asked now: `kind` as if a call had failed so; `wait_s` until it may be."""

    kind: FailureKind
    wait_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Call this target with this key after `wait_s`. `repair`: a turn to mend an answer of the wrong shape."""

    target: Target
    key: Key | None
    wait_s: float = 0.0
    repair: bool = False


@dataclass(frozen=True, slots=True)
class Park:
    """Give the place back and come again in `wait_s`."""

    wait_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The job has failed: nothing is left to try, or nobody would answer better."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Skip:
    """A target that was passed over without a call."""

    target: Target
    reason: str
    kind: FailureKind | None = None


Step = Ask | Park | Stop
Gate = Callable[[Target, Key | None], Closed | None]


def always_open(_target: Target, _key: Key | None) -> Closed | None:
    return None


@dataclass(slots=True)
class Walk:
    route: Route
    lane: Lane
    needs: Needs
    max_attempts: int
    calls: int = 0  # that used up an attempt
    passes: int = 0
    last: Failure | None = None
    last_provider: str | None = None  # whose failure that was
    hedged: bool = False  # a second target was asked beside an open call: once for a job
    skips: list[Skip] = field(default_factory=list)  # new ones; the caller records and clears them
    _again: Ask | None = None
    _stop: Stop | None = None
    _tries: dict[int, int] = field(default_factory=dict)  # retries used on a target in this pass
    _aside: dict[int, float] = field(default_factory=dict)  # target -> seconds until it is worth a look again
    _gone: set[int] = field(default_factory=set)  # for the whole job
    _bad_keys: set[tuple[str, str]] = field(default_factory=set)
    _resting: dict[tuple[str, str], FailureKind] = field(default_factory=dict)  # keys to leave, and why, for this pass
    _spent_here: set[tuple[int, str]] = field(default_factory=set)  # target, account without quota for it in this pass
    _busy: dict[tuple[int, str], float] = field(default_factory=dict)  # target, account -> until when it is to be left
    _at_s: float = 0.0  # of the last news, on the clock of `failed`
    _poor: set[int] = field(default_factory=set)  # targets set aside because no key of theirs was of use
    _cold_since: dict[int, float] = field(default_factory=dict)
    _asked: set[int] = field(default_factory=set)
    _failing: set[int] = field(default_factory=set)  # targets whose own failure was the last thing heard of them
    _told: set[tuple[str, FailureKind | None]] = field(default_factory=set)  # skips already on record
    _waited: bool = False  # made anew from its rows: the waits that these tell of are over

    # -- what happened ------------------------------------------------------------------------------------------

    def failed(self, target: str, key: str | None, failure: Failure, *, at_s: float, draw: float) -> None:
        """Take note of one failed call. `at_s` is any steady clock in seconds; `draw` in [0, 1) is for jitter."""
        self.last, self.last_provider = failure, target.partition("/")[0]
        self._again = None
        self._at_s = at_s
        index = self._index(target)
        rule = self._rule(failure)
        if not rule.free:
            self.calls += 1
        if index is None:  # the route has changed since; the call still counts
            return
        self._asked.add(index)
        (self._failing.add if rule.breaker == "counts" else self._failing.discard)(index)
        if index in self._aside:  # asked again although set aside: a new pass had begun
            self._next_pass()
        if rule.then is Then.END:
            self._stop = Stop(failure)
            return
        wait = self._pause_s(rule, index, failure, at_s, draw)
        if wait is None:
            self._gone.add(index)
            return
        if rule.spread and (account := self._account(index, key)) is not None:
            once_more = (index, account) in self._busy
            self._busy[index, account] = at_s + wait
            if not once_more and self._others(index) and self._affords(rule):
                return  # `next` asks one of them at once
            key, wait = self._soonest(index, key)
        tries = self._tries.get(index, 0)
        named = rule.pause is Pause.HINT or (rule.pause is Pause.BACKOFF and failure.wait_s is not None)
        patient = not rule.in_place or not named or wait <= self.route.max_wait_s
        if tries < rule.retries and patient and self._affords(rule):
            self._tries[index] = tries + 1
            chosen = self.route.targets[index]
            same_key = next((k for k in chosen.keys if k.name == key), None)
            self._again = Ask(chosen, same_key, wait, repair=failure.kind is FailureKind.SCHEMA_MISMATCH)
            return
        if rule.then is Then.FAIL:
            self._stop = Stop(failure)
            return
        self._leave(rule, index, key, wait)

    def again(self, ask: Ask) -> None:
        """A call that was due could not be made yet: it is due at once, if its door is open."""
        self._again = Ask(ask.target, ask.key, 0.0, ask.repair)

    def repeats(self, target: Target) -> bool:
        """Whether a call of this target would come after a failure of its provider: more load for what fails."""
        return bool(self._failing) and self._index(target.name) in self._failing

    def unfit(self, target: str, reason: str) -> None:
        """The wire form of this target has no way to say what is asked: it is passed over for good."""
        index = self._index(target)
        assert index is not None
        self._again = None
        self._gone.add(index)
        self._skip(self.route.targets[index], reason, None)

    def skipped(self, target: str, kind: FailureKind | None) -> None:
        """A skip that is already on record is not recorded again."""
        self._told.add((target, kind))

    def resumed(self, *, rebuilt: bool = False) -> None:
        """The job comes back from a park: the wait it was parked for is over.

        `rebuilt`: this walk knows its rows alone. They do not tell of a target that could not be asked for a while (a
        closed door, no key left), so a pass that was over may look as if it was not.
        """
        self._waited = rebuilt
        self._at_s = min((until for until in self._busy.values() if until > self._at_s), default=self._at_s)
        if rebuilt:
            told = {name for name, _ in self._told}
            unfits = (
                i for i, t in enumerate(self.route.targets) if t.name in told and unfit(t, self.needs) is not None
            )
            self._gone.update(unfits)
        if self._again is not None:
            self._again = Ask(self._again.target, self._again.key, 0.0, self._again.repair)
        if all(i in self._aside or i in self._gone for i in range(len(self.route.targets))):
            self._next_pass()  # it was parked because a pass was over
        self._resting.clear()  # meanwhile the money may be back; who looks after the keys knows better than we did
        self._spent_here.clear()
        for index in self._poor:
            self._aside.pop(index, None)
        self._poor.clear()

    def doors(self) -> Iterator[tuple[Target, Key | None]]:
        """Every target, with each of its keys, that this job may still ask some day."""
        for index, target in enumerate(self.route.targets):
            if index not in self._gone:
                keys = [key for key in target.keys if (target.provider, key.name) not in self._bad_keys]
                for key in keys if target.keys else [None]:
                    yield target, key

    # -- what comes next ----------------------------------------------------------------------------------------

    def next(self, gate: Gate = always_open, draw: float = 0.0) -> Step:
        """The next step; `gate` says which targets and keys are closed just now (breaker, pause, limit)."""
        waited, self._waited = self._waited, False
        if self._stop is not None:
            return self._stop
        if self.calls >= self.max_attempts:
            return self._give_up(spent=True)
        if self._again is not None:
            again, self._again = self._again, None
            step = self._enter(again, gate)
            if step is not None:
                return step
        for _ in range(3):
            for index, target in enumerate(self.route.targets):
                if index in self._gone or index in self._aside:
                    continue
                why = unfit(target, self.needs)
                if why is not None:
                    self._gone.add(index)
                    kind = FailureKind.CONTEXT_LENGTH if "window" in why else None
                    self._skip(target, why, kind)
                    continue
                step = self._choose(index, gate)
                if step is not None:
                    return step
            if not self._aside:
                return self._give_up()
            if waited:
                waited = False
                self._next_pass()
                continue
            wait = min(self._aside.values())
            if wait == 0.0:
                wait = self.route.backoff.delay_s(self.passes + 1, draw)
            self._next_pass()
            if wait > 0.0:
                return Park(wait, self._why())
        return Park(IN_PLACE_S, self._why())

    @property
    def hedges(self) -> bool:
        """Whether a call of this job that is slow may be joined by one of another target."""
        route = self.route
        slow = route.hedge_after_s is not None and not self.hedged and self.lane is Lane.INTERACTIVE
        return slow and len(route.targets) > 1

    def hedge(self, beside: Target, gate: Gate = always_open) -> Ask | None:
        """Whom to ask while a call of `beside` is open: the first other target that could be asked now, if any.

        Changes nothing. Whoever makes the call sets `hedged`.
        """
        if not self.hedges or self.calls + 2 > self.max_attempts:
            return None
        for index, target in enumerate(self.route.targets):
            if target.name == beside.name or index in self._gone or index in self._aside or unfit(target, self.needs):
                continue
            keys = [key for key in self._usable(index) if self._rests(index, key) is None]
            for key in keys if target.keys else [None]:
                if gate(target, key) is None:
                    return Ask(target, key)
        return None

    def _choose(self, index: int, gate: Gate) -> Step | None:
        """Ask this target with the first key that is open, or wait for it, or set it aside (None)."""
        target = self.route.targets[index]
        if not target.keys:
            return self._enter(Ask(target, None), gate)
        found = self._open(index, gate)
        if isinstance(found, Key):
            return Ask(target, found)
        if found is None:
            resting = [self._resting.get((target.provider, key.name)) for key in target.keys]
            kind = next((why for why in resting if why is not None), None)
            if kind is None and any((index, key.account) in self._spent_here for key in target.keys):
                kind = FailureKind.QUOTA
            if index not in self._asked:
                why = kind if kind is not None else FailureKind.AUTH
                self._skip(target, f"no key of {target.provider} is left to try", why)
            if kind is not None:
                self._aside[index] = QUOTA_POLL_S
                self._poor.add(index)
            else:
                self._gone.add(index)
            return None
        return self._closed(index, Ask(target, None), found)

    def _open(self, index: int, gate: Gate) -> Key | Closed | None:
        """The first key of the pool that is open, else why the one that opens first may not; None: none is left."""
        closed: Closed | None = None
        for key in self._usable(index):
            found = self._rests(index, key) or gate(self.route.targets[index], key)
            if found is None:
                return key
            if closed is None or found.wait_s < closed.wait_s:
                closed = found
        return closed

    def _enter(self, ask: Ask, gate: Gate) -> Step | None:
        closed = gate(ask.target, ask.key)
        if closed is None or 0.0 < closed.wait_s <= ask.wait_s:  # it opens meanwhile, and is looked at again then
            return self._wait(ask.wait_s, ask)
        index = self._index(ask.target.name)
        assert index is not None
        other = self._open(index, gate)
        if isinstance(other, Key):
            return self._wait(ask.wait_s, replace(ask, key=other))
        return self._closed(index, ask, closed)

    def _closed(self, index: int, ask: Ask, closed: Closed) -> Step | None:
        rule = rule_for(closed.kind, self.lane, self.route.on)
        wait = max(closed.wait_s, ask.wait_s)
        if rule.pause in {Pause.HINT, Pause.COLD_START} and not rule.in_place:
            return Park(wait, closed.reason)
        if rule.pause is Pause.HINT and wait <= min(self.route.max_wait_s, IN_PLACE_S):
            return Park(wait, closed.reason)
        self._skip(ask.target, closed.reason, closed.kind)
        if rule.lasting:
            self._gone.add(index)
        else:
            self._aside[index] = wait
        return None

    def _wait(self, wait: float, ask: Ask | None = None) -> Step:
        """Short waits before a known call are the engine's; all others give the place back."""
        if ask is not None and wait <= IN_PLACE_S:
            return ask
        if ask is not None:
            self._again = Ask(ask.target, ask.key, 0.0, ask.repair)
        return Park(wait, self._why())

    # -- bookkeeping --------------------------------------------------------------------------------------------

    def _rule(self, failure: Failure) -> Rule:
        """What follows this failure, where it says more than its kind."""
        rule = rule_for(failure.kind, self.lane, self.route.on)
        if failure.unfit and failure.kind not in self.route.on:
            return replace(rule, then=Then.NEXT)
        if failure.final and rule.then is Then.NEXT:
            return replace(rule, retries=0, lasting=True)
        if failure.kind is FailureKind.TIMEOUT and failure.http_status is not None and failure.http_status >= REFUSED:
            # It answered that it ran out of time: it is not silent.
            return replace(rule, pause=Pause.BACKOFF, lasting=False)
        return rule

    def _pause_s(self, rule: Rule, index: int, failure: Failure, at_s: float, draw: float) -> float | None:
        """Seconds until the target may be asked again; None: its cold-start budget is used up."""
        if rule.pause is Pause.COLD_START:
            since = self._cold_since.setdefault(index, at_s)
            if at_s - since >= self.route.cold_start_s:
                return None
            return _asked_for(failure, COLD_POLL_S)
        if rule.aside is Aside.ACCOUNT:
            return _asked_for(failure, QUOTA_POLL_S)
        if rule.pause is Pause.NONE:
            return 0.0
        hint = failure.wait_s
        return wait_s(self.route.backoff, self._tries.get(index, 0) + self.passes, draw, hint)

    def _affords(self, rule: Rule) -> bool:
        """Whether a target may be asked once more: each that was not asked yet has an attempt reserved."""
        return rule.free or self.max_attempts - self.calls > len(self._unasked())

    def _unasked(self) -> list[str]:
        """The targets of this pass that no call has reached."""
        passed = self._asked | self._gone | self._aside.keys()
        return [t.name for i, t in enumerate(self.route.targets) if i not in passed and unfit(t, self.needs) is None]

    def _account(self, index: int, key: str | None) -> str | None:
        return next((k.account for k in self.route.targets[index].keys if k.name == key), None)

    def _usable(self, index: int) -> list[Key]:
        """The keys of the pool that are neither refused nor without quota."""
        target, closed = self.route.targets[index], self._bad_keys | self._resting.keys()
        keys = [key for key in target.keys if (target.provider, key.name) not in closed]
        return keys if not self._spent_here else [key for key in keys if (index, key.account) not in self._spent_here]

    def _others(self, index: int) -> bool:
        """Whether an account of the pool is left that has not asked to wait."""
        return any((index, key.account) not in self._busy for key in self._usable(index))

    def _soonest(self, index: int, key: str | None) -> tuple[str | None, float]:
        """Where all accounts asked to wait: the key to be asked first, `key` where two may be, and in how many s."""
        waits = {k.name: self._busy[index, k.account] for k in self._usable(index) if (index, k.account) in self._busy}
        name = min(waits, key=lambda name: (waits[name], name != key), default=key)
        return name, max(0.0, waits[name] - self._at_s) if name in waits else 0.0

    def _rests(self, index: int, key: Key) -> Closed | None:
        """Its account has asked this job to wait, and the wait is not over."""
        wait = self._busy.get((index, key.account), 0.0) - self._at_s
        return Closed(FailureKind.RATE_LIMIT, wait, self._why()) if wait > 0.0 else None

    def _leave(self, rule: Rule, index: int, key: str | None, wait: float) -> None:
        target = self.route.targets[index]
        if rule.aside is Aside.KEY and target.keys:
            if key is not None and rule.lasting:
                self._bad_keys.add((target.provider, key))
            elif key is not None and self.last is not None:
                self._resting[target.provider, key] = self.last.kind
            return  # the target is gone, or set aside, when `next` finds no key left
        leaving = [index]
        if rule.aside is Aside.ACCOUNT and target.keys:
            account = self._account(index, key)
            if account is not None and self.last is not None and self.last.of_model:
                self._spent_here.add((index, account))
                return  # as above
            spent = (k.name for k in target.keys if k.account == account)
            self._resting.update(((target.provider, name), FailureKind.QUOTA) for name in spent)
            leaving = [i for i, t in enumerate(self.route.targets) if t.provider == target.provider and self._spent(t)]
        elif rule.aside is Aside.NARROWER:
            leaving = [i for i, t in enumerate(self.route.targets) if not _wider(t, target) or i == index]
        if rule.aside is Aside.ACCOUNT:
            self._poor.update(leaving)
        for i in leaving:
            if rule.lasting or rule.aside is Aside.KEY:  # no key that could be mended
                self._gone.add(i)
            elif i not in self._gone:
                self._aside[i] = wait

    def _spent(self, target: Target) -> bool:
        """Whether every key of the pool is refused or without quota."""
        keys = ((target.provider, k.name) for k in target.keys)
        return all(key in self._bad_keys or key in self._resting for key in keys)

    def _next_pass(self) -> None:
        self.passes += 1
        self._resting.clear()  # the money may be back
        self._spent_here.clear()
        self._aside.clear()
        self._busy.clear()
        self._tries.clear()

    def _index(self, name: str) -> int | None:
        return next((i for i, t in enumerate(self.route.targets) if t.name == name), None)

    def _why(self) -> str:
        return self.last.message if self.last is not None else "every target is closed just now"

    def _skip(self, target: Target, reason: str, kind: FailureKind | None) -> None:
        if (target.name, kind) not in self._told:
            self._told.add((target.name, kind))
            self.skips.append(Skip(target, reason, kind))

    def _give_up(self, *, spent: bool = False) -> Stop:
        unasked = self._unasked() if spent else []
        if self.last is not None and unasked:
            why = f"max_attempts ({self.max_attempts}) are used up, and {', '.join(unasked)} was not asked"
            return Stop(replace(self.last, message=f"{why}: {self.last.message}"[:MESSAGE_CUT]))
        if self.last is not None:
            return Stop(self.last)
        kinds = {kind for _, kind in self._told}
        only = kinds.pop() if len(kinds) == 1 else None
        kind = only if only is not None else FailureKind.NO_TARGET
        reasons = "; ".join(skip.reason for skip in self.skips) or f"route {self.route.name} has no target left"
        return Stop(Failure(kind, reasons[:500]))


def _asked_for(failure: Failure, default_s: float) -> float:
    return min(failure.wait_s, LONGEST_WAIT_S) if failure.wait_s is not None else default_s


def _wider(target: Target, than: Target) -> bool:
    """Whether a window is known to be larger; where the failed one is unknown, any known or unknown one may be."""
    if than.window is None:
        return True
    return target.window is not None and target.window > than.window
