"""1. Workers are killed (kill -9 of the whole group) again and again while they work."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.chaos.ground import Ground
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.result import Profile, Result, at_least, standing
from tests.support.wait import wait_until

KILLS: Final = {"smoke": 4, "full": 200}
AHEAD: Final = 60
JOBS: Final = {"smoke": 200, "full": 5_000}


def run(ground: Ground, profile: Profile) -> Result:
    kills, jobs = KILLS[profile], JOBS[profile]
    ground.plan(low_s=0.05, high_s=0.25)
    env = ground.environment(SLOTS="2")  # of each lane: few, so that few jobs meet three deaths and are given up
    fleet, nemesis = Fleet(ground, env, 2), Nemesis(ground)
    submitter = ground.submitter(env)
    ids = submitter.mixed(jobs)
    for number in range(kills):
        # The kills are spread over the whole work, whatever the speed of the machine.
        due = jobs - (number + nemesis.chance.random()) * jobs / (kills + 1)
        wait_until(partial(_left, ground, due), f"kill {number} to be due", 60, every_s=0.03)
        if ground.open_jobs() < AHEAD:  # the fleet was quicker than the kills
            ids += submitter.mixed(AHEAD)
        place = fleet.busy_one()
        nemesis.kill(fleet.workers[place])
        fleet.replace(place)
    ground.until_done(60 + jobs / 50)
    verdict = ground.checked()
    counts = verdict.counts
    return Result(
        {"kills": kills, **verdict.figures(), "extra_per_kill": round(counts.extra / kills, 2)},
        [
            *standing(verdict),
            at_least("the kills hit workers with calls open", counts.in_flight / kills, 0.5, " calls per kill"),
            at_least("all jobs were taken", counts.jobs, len(ids)),
        ],
    )


def _left(ground: Ground, due: float) -> bool:
    return ground.open_jobs() <= due
