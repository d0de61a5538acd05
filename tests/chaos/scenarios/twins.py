"""9. Many posts at once with one idempotency key, to a web process that is killed (kill -9) somewhere in between."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.chaos.ground import KEY, Ground
from tests.chaos.nemesis import Nemesis
from tests.chaos.proxy import Proxy
from tests.chaos.result import Profile, Result, at_least, at_most, standing
from tests.support.processes import Process
from tests.support.wait import free_port, listening, wait_until

ROUNDS: Final = {"smoke": 4, "full": 100}
TWINS: Final = 64
PATIENCE_S: Final = 30.0
SPREAD_S: Final = 0.15  # the posts of a round take about so long


def run(ground: Ground, profile: Profile) -> Result:
    env = ground.environment(HOST="127.0.0.1", WEB_CONCURRENCY="1")
    nemesis, chance = Nemesis(ground), ground.chance
    ground.worker(env, wait=False)
    webs = [_Web(ground, env), _Web(ground, env)]
    several = 0
    points = {"answer lost": 0, "in between": 0}
    with webs[0].proxy, webs[1].proxy:
        for number in range(ROUNDS[profile]):
            for web in webs:
                wait_until(web.listens, "the web process to listen", 30)
            doomed = webs[number % 2]
            (prompt,) = ground.prompts(1)
            ground.client.tell("submit-sent", prompt=prompt)
            # Half of the deaths come when an answer is about to go back: its job is committed, and nobody hears of it.
            at_answer = number % 4 < 2
            if at_answer:
                doomed.die_at_answer(chance.randrange(3))
            ids: list[str] = []
            twins = [
                _Twin(prompt, [web.proxy.port for web in (doomed, webs[1 - number % 2])], ids) for _ in range(TWINS)
            ]
            for twin in twins:
                twin.start()
            if not at_answer:
                time.sleep(chance.uniform(0.0, SPREAD_S))
            else:
                wait_until(doomed.ended, "the web process to die", 20)
            nemesis.told("web-killed", doomed.process.kill)
            for twin in twins:
                twin.join(PATIENCE_S + 5)
            points["answer lost" if at_answer else "in between"] += 1
            assert len(ids) == TWINS, f"{TWINS - len(ids)} of {TWINS} posts were never answered"
            several += len(set(ids)) > 1
            for job in set(ids):
                ground.client.tell("submit-ok", prompt=prompt, job=job)
            doomed.start()
        ground.until_done(60)
    verdict = ground.checked()
    return Result(
        {"rounds": ROUNDS[profile], "posts": ROUNDS[profile] * TWINS, **points, **verdict.figures()},
        [
            *standing(verdict),
            at_most("all posts of a key hear of the same job", several, 0, " keys with several"),
            at_most("one job for one key", verdict.counts.jobs, ROUNDS[profile]),
            at_least("each key has its job", verdict.counts.completed, ROUNDS[profile]),
        ],
    )


class _Web:
    """A web process on one port for ever, behind a proxy that can make it die at an answer."""

    def __init__(self, ground: Ground, env: dict[str, str]) -> None:
        self._ground = ground
        self._port = free_port()
        self._env = {**env, "PORT": str(self._port)}
        self.proxy = Proxy(self._port)
        self.process: Process
        self.start()

    def start(self) -> None:
        self.proxy.on_reply = None
        self.process = self._ground.processes.from_procfile("web", self._env)

    def listens(self) -> bool:
        assert self.process.running, self.process.tail()
        return listening(self._port)

    def ended(self) -> bool:
        return not self.process.running

    def die_at_answer(self, number: int) -> None:
        """The answers before this one go out; this one and all after it do not."""
        self.proxy.on_reply = _dying(self.process, number)


def _dying(process: Process, number: int) -> Callable[[], bool]:
    left = number

    def at_reply() -> bool:
        nonlocal left
        left -= 1
        if left >= 0:
            return False
        process.signal(signal.SIGKILL)
        return True

    return at_reply


class _Twin(threading.Thread):
    """One of the posts: it asks the web processes in turn until one of them has taken it."""

    def __init__(self, prompt: str, ports: Sequence[int], ids: list[str]) -> None:
        super().__init__(daemon=True)
        self._body = json.dumps({"input": {"prompt": prompt}})
        self._headers = {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "application/json",
            "Idempotency-Key": prompt,
        }
        self._ports = ports
        self._ids = ids

    def run(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        turn = 0
        while time.monotonic() < deadline:
            job = self._ask(self._ports[turn % len(self._ports)])
            if job is not None:
                self._ids.append(job)
                return
            turn += 1
            time.sleep(0.02)

    def _ask(self, port: int) -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/v1/jobs", self._body, self._headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return told["id"] if answer.status in (200, 202) else None
