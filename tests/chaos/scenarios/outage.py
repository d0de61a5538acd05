"""7. One provider is down for a while and comes back; later another hangs while a third is well."""

from __future__ import annotations

import json
import time
from typing import Final

from tests.chaos.ground import Beside, Ground
from tests.chaos.history import Event
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.result import Profile, Result, at_least, at_most, standing
from tests.support.wait import wait_until

WORKERS: Final = 3
DOWN_S: Final = {"smoke": 4.0, "full": 60.0}
# Probes of the whole fleet while it is down. In three seconds one, and who was late to hear that it is.
CALLS: Final = {"smoke": 2, "full": 6}
BACK_S: Final = 30.0
HANGS_S: Final = {"smoke": 5.0, "full": 30.0}
RATE: Final = 20  # jobs a second that go to the healthy one while another hangs
TIMEOUT_S: Final = 2.0
KEPT: Final = 90.0
OPENING_S: Final = 1.0  # calls that were on their way when the breaker opened have arrived by then


def run(ground: Ground, profile: Profile) -> Result:
    for provider in ("first", "second", "well", "hanging"):
        ground.plan(provider, low_s=0.02, high_s=0.1)
    env = ground.environment(
        providers=("first", "second", "well", "hanging"),
        more=f"attempt_timeout_s = {TIMEOUT_S}",
        SLOTS="20",
    )
    fleet, nemesis = Fleet(ground, env, WORKERS), Nemesis(ground)
    submitter = ground.submitter(env)
    fleet.ready()

    with Beside(lambda: submitter.submit(2, models=("first/m", "second/m")), 0.1):
        time.sleep(2.0)
        nemesis.told("provider-down", lambda: ground.plan("first", mode="refuse"))
        wait_until(lambda: _door(ground, "first/m"), "a breaker to open", 20, every_s=0.05)
        opened_at = time.time()
        time.sleep(DOWN_S[profile])
        nemesis.told("provider-up", lambda: ground.plan("first", mode="answer"))
        up_at = time.time()
        wait_until(lambda: _in_use(ground, up_at), "the provider to be in use again", 2 * BACK_S, every_s=0.2)
        back_s = _first(ground.history(), up_at) - up_at

    seconds = HANGS_S[profile]
    submitter.submit(1, models=("well/m",))
    nemesis.told("provider-hangs", lambda: ground.plan("hanging", mode="hang"))
    # More than all places of the fleet, so that they are all taken if nothing keeps them free.
    submitter.submit(40 * WORKERS, models=("hanging/m", "second/m"))
    began = time.time()
    sent = 0
    while time.time() < began + seconds:
        sent += len(submitter.submit(RATE // 4, models=("well/m",)))
        time.sleep(0.25)
    time.sleep(0.5)
    well = sum(1 for event in ground.history() if event.what == "send" and event["provider"] == "well") - 1
    nemesis.told("provider-up", lambda: ground.plan("hanging", mode="answer"))
    ground.until_done(90)

    verdict = ground.checked()
    history = ground.history()
    probes = sum(1 for event in _sends(history, "first") if opened_at + OPENING_S < event.at < up_at)
    kept = 100 * well / sent
    return Result(
        {
            **verdict.figures(),
            "down_s": DOWN_S[profile],
            "calls_while_open": probes,
            "back_after_s": round(back_s, 1),
            "throughput_beside_hanging": round(kept, 1),
        },
        [
            *standing(verdict, extra=False),
            at_most("the fleet leaves a dead provider alone", probes, CALLS[profile], " calls"),
            at_most("and uses it again soon", round(back_s, 1), BACK_S, " s"),
            at_least("a hanging provider costs the others little", round(kept, 1), KEPT, " % of throughput"),
        ],
    )


def _door(ground: Ground, target: str) -> bool:
    """Whether a living worker says that this target's door is not open."""
    rows = ground.sql("SELECT report FROM worker WHERE dead_at IS NULL")
    return any(target in json.loads(row[0]).get("targets", {}) for row in rows)


def _sends(history: list[Event], provider: str) -> list[Event]:
    return [event for event in history if event.what == "send" and event["provider"] == provider]


def _in_use(ground: Ground, since: float) -> bool:
    return _first(ground.history(), since) < float("inf")


def _first(history: list[Event], since: float) -> float:
    """When `first` was called for the third time since then: once is a probe."""
    calls = [event.at for event in _sends(history, "first") if event.at > since]
    return calls[2] if len(calls) > 2 else float("inf")
