"""Following thousands of jobs with few requests.

Ids sort by time of making, and jobs are done about in that order. So they are watched in stretches of a hundred, each
read with one request of the list; a stretch in which something ended is looked at again soon, and so is the one behind
it; a quiet one ever more seldom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from api.cli.client import Client
from worker.domain.state import FINAL

STRETCH: Final = 100  # jobs of one look: the longest page of the list
SOONEST_S: Final = 0.05
SLOWER: Final = 1.5
LATEST_S: Final = 2.0
PER_STRETCH_S: Final = 0.1  # with many stretches each is looked at more seldom: about ten looks a second in all
PATIENCE_S: Final = 120.0  # for a server that restarts

Job = dict[str, Any]


@dataclass(slots=True, eq=False)
class Stretch:
    """Neighbours in the order of ids. `before` is the first id behind them that is ours; None: not known."""

    ids: list[str]
    before: str | None
    due_s: float
    pause_s: float
    open: set[str] = field(default_factory=set)
    waits: set[str] = field(default_factory=set)  # why some of them stood still, at the last look

    def __post_init__(self) -> None:
        self.open.update(self.ids)


class Schedule:
    """Which stretch is worth a look, and when. Plain arithmetic over a clock that is passed in."""

    def __init__(self) -> None:
        self._stretches: list[Stretch] = []

    @property
    def open(self) -> int:
        return sum(len(stretch.open) for stretch in self._stretches)

    def add(self, ids: Iterable[str], now_s: float) -> None:
        ordered = sorted(ids)
        for start in range(0, len(ordered), STRETCH):
            end = start + STRETCH
            before = ordered[end] if end < len(ordered) else None
            first = not self._stretches
            pause_s = SOONEST_S if first else self._latest_s()
            self._stretches.append(Stretch(ordered[start:end], before, now_s + pause_s, pause_s))

    def due(self, now_s: float) -> Iterator[Stretch]:
        """In order; what a look brings may make the next one due."""
        for stretch in list(self._stretches):
            if stretch.due_s <= now_s:
                yield stretch

    def looked(self, stretch: Stretch, ended: int, now_s: float) -> None:
        """Take note of what a look at a stretch brought."""
        stretch.pause_s = SOONEST_S * 2 if ended else min(stretch.pause_s * SLOWER, self._latest_s())
        stretch.due_s = now_s + stretch.pause_s
        place = self._stretches.index(stretch)
        if ended and place + 1 < len(self._stretches):
            behind = self._stretches[place + 1]
            behind.due_s = min(behind.due_s, now_s)
        if not stretch.open:
            del self._stretches[place]

    def next_s(self) -> float | None:
        """When the next look is due; None: everything has ended."""
        return min((stretch.due_s for stretch in self._stretches), default=None)

    def _latest_s(self) -> float:
        return max(LATEST_S, PER_STRETCH_S * len(self._stretches))


def look(client: Client, stretch: Stretch) -> list[Job]:
    """The jobs of a stretch that have ended since the last look; they are no longer among its open ones."""
    alone = set(stretch.open)
    if len(alone) > 1:  # the list shows what is older than an id of ours, so the newest of all is asked for by itself
        alone = alone & {stretch.ids[-1]} if stretch.before is None else set()
    jobs = [client.get(f"/v1/jobs/{job_id}", patience_s=PATIENCE_S).json() for job_id in alone]
    if stretch.open - alone:
        jobs += _listed(client, stretch)
    ours = [job for job in jobs if job["id"] in stretch.open]
    stretch.waits = {f"{each['of']}: {each['reason']}" for job in ours if (each := job.get("waiting_for")) is not None}
    ended = [job for job in ours if job["status"] in FINAL]
    stretch.open.difference_update(job["id"] for job in ended)
    return ended


def _listed(client: Client, stretch: Stretch) -> Iterator[Job]:
    """What the list has between the ends of a stretch; jobs of others may stand between ours."""
    after = stretch.before if stretch.before is not None else stretch.ids[-1]
    while True:
        page = client.get("/v1/jobs", {"after": after, "limit": STRETCH}, patience_s=PATIENCE_S).json()
        yield from page["data"]
        if not page["has_more"] or page["data"][-1]["id"] <= stretch.ids[0]:
            return
        after = page["data"][-1]["id"]
