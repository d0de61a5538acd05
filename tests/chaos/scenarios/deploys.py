"""6. A deploy again and again: SIGTERM to the worker that serves, a new one started beside it, SIGKILL after the grace.

Every job may make one call in its life (`max_attempts: 1`): if a stop were charged to a job, the job would fail.
"""

from __future__ import annotations

import time
from typing import Final

from tests.chaos.ground import Beside, Ground
from tests.chaos.nemesis import Nemesis
from tests.chaos.result import Profile, Result, at_most, standing
from tests.support.processes import Process
from tests.support.wait import wait_until
from worker.domain.failure import Lane

GRACES_S: Final = {"smoke": (3, 10), "full": (3, 10, 60)}
DEPLOYS: Final = {"smoke": 3, "full": 20}
EVERY_S: Final = {"smoke": 2.0, "full": 15.0}
SLOW_S: Final = {"smoke": 4.0, "full": 12.0}  # the longest call: longer than the shortest grace
LOOK_S: Final = 0.02
LATE_S: Final = 0.5  # a process may need this to be gone once it has decided to go; platforms round up


def run(ground: Ground, profile: Profile) -> Result:
    ground.plan(low_s=0.2, high_s=SLOW_S[profile])
    nemesis = Nemesis(ground)
    graces = GRACES_S[profile]
    submitter = ground.submitter(ground.environment())
    serving, grace = _started(ground, graces[0]), graces[0]
    leaving = _Leaving(nemesis)
    with Beside(leaving.look, LOOK_S):
        for number in range(DEPLOYS[profile]):
            began = time.monotonic()
            submitter.mixed(60, max_attempts=1)
            next_grace = graces[(number + 1) % len(graces)]
            following = _started(ground, next_grace)
            time.sleep(max(0.0, began + EVERY_S[profile] - time.monotonic()))
            nemesis.deploy_over(serving)
            leaving.add(serving, grace)
            serving, grace = following, next_grace
        wait_until(leaving.all_gone, "every worker to leave", max(graces) + 10, every_s=0.1)
    ground.until_done(120)
    verdict = ground.checked()
    counts = verdict.counts
    interrupted = ground.sql("SELECT count(*) FROM attempt WHERE state = 'cancelled'")[0][0]
    latest = max(used / allowed for allowed, used in leaving.took)
    return Result(
        {
            "deploys": len(leaving.took) + leaving.killed,
            **verdict.figures(),
            "interrupted": interrupted,
            "longest_share_of_grace": round(latest, 2),
        },
        [
            *standing(verdict),
            at_most("every worker is gone within its grace", leaving.killed, 0, " killed"),
            at_most("a call is repeated only where the drain was too short for it", counts.extra, interrupted),
            at_most("no call is lost by a deploy", counts.lost_calls, 0),
        ],
    )


def _started(ground: Ground, grace: float) -> Process:
    return ground.worker(ground.environment(DRAIN_S=str(grace), SLOTS="20", LANES=f"{Lane.BATCH},{Lane.INTERACTIVE}"))


class _Leaving:
    """Workers that were told to go: who went in time, and who had to be killed. `took` has (grace, seconds used)."""

    def __init__(self, nemesis: Nemesis) -> None:
        self._nemesis = nemesis
        self._here: list[tuple[Process, float, float]] = []
        self.took: list[tuple[float, float]] = []
        self.killed = 0

    def add(self, process: Process, grace: float) -> None:
        self._here.append((process, time.monotonic(), grace))

    def all_gone(self) -> bool:
        return not self._here

    def look(self) -> None:
        for one in list(self._here):
            process, term_at, grace = one
            if process.running and time.monotonic() < term_at + grace + LATE_S:
                continue
            used = self._nemesis.end(process, term_at, grace + LATE_S)
            if used is None:
                self.killed += 1
            else:
                self.took.append((grace, used))
            self._here.remove(one)
