"""14. A worker whose clock is ten minutes wrong, one ahead and one behind, works beside others and dies as others do.

It takes libfaketime, which stands between a process and the system's clock; the product itself has no hook for it.
Where the library is not installed (as a package of the system, or into .venv), the result says so.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Final

from tests.chaos.ground import Ground
from tests.chaos.nemesis import Nemesis
from tests.chaos.result import Profile, Result, standing
from tests.support.processes import Process

FOLDERS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib", sys.prefix)
JOBS: Final = {"smoke": 60, "full": 1_000}
OFFSETS: Final = ("+600s", "-600s")


def run(ground: Ground, profile: Profile) -> Result:
    library = _library()
    if library is None:
        return Result({"not_tested": "libfaketime is not installed"})
    ground.plan(low_s=0.05, high_s=0.25)
    env = ground.environment(SLOTS="4")
    nemesis = Nemesis(ground)
    submitter = ground.submitter(env)
    # Only what people call the time is moved: a steady clock that stands or jumps is no clock of this world.
    wrong = {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    workers: list[Process] = [ground.worker({**env, **wrong, "FAKETIME": offset}, wait=False) for offset in OFFSETS]
    workers.append(ground.worker(env, wait=False))
    for worker in workers:
        worker.wait_for_line(r"\bready\.")
    submitter.mixed(JOBS[profile])
    for worker in workers[:2]:
        worker.wait_for(partial(ground.open_calls, worker), "being busy")
        nemesis.kill(worker)
    ground.until_done(120)
    verdict = ground.checked()
    return Result({"offsets": ", ".join(OFFSETS), **verdict.figures()}, standing(verdict))


def _library() -> Path | None:
    for folder in FOLDERS:
        for found in sorted(Path(folder).glob("**/libfaketime.so.1")):
            return found
    return None
