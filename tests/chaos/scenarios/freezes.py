"""2. Workers are stopped (SIGSTOP) for longer than their lease and then go on, with answers in hand that are late."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from tests.chaos.ground import Ground
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.result import Profile, Promise, Result, at_least, standing
from tests.support.processes import Process
from tests.support.wait import wait_until

FREEZES: Final = {"smoke": 3, "full": 50}
JOBS_EACH: Final = 24  # more than can be done while one of two is frozen


def run(ground: Ground, profile: Profile) -> Result:
    freezes = FREEZES[profile]
    ground.plan(low_s=0.05, high_s=0.25)
    env = ground.environment(SLOTS="3")
    fleet, nemesis = Fleet(ground, env, 2), Nemesis(ground)
    submitter = ground.submitter(env)
    fleet.ready()
    for number in range(freezes):
        submitter.mixed(JOBS_EACH)
        worker = fleet.busy(number % 2)
        nemesis.freeze(worker)
        wait_until(partial(_buried, ground, worker), "the frozen worker to be declared dead", 20)
        time.sleep(nemesis.chance.uniform(0.0, 0.3))  # its jobs are now being done by the other, or already have been
        nemesis.thaw(worker)
        worker.wait_for(partial(_back, ground, worker), "registering anew")
    done = ground.until_done(60)
    # Not before each late answer had its time: a worker writes it down in one transaction with what else it has.
    time.sleep(1.0)
    verdict = ground.checked()
    counts = verdict.counts
    refused = sum(1 for event in ground.worker_log() if event.what == "claim.lost")
    declared = sum(1 for event in ground.worker_log() if event.what == "worker.declared_dead")
    return Result(
        {"freezes": freezes, **verdict.figures(), "late_writes_refused": refused, "declared_dead": declared},
        [
            *standing(verdict),
            Promise("the fleet goes on", done),
            at_least("each frozen worker notices that it was declared dead", declared, freezes),
            at_least("late writes are refused, and say so", refused, counts.superseded),
            Promise(
                "each answer that came late is kept beside the result",
                counts.superseded > 0 and counts.unknown == 0,
                f"{counts.superseded} kept, {counts.unknown} not on record, of {counts.in_flight} open at a freeze",
            ),
        ],
    )


def _buried(ground: Ground, worker: Process) -> bool:
    return bool(ground.sql("SELECT 1 FROM worker WHERE pid = %s AND dead_at IS NOT NULL", worker.pid)) and not bool(
        ground.sql("SELECT 1 FROM worker WHERE pid = %s AND dead_at IS NULL", worker.pid)
    )


def _back(ground: Ground, worker: Process) -> bool:
    return bool(ground.sql("SELECT 1 FROM worker WHERE pid = %s AND dead_at IS NULL", worker.pid))
