"""8. Four workers share what one provider allows: requests, then tokens, then requests with the broker dead.

Each phase has a provider of its own and just as much work as its limit lets through in the time, a burst included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.ground import Ground
from tests.chaos.history import Event
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.result import Profile, Promise, Result, at_least, at_most, standing
from worker.domain.bucket import Bucket
from worker.domain.failure import Lane

WORKERS: Final = 4
RPS: Final = 50.0
TPM: Final = 100_000.0
LASTS_S: Final = {"smoke": 3.0, "full": 60.0}
BURST_S: Final = Bucket(1.0).burst_s  # a rested fleet may use so many seconds' worth at once ...
SLACK_S: Final = 0.5  # ... and this much of what was evenly sent arrives unevenly
FROM_S: Final = 1.0  # before that a single call is a great share
USED: Final = 95.0
OVER: Final = 2.0
OVER_ALONE: Final = 5.0  # with the broker dead each worker keeps to its own share
REFUSED: Final = 1.0


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    tokens: int  # of a call, in all
    kill_redis: bool = False

    @property
    def per_s(self) -> float:
        """What the tighter of the two limits lets through."""
        return min(RPS, TPM / 60 / self.tokens)

    def allowed(self, seconds: float) -> float:
        return self.per_s * (seconds + BURST_S)


PHASES: Final = (Phase("requests", 15), Phase("tokens", 75), Phase("alone", 15, kill_redis=True))


def run(ground: Ground, profile: Profile) -> Result:
    lasts_s = LASTS_S[profile]
    for phase in PHASES:
        thirds = {"input": phase.tokens * 2 // 3, "output": phase.tokens // 3}
        ground.plan(phase.name, low_s=0.02, high_s=0.1, rps=RPS, tpm=TPM, burst_s=BURST_S + SLACK_S, **thirds)
    limits = f"limits = {{ rpm = {RPS * 60:.0f}, tpm = {TPM:.0f} }}"
    env = ground.environment(providers=[phase.name for phase in PHASES], limits=limits, SLOTS="50")
    fleet, nemesis = Fleet(ground, env, WORKERS), Nemesis(ground)
    submitter = ground.submitter(env)
    fleet.ready()
    for phase in PHASES:
        if phase.kill_redis:
            nemesis.told("redis-killed", ground.redis.kill)
        submitter.submit(int(phase.allowed(lasts_s)), Lane.BATCH, models=(f"{phase.name}/m",))
        ground.until_done(3 * lasts_s + 10)  # where it takes longer, the share that is used tells
    ground.until_done(60)
    verdict = ground.checked()
    history = ground.history()
    figures: dict[str, float] = {}
    promises: list[Promise] = []
    for phase in PHASES:
        used, over, refused = _measured(phase, history)
        figures |= {f"{phase.name}_used": used, f"{phase.name}_over": over, f"{phase.name}_refused": refused}
        over_most = OVER_ALONE if phase.kill_redis else OVER
        promises += [
            at_most(f"{phase.name}: no more is sent than the limit lets through", over, over_most, " % too much"),
            at_most(f"{phase.name}: refused for being too fast", refused, REFUSED, " %"),
        ]
        if not phase.kill_redis or profile == "full":  # at the very end one share has work left and the others have not
            promises.append(at_least(f"{phase.name}: what the limit lets through is used", used, USED, " %"))
    return Result({**verdict.figures(), **figures}, [*standing(verdict), *promises])


def _measured(phase: Phase, history: Sequence[Event]) -> tuple[float, float, float]:
    """In percent: of what was allowed, used; at its worst moment, sent above what was allowed; of the sent, refused."""
    sends = [event for event in history if event.what == "send" and event["provider"] == phase.name]
    # In calls of the usual size where tokens are what is scarce: answers differ, and the limit is not of calls.
    units = {
        event["n"]: (event["input"] + event["output"]) / phase.tokens if phase.per_s < RPS else 1.0
        for event in history
        if event.what == "answer"
    }
    began = sends[0].at
    used, over, refused = 0.0, 0.0, 0
    for event in sends:
        used += units.get(event["n"], 0.0)
        refused += event["n"] not in units
        if event.at - began >= FROM_S:
            over = max(over, 100 * (used / phase.allowed(event.at - began) - 1))
    used_share = 100 * used / phase.allowed(sends[-1].at - began)
    return round(used_share, 1), round(over, 1), round(100 * refused / len(sends), 1)
