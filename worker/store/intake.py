"""Backpressure: a project whose queue is too deep or too old is asked to come later, before anything is stored.

It costs a post next to nothing: what waits is looked at once a second for each project and lane, by one of those who
ask, and what was let in since is added. So the bound is kept within a second's worth of jobs, not to the job.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from worker import clock
from worker.domain.failure import Lane
from worker.domain.intake import Backlog, Bounds, Full, judge
from worker.settings import Settings
from worker.store import backlog as stored
from worker.store.database import Database

FRESH_S: Final = 1.0
SHARE: Final = 20  # a look that took a second is good for twenty: a deep queue is never counted all the time
SLOW_S: Final = 0.05  # a look this long is no burden for somebody who waits for a 202
UNBOUND_TO: Final = 10_000  # where there is no bound, it is only counted to be shown
_MOST: Final = 10_000


class QueueFull(Exception):
    """Nothing was stored. `lane` of the project that is full, and why."""

    def __init__(self, lane: Lane, full: Full) -> None:
        super().__init__(full.why)
        self.lane = lane
        self.full = full


@dataclass(slots=True)
class _Seen:
    backlog: Backlog
    bounds: Bounds
    took_s: float
    until_s: float
    looking: threading.Lock = field(default_factory=threading.Lock)


class Intake:
    """One per process. Thread-safe; opens no connection before it is asked."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Of the settings: the bounds of projects that have none of their own; 0 stands for none."""
        self._database = database
        self._usual = {
            Lane.INTERACTIVE: Bounds(settings.queue_depth or None, settings.queue_age_s or None),
            Lane.BATCH: Bounds(settings.queue_depth or None, None),
        }
        self._lock = threading.Lock()
        self._cold = threading.Lock()  # of many that ask first, one looks
        self._seen: dict[tuple[str, Lane], _Seen] = {}

    def admit(self, project_id: str, new: Mapping[Lane, int]) -> None:
        """Count so many jobs in. Raises QueueFull for all of them, Unavailable."""
        found = {lane: self._of(project_id, lane) for lane in new}
        with self._lock:
            for lane, count in new.items():
                full = judge(found[lane].backlog, found[lane].bounds, count)
                if full is not None:
                    raise QueueFull(lane, full)
            for lane, count in new.items():
                seen = found[lane]
                seen.backlog = replace(seen.backlog, waiting=seen.backlog.waiting + count)

    def state(self, project_id: str) -> dict[Lane, tuple[Backlog, Bounds]]:
        """What waits and what may, as of about now."""
        return {lane: (seen.backlog, seen.bounds) for lane in Lane for seen in [self._of(project_id, lane)]}

    def _of(self, project_id: str, lane: Lane) -> _Seen:
        seen = self._seen.get((project_id, lane))
        if seen is None:
            with self._cold:
                return self._seen.get((project_id, lane)) or self._look(project_id, lane)
        if seen.until_s <= clock.monotonic_s() and seen.looking.acquire(blocking=False):
            if seen.took_s > SLOW_S and judge(seen.backlog, seen.bounds, 1) is None:
                threading.Thread(target=self._look_aside, args=(project_id, lane, seen), daemon=True).start()
                return seen
            try:
                return self._look(project_id, lane)
            finally:
                seen.looking.release()
        return seen

    def _look_aside(self, project_id: str, lane: Lane, seen: _Seen) -> None:
        try:
            self._look(project_id, lane)
        except Exception:  # noqa: BLE001 - the next who asks finds it still stale, and looks for himself
            seen.took_s = 0.0
        finally:
            seen.looking.release()

    def _look(self, project_id: str, lane: Lane) -> _Seen:
        before = clock.monotonic_s()
        usual = self._usual[lane]
        with self._database.read() as conn:
            own = stored.own_bounds(conn, project_id)
            bounds = _laid_over(usual, own, lane)
            count_to = UNBOUND_TO if bounds.depth is None else bounds.depth + bounds.depth // 10 + 1000
            backlog = stored.look(conn, project_id, lane, count_to)
            if judge(backlog, bounds, 1) is not None:
                backlog = replace(backlog, per_s=stored.ended_per_s(conn, project_id, lane))
        now = clock.monotonic_s()
        took_s = now - before
        with self._lock:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            made = _Seen(backlog, bounds, took_s, now + max(FRESH_S, SHARE * took_s))
            self._seen[project_id, lane] = made
        return made


def _laid_over(usual: Bounds, own: Bounds, lane: Lane) -> Bounds:
    """A project's own bound instead of the usual one; its 0 takes the bound away."""
    depth = usual.depth if own.depth is None else own.depth or None
    age_s = usual.age_s if own.age_s is None else own.age_s or None
    return Bounds(depth, age_s if lane is Lane.INTERACTIVE else None)
