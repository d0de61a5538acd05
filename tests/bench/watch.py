"""Looks at processes while they work, and says afterwards what a stretch of time cost them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from tests.bench import usage
from tests.bench.usage import Memory

EVERY_S: Final = 0.1
MEMORY_EVERY: Final = 5  # looks: it takes longer
OURSELVES: Final = "bench"  # this process, and with it everything that it started

Groups = Mapping[str, Sequence[int]]


class Watch:
    """`with Watch({"worker": [pid, ...], ...})`: a name stands for processes with their descendants.

    The memory of the first group is watched too; not with `lightly`, which also looks less often: for when clients that
    share our interpreter measure themselves.
    """

    def __init__(self, groups: Groups, *, lightly: bool = False) -> None:
        self._groups = {**groups, OURSELVES: [os.getpid()]}
        self._heavy = () if lightly else next(iter(groups.values()))
        self._every_s = 10 * EVERY_S if lightly else EVERY_S
        self._samples: list[tuple[float, float, dict[str, float]]] = []  # when, whole machine, by group
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="bench-watch", daemon=True)
        self.peak_rss_mb = 0.0
        self.peak_pss_mb = 0.0

    def cost_s(self, begin_at: float, end_at: float) -> dict[str, float]:
        """CPU seconds by group between two moments of the monotonic clock."""
        return {
            name: self._spent(name, end_at) - self._spent(name, begin_at) for name in self._groups if name != OURSELVES
        }

    def others(self, begin_at: float, end_at: float) -> float:
        """Share of the whole machine's time that went to processes which are none of ours."""
        wide = self._samples[-1][0] - self._samples[0][0]
        end_at = max(end_at, begin_at + min(wide, 5 * EVERY_S))  # shorter, it would be all rounding
        ours = self._spent(OURSELVES, end_at) - self._spent(OURSELVES, begin_at)
        return max(0.0, self.busy(begin_at, end_at) - _share(ours, begin_at, end_at))

    def busy(self, begin_at: float, end_at: float) -> float:
        """Share of the whole machine's time that was in use, by whomever."""
        return _share(self._used(end_at) - self._used(begin_at), begin_at, end_at)

    def _used(self, at: float) -> float:
        return _between([(sample[0], sample[1]) for sample in self._samples], at)

    def _spent(self, name: str, at: float) -> float:
        return _between([(sample[0], sample[2][name]) for sample in self._samples], at)

    def _look(self) -> None:
        looks = 0
        while not self._over.wait(self._every_s):
            self._sample()
            looks += 1
            if looks % MEMORY_EVERY == 0:
                self._weigh()

    def _sample(self) -> None:
        last = self._samples[-1][2] if self._samples else dict.fromkeys(self._groups, 0.0)
        # What has ended shows nothing any more: its last known value stands.
        spent = {name: max(last[name], sum(map(usage.cpu_s, pids))) for name, pids in self._groups.items()}
        self._samples.append((time.monotonic(), usage.machine_busy_s(), spent))

    def _weigh(self) -> None:
        now = sum(map(usage.memory, self._heavy), Memory())
        self.peak_rss_mb = max(self.peak_rss_mb, now.rss_mb)
        self.peak_pss_mb = max(self.peak_pss_mb, now.pss_mb)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._sample()


def _share(cpu_s: float, begin_at: float, end_at: float) -> float:
    """Of all that the machine has to give in this time."""
    return cpu_s / ((end_at - begin_at) * (os.cpu_count() or 1))


def _between(samples: Sequence[tuple[float, float]], at: float) -> float:
    """The value at a moment, on the straight line between the samples around it."""
    before = samples[0]
    for sample in samples:
        if sample[0] >= at:
            (t0, v0), (t1, v1) = before, sample
            return v1 if t1 <= t0 else v0 + (v1 - v0) * (at - t0) / (t1 - t0)
        before = sample
    return before[1]


def wait_for_quiet(most_s: float, busy: float = 0.1, window_s: float = 0.5) -> None:
    """Until the machine is less than a tenth busy, or the time is up: then the run itself shows who disturbed it."""
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        before = usage.machine_busy_s()
        time.sleep(window_s)
        if (usage.machine_busy_s() - before) / (window_s * (os.cpu_count() or 1)) < busy:
            return
