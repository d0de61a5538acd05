"""5. The database is stopped as by a crash (immediate) while calls are open, programs post, and answers arrive."""

from __future__ import annotations

import time
from typing import Final

from tests.chaos.ground import Beside, Ground
from tests.chaos.history import Event
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.poster import Poster
from tests.chaos.result import Profile, Result, at_least, at_most, nothing, standing

STOPS: Final = {"smoke": 2, "full": 10}
AWAY_S: Final = 1.5
BETWEEN_S: Final = {"smoke": 2.0, "full": 3.0}
REFUSED_S: Final = 1.0
RECORDED: Final = 99.0


def run(ground: Ground, profile: Profile) -> Result:
    ground.plan(low_s=0.5, high_s=1.5)
    env = ground.environment(SLOTS="30", COMPLETAR_HEARTBEAT_S="1", COMPLETAR_LEASE_S="15", COMPLETAR_POLL_S="0.5")
    nemesis = Nemesis(ground)
    fleet = Fleet(ground, env, 2)
    _, port = ground.web(env)
    fleet.ready()
    spans: list[tuple[float, float]] = []
    with Poster(ground, port) as poster:
        with Beside(poster.one, 0.03), Beside(poster.one, 0.03):
            for _ in range(STOPS[profile]):
                time.sleep(BETWEEN_S[profile])
                away_at = time.time()
                nemesis.told("postgres-stopped", lambda: ground.postgres.stop("immediate"))
                time.sleep(AWAY_S)
                nemesis.told("postgres-started", ground.postgres.start)
                spans.append((away_at, time.time()))
        ground.until_done(90)
        # All that was sent by then and asked for again afterwards would be the price of the fault.
        history = ground.history()
        verdict = ground.checked()
        meanwhile = [event for event in history if event.what == "answer" and _within(event, spans)]
        again = _asked_again(history)
        recorded = 100 * (1 - sum(1 for event in meanwhile if event["n"] in again) / max(1, len(meanwhile)))
        refusals = [a for a in poster.answers if a.status not in (200, 202)]
        slowest = max((a.took_s for a in refusals if a.status == 503), default=0.0)
        odd = [a.status for a in refusals if a.status != 503]
    return Result(
        {
            "stops": len(spans),
            **verdict.figures(),
            "answers_meanwhile": len(meanwhile),
            "recorded_without_a_second_call": round(recorded, 2),
            "posts": len(poster.answers),
            "posts_refused": len(refusals),
            "slowest_refusal_s": round(slowest, 3),
            "odd_statuses": len(odd),
        },
        [
            *standing(verdict),
            at_least("answers arrived while the database was away", len(meanwhile), STOPS[profile]),
            at_least("answers that arrived meanwhile are recorded without a second call", recorded, RECORDED, " %"),
            at_least("posts came while it was away", len(refusals), STOPS[profile]),
            at_most("the API says 503 at once", slowest, REFUSED_S, " s"),
            at_most("and nothing else but 503", len(odd), 0),
            nothing("every post was taken in the end", [])
            if not poster.gave_up
            else at_most("every post was taken in the end", poster.gave_up, 0),
        ],
    )


def _within(event: Event, spans: list[tuple[float, float]]) -> bool:
    return any(begin <= event.at <= end for begin, end in spans)


def _asked_again(history: list[Event]) -> set[int]:
    """Calls whose prompt was sent once more after they had been answered."""
    answered: dict[str, list[int]] = {}
    prompts: dict[int, str] = {}
    again: set[int] = set()
    for event in history:
        if event.what == "send":
            prompts[event["n"]] = event["prompt"]
            again.update(answered.get(event["prompt"], ()))
        elif event.what == "answer":
            answered.setdefault(prompts[event["n"]], []).append(event["n"])
    return again
