"""4. The broker is killed, frozen, wiped, filled and cut off while programs post over HTTP and workers work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from tests.chaos import books
from tests.chaos.ground import Beside, Ground
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.poster import Poster, quantile
from tests.chaos.proxy import WELL, Fault, Proxy
from tests.chaos.result import Profile, Result, at_least, at_most, standing

FAULTS: Final = {"smoke": 4, "full": 20}
JOBS: Final = {"smoke": 600, "full": 20_000}
LASTS_S: Final = {"smoke": 1.5, "full": 4.0}
BETWEEN_S: Final = {"smoke": 0.5, "full": 3.0}
PAGE: Final = 50
BACK_S: Final = 30.0
TAKEN_S: Final = 1.0


def run(ground: Ground, profile: Profile) -> Result:
    ground.plan(low_s=0.02, high_s=0.2)
    lasts_s, faults, jobs = LASTS_S[profile], FAULTS[profile], JOBS[profile]
    nemesis = Nemesis(ground)
    with Proxy(ground.redis.port) as proxy:
        env = ground.environment(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", SLOTS="40", COMPLETAR_LEASE_S="5", COMPLETAR_POLL_S="1"
        )
        fleet = Fleet(ground, env, 2)
        _, port = ground.web(env)
        fleet.ready()
        returns: list[float] = []
        pages = max(1, jobs // PAGE)
        every_s = (lasts_s + BETWEEN_S[profile]) * faults / pages
        with Poster(ground, port) as single, Poster(ground, port) as bulk:
            with Beside(single.one, 0.1), Beside(lambda: bulk.many(PAGE), every_s):
                names = list(_FAULTS)
                for number in range(faults):
                    name = names[number % len(names)]
                    begin, end = _FAULTS[name](ground, proxy)
                    nemesis.told(f"redis-{name}", begin)
                    time.sleep(lasts_s)
                    nemesis.told(f"redis-{name}-over", end)
                    returns.append(time.time())
                    time.sleep(BETWEEN_S[profile])
                while bulk.acknowledged < jobs:
                    time.sleep(0.1)
            ground.until_done(120)
            verdict = ground.checked()
            claims = [move.at for move in books.read(ground.url).moves if move.became == "in_progress"]
            waits = [_next(claims, at) for at in returns]
            answers = [*single.answers, *bulk.answers]
            refused = sum(1 for answer in answers if answer.status not in (200, 202))
            took = [answer.took_s for answer in single.answers]
    gap = max((b - a for a, b in pairwise(claims)), default=0.0)
    return Result(
        {
            "faults": faults,
            **verdict.figures(),
            "posts": len(answers),
            "posts_refused": refused,
            "post_p50_s": round(quantile(took, 0.5), 3),
            "post_p99_s": round(quantile(took, 0.99), 3),
            "post_max_s": round(max(took), 3),
            "first_claim_after_return_s": round(max(waits), 2),
            "longest_without_a_claim_s": round(gap, 2),
        },
        [
            *standing(verdict),
            at_most("no call is made twice", verdict.counts.extra, 0),
            at_least("all jobs were posted", verdict.counts.jobs, jobs),
            at_most("the API takes every post while the broker is away", refused, 0),
            at_most("a post is answered soon while the broker is away (p99)", quantile(took, 0.99), TAKEN_S, " s"),
            at_most("the first claim after the broker's return", max(waits), BACK_S, " s"),
        ],
    )


def _next(claims: Sequence[float], at: float) -> float:
    """Seconds from `at` to the next claim; 0 where there was none any more, since all was done."""
    return min((claim - at for claim in claims if claim >= at), default=0.0)


Deed = Callable[[], object]


def _kill(ground: Ground, proxy: Proxy) -> tuple[Deed, Deed]:
    return ground.redis.kill, ground.redis.start


def _freeze(ground: Ground, proxy: Proxy) -> tuple[Deed, Deed]:
    return ground.redis.freeze, ground.redis.thaw


def _wipe(ground: Ground, proxy: Proxy) -> tuple[Deed, Deed]:
    return ground.redis.flushall, ground.redis.flushall


def _fill(ground: Ground, proxy: Proxy) -> tuple[Deed, Deed]:
    """Every write is refused: out of memory."""
    return (
        lambda: ground.redis._command("CONFIG SET maxmemory 1"),
        lambda: ground.redis._command("CONFIG SET maxmemory 0"),
    )


def _cut(ground: Ground, proxy: Proxy) -> tuple[Deed, Deed]:
    """Connections stay open, and nothing passes any more."""
    return lambda: proxy.become(Fault(black_hole=True)), lambda: proxy.become(WELL)


def _reset(ground: Ground, proxy: Proxy) -> tuple[Deed, Deed]:
    return proxy.reset, proxy.reset


_FAULTS: Final[dict[str, Callable[[Ground, Proxy], tuple[Deed, Deed]]]] = {
    "killed": _kill,
    "frozen": _freeze,
    "wiped": _wipe,
    "cut-off": _cut,
    "full": _fill,
    "reset": _reset,
}
