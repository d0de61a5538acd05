"""10. How soon an orphan is claimed again, with the product's own heartbeat and lease (3 s and 15 s)."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from tests.chaos import books
from tests.chaos.ground import QUICK, Ground
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.result import Profile, Result, at_most, standing
from tests.support.wait import wait_until

ROUNDS: Final = {"smoke": 1, "full": 5}
ORPHANS: Final = 20
PROMISED_S: Final = 20.0


def run(ground: Ground, profile: Profile) -> Result:
    # As long as the orphans wait, so that their calls are open when the worker dies wherever in its beat that is.
    ground.plan(low_s=30.0, high_s=30.0)
    env = {k: v for k, v in ground.environment(SLOTS=str(ORPHANS)).items() if k not in QUICK}
    nemesis = Nemesis(ground)
    submitter = ground.submitter(env)
    fleet = Fleet(ground, env, 1)
    waits: list[float] = []
    for _ in range(ROUNDS[profile]):
        fleet.ready()
        submitter.submit(ORPHANS)
        doomed = fleet.workers[0]
        wait_until(partial(_all_open, ground), "all calls to have reached the provider", 30)
        ground.plan(low_s=0.0, high_s=0.1)
        time.sleep(nemesis.chance.uniform(0.0, 3.0) if profile == "full" else 0.0)  # anywhere between two beats
        fleet.replace(0).wait_for_line(r"\bready\.")
        died_at = time.time()
        nemesis.kill(doomed)
        assert ground.until_done(60), "the orphans do not end"
        waits += _claimed_after(ground, died_at)
        ground.plan(low_s=30.0, high_s=30.0)
    waits.sort()
    verdict = ground.checked()
    p99 = waits[min(len(waits) - 1, int(0.99 * len(waits)))]
    return Result(
        {**verdict.figures(), "orphans": len(waits), "p50_s": round(waits[len(waits) // 2], 1), "p99_s": round(p99, 1)},
        [
            *standing(verdict),
            at_most("an orphan is claimed again soon (p99)", round(p99, 1), PROMISED_S, " s"),
        ],
    )


def _all_open(ground: Ground) -> bool:
    return ground.provider_calls()["open"] >= ORPHANS


def _claimed_after(ground: Ground, died_at: float) -> list[float]:
    """Seconds from the death to each claim after it."""
    moves = books.read(ground.url).moves
    return [move.at - died_at for move in moves if move.became == "in_progress" and move.at > died_at]
