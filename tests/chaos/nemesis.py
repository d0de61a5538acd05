"""Who breaks things, by a schedule that follows from the seed, and tells what was open at that moment.

A clock that runs wrong is not in here: that takes libfaketime around a worker, and the product has no hook for it.
`scenarios/clock.py` looks for the library and says so where it is missing.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Final

from tests.chaos.ground import Ground
from tests.support.processes import Process
from tests.support.wait import wait_until

SETTLED_S: Final = 0.1  # between two looks, until both see the same


class Nemesis:
    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.chance: random.Random = ground.chance

    def kill(self, process: Process) -> int:
        """kill -9 of the worker's whole group. How many calls it had open."""
        process.kill()
        return self._tell("kill", process)

    def freeze(self, process: Process) -> int:
        process.freeze()
        return self._tell("freeze", process)

    def thaw(self, process: Process) -> None:
        process.thaw()
        self._ground.nemesis.tell("thaw", pid=process.pid)

    def deploy_over(self, process: Process) -> None:
        """SIGTERM as a platform sends it; the kill after its grace is `end`'s."""
        before = self._ground.open_calls(process)
        process.signal(signal.SIGTERM)
        after = [call for call in self._ground.open_calls(process) if call not in before]
        self._ground.nemesis.tell("term", pid=process.pid, open=before + after)

    def end(self, process: Process, term_at: float, grace_s: float) -> float | None:
        """Wait for a process that was told to go; SIGKILL when its grace is over. Seconds it took, None: killed."""
        try:
            process.wait(max(0.0, term_at + grace_s - time.monotonic()))
        except AssertionError:
            self.kill(process)
            return None
        took = time.monotonic() - term_at
        self._ground.nemesis.tell("exit", pid=process.pid, took_s=took, code=process.exit_code)
        return took

    def told(self, what: str, deed: Callable[[], object], **of: float) -> None:
        """Do something to a server, and tell it."""
        self._ground.nemesis.tell(what, **of)
        deed()

    def _tell(self, what: str, process: Process) -> int:
        opened = settled(self._ground, process)
        self._ground.nemesis.tell(what, pid=process.pid, open=opened)
        return len(opened)

    def cut_off(self, process: Process) -> None:
        """Tell that this worker has been cut off from the database."""
        self._tell("cut-off", process)


def settled(ground: Ground, process: Process) -> list[dict[str, str]]:
    """The calls a worker has open when what it had sent to the database before its end has been dealt with there."""
    seen: list[dict[str, str]] | None = None
    while True:
        found = ground.open_calls(process)
        if found == seen:
            return found
        seen = found
        time.sleep(SETTLED_S)


class Fleet:
    """Workers with places of their own: one that dies is followed by another in its place."""

    def __init__(self, ground: Ground, env: dict[str, str], size: int) -> None:
        self._ground = ground
        self._env = env
        self.workers: list[Process] = [ground.worker(env, wait=False) for _ in range(size)]

    def ready(self) -> None:
        for worker in self.workers:
            worker.wait_for_line(r"\bready\.")

    def replace(self, place: int) -> Process:
        """Start another in this place; it is not waited for."""
        self.workers[place] = self._ground.worker(self._env, wait=False)
        return self.workers[place]

    def busy(self, place: int, within_s: float = 30.0) -> Process:
        """The worker in this place, once it has calls open. Raises AssertionError when none comes."""
        worker = self.workers[place]
        wait_until(lambda: self._ground.open_calls(worker), f"{worker.name} to be busy", within_s, every_s=0.02)
        return worker

    def busy_one(self, within_s: float = 60.0) -> int:
        """The place of a worker that has calls open, drawn from those that have."""

        def busy() -> list[int]:
            return [place for place, worker in enumerate(self.workers) if self._ground.open_calls(worker)]

        return self._ground.chance.choice(wait_until(busy, "a worker to be busy", within_s, every_s=0.02))
