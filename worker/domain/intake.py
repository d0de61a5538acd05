"""May a project hand in more jobs? Decided from how many wait and how long the first has waited. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

SOONEST_S: Final = 1
LATEST_S: Final = 60
UNKNOWN_S: Final = 10  # nothing ended lately: nobody knows when there will be room


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a lane of a project may come to; None: no bound.

    depth   jobs that wait
    age_s   seconds for which the first due job has waited for a place
    """

    depth: int | None
    age_s: float | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a lane of a project came to when it was looked at.

    waiting     jobs in status `queued`, parked ones too; counted no further than a little past the bound
    oldest_s    seconds since the first of them was due; 0: none is
    per_s       jobs that ended in a second lately; None: nobody asked
    """

    waiting: int
    oldest_s: float
    per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Full:
    """Why new jobs are refused. `after_s`: when there should be room."""

    why: str
    after_s: int


def judge(backlog: Backlog, bounds: Bounds, new: int) -> Full | None:
    """None: `new` more jobs may come in, all of them."""
    if bounds.depth is not None and backlog.waiting + new > bounds.depth:
        over = backlog.waiting + new - bounds.depth
        why = f"{backlog.waiting:,} jobs wait already, and {bounds.depth:,} may"
        if new > bounds.depth:
            why += f"; send no more than {bounds.depth:,} at once"
        elif new > 1:
            why += f"; {new:,} more were sent"
        return Full(why, _after(over, backlog.per_s))
    if bounds.age_s is not None and backlog.oldest_s > bounds.age_s:
        over = ceil(backlog.waiting * (1 - bounds.age_s / backlog.oldest_s))
        why = f"the first job has waited for {backlog.oldest_s:,.0f} s, and may for {bounds.age_s:,.0f}"
        return Full(why, _after(over, backlog.per_s))
    return None


def _after(jobs: int, per_s: float | None) -> int:
    if not per_s:
        return UNKNOWN_S
    return max(SOONEST_S, min(LATEST_S, ceil(jobs / per_s)))
