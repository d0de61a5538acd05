"""12. Under the same faults: Completar, Celery with late acknowledgement, and a queue in SQL."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Final

from tests.chaos import books
from tests.chaos.checker import check
from tests.chaos.ground import Ground
from tests.chaos.history import Event
from tests.chaos.nemesis import Nemesis
from tests.chaos.result import Profile, Promise, Result, at_most, standing
from tests.chaos.rivals.contest import Completar, Contestant, LateCelery, Procrastinate
from tests.support.wait import wait_until

JOBS: Final = {"smoke": 40, "full": 300}
KILLS: Final = {"smoke": 2, "full": 10}
EVERY_S: Final = {"smoke": 0.7, "full": 2.0}
WINDOW_S: Final = {"smoke": 6.0, "full": 90.0}  # after the last fault: what is not done by then counts as not done
WORKERS: Final = 2


def run(ground: Ground, profile: Profile) -> Result:
    ground.plan(low_s=0.2, high_s=0.4)
    makers: list[Callable[[], Contestant]] = [
        lambda: Completar(ground, quick=profile == "smoke"),
        lambda: LateCelery(ground, 3_600),
    ]
    if profile == "full":
        makers += [lambda: LateCelery(ground, 10), lambda: Procrastinate(ground)]
    rows: list[dict[str, Any]] = []
    for faults in ("kills",) if profile == "smoke" else ("kills", "kills, then Redis killed"):
        rows += [_contest(ground, make(), profile, faults) for make in makers]
    verdict = check(_ours(ground.history()), books.read(ground.url))
    ours = [row for row in rows if row["queue"] == "Completar"]
    return Result(
        {**verdict.figures(), "contest": rows},
        [
            *standing(verdict),
            at_most("Completar leaves no job undone", sum(row["not done"] for row in ours), 0),
            at_most("Completar records no answer twice", sum(row["answered twice"] for row in ours), 0),
            Promise("Completar recovers within the window", all(row["recovered in s"] is not None for row in ours)),
        ],
    )


def _ours(history: list[Event]) -> list[Event]:
    """Without what the provider told of the rivals' calls."""
    wanted = {event["prompt"] for event in history if event.what == "submit-sent"}
    calls = {event["n"] for event in history if event.what == "send" and event["prompt"] in wanted}
    return [event for event in history if event.who != "provider" or event["n"] in calls]


def _contest(ground: Ground, contestant: Contestant, profile: Profile, faults: str) -> dict[str, Any]:
    chance = random.Random(f"{ground.seed} {faults}")  # the same faults for each of them
    nemesis = Nemesis(ground)
    ground.redis.healed()
    prompts = set(contestant.submit(JOBS[profile]))
    workers = [contestant.worker() for _ in range(WORKERS)]

    def done() -> dict[str, int]:
        return {prompt: count for prompt, count in contestant.answered().items() if prompt in prompts}

    wait_until(done, f"the first answer of {contestant.name}", 60, every_s=0.1)
    for _ in range(KILLS[profile]):
        time.sleep(EVERY_S[profile] * chance.uniform(0.5, 1.5))
        place = chance.randrange(WORKERS)
        nemesis.kill(workers[place])
        workers[place] = contestant.worker()
    if "Redis" in faults and contestant.needs_redis:
        ground.redis.kill()
        time.sleep(1.0)
        ground.redis.start()
    over_at = time.monotonic()
    recovered: float | None = None
    while time.monotonic() < over_at + WINDOW_S[profile]:
        if len(done()) == len(prompts):
            recovered = round(time.monotonic() - over_at, 1)
            break
        time.sleep(0.2)
    answers = done()
    if recovered is None and len(answers) == len(prompts):
        recovered = round(time.monotonic() - over_at, 1)  # at the very last moment
    for worker in workers:
        nemesis.kill(worker)
    sends = [event["prompt"] for event in ground.history() if event.what == "send" and event["prompt"] in prompts]
    return {
        "queue": contestant.name,
        "faults": faults,
        "jobs": len(prompts),
        "not done": len(prompts) - len(answers),
        "answered twice": sum(1 for count in answers.values() if count > 1),
        "extra calls": len(sends) - len(set(sends)),
        "recovered in s": recovered,
    }
