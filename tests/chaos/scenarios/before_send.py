"""3. Workers die between the claim of a job and the mark of its call: nothing was sent, so nothing may be sent twice.

The crash point is reached without a hook in the product: a lock on the table of calls lets a claim pass and holds every
mark back. What waits for the lock when its worker dies is rolled back, since nobody is left to commit it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import psycopg

from tests.chaos.books import plain
from tests.chaos.ground import Ground
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.result import Profile, Result, at_least, at_most, standing
from tests.support.wait import wait_until

ROUNDS: Final = {"smoke": 1, "full": 34}
WORKERS: Final = 3


def run(ground: Ground, profile: Profile) -> Result:
    rounds = ROUNDS[profile]
    ground.plan(low_s=0.0, high_s=0.05)
    # Two places of the interactive lane: what one worker claims leaves enough for the others.
    env = ground.environment(SLOTS="2", LANES="interactive")
    fleet, nemesis = Fleet(ground, env, WORKERS), Nemesis(ground)
    submitter = ground.submitter(env)
    deaths = claimed = 0
    for number in range(rounds):
        fleet.ready()
        with psycopg.connect(plain(ground.url)) as conn:
            conn.execute("LOCK TABLE attempt IN SHARE MODE")  # reading goes on; marks wait
            submitter.submit(6 * WORKERS)
            for worker in fleet.workers:
                wait_until(partial(_claimed, ground, worker.pid), f"{worker.name} to claim", 20, 0.02)
            for worker in fleet.workers:
                claimed += _claimed(ground, worker.pid)
                nemesis.kill(worker)
                deaths += 1
            conn.rollback()
        for place in range(WORKERS):
            fleet.replace(place)
        assert ground.until_done(60), f"round {number} does not end"
    verdict = ground.checked()
    counts = verdict.counts
    return Result(
        {"deaths": deaths, "claimed_at_death": claimed, **verdict.figures()},
        [
            *standing(verdict),
            at_least("each death came between claim and mark", claimed / deaths, 1, " claims per death"),
            at_most("no call was on record when they died", counts.in_flight, 0),
            at_most("no call is made twice", counts.extra, 0),
        ],
    )


def _claimed(ground: Ground, pid: int) -> int:
    rows = ground.sql(
        "SELECT count(*) FROM job j JOIN worker w ON w.id = j.worker_id WHERE w.pid = %s AND j.status = 'in_progress'",
        pid,
    )
    return int(rows[0][0])
