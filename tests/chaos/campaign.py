"""Runs scenarios, each in a process of its own and not for ever, and gathers what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.result import Profile
from tests.support.processes import ROOT

SMOKE_S: Final = 180.0  # ten times what it takes: the machine may have other things to do
# Whoever runs this may have keys, a database or a proxy in the environment: nothing of it may take part.
KEPT: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`full_s`: after so long the full profile counts as broken and is ended; the smoke profile, after SMOKE_S."""

    number: int
    name: str
    about: str
    full_s: float

    def most_s(self, profile: Profile) -> float:
        return SMOKE_S if profile == "smoke" else self.full_s


SCENARIOS: Final = (
    # The longest first, so that two at a time end together.
    Scenario(10, "recovery", "an orphan is claimed again", 300),
    Scenario(1, "kills", "kill -9 of working workers", 900),
    Scenario(2, "freezes", "workers stopped past their lease", 500),
    Scenario(3, "before_send", "workers die between claim and call", 600),
    Scenario(4, "redis_faults", "the broker killed, frozen, wiped, full, cut off", 600),
    Scenario(5, "postgres_stops", "the database crashes under load", 300),
    Scenario(6, "deploys", "a deploy again and again", 500),
    Scenario(7, "outage", "a provider is down, another hangs", 300),
    Scenario(8, "limits", "four workers share a provider's limits", 300),
    Scenario(9, "twins", "parallel posts with one key, the API killed", 500),
    Scenario(13, "lines", "late, thin, cut and reset connections", 300),
    Scenario(14, "clock", "a worker whose clock is wrong", 120),
    Scenario(12, "head_to_head", "beside Celery and a queue in SQL", 900),
)
NAMES: Final = {scenario.name: scenario for scenario in SCENARIOS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one scenario. `fault`: why it did not come to an end by itself; then there are no figures."""

    scenario: Scenario
    seconds: float
    figures: Mapping[str, Any]
    promises: Sequence[Mapping[str, Any]]
    fault: str = ""

    @property
    def kept(self) -> bool:
        return not self.fault and all(promise["kept"] for promise in self.promises)

    def document(self) -> dict[str, Any]:
        return {
            "number": self.scenario.number,
            "name": self.scenario.name,
            "about": self.scenario.about,
            "kept": self.kept,
            "seconds": round(self.seconds, 1),
            "fault": self.fault,
            "figures": dict(self.figures),
            "promises": [dict(promise) for promise in self.promises],
        }


def run(
    names: Sequence[str], profile: Profile, seed: int, *, at_once: int, told: Callable[[Outcome], None]
) -> list[Outcome]:
    """Run these scenarios, `at_once` of them at a time; `told` hears of each as it ends. In order of their number."""

    def one(name: str) -> Outcome:
        outcome = _one(NAMES[name], profile, seed)
        told(outcome)
        return outcome

    chosen = [scenario.name for scenario in SCENARIOS if scenario.name in names]
    with ThreadPoolExecutor(at_once) as pool:
        return sorted(pool.map(one, chosen), key=lambda outcome: outcome.scenario.number)


def _one(scenario: Scenario, profile: Profile, seed: int) -> Outcome:
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"completar-chaos-{scenario.name}-") as folder:
        target = Path(folder, "result.json")
        command = [sys.executable, "-m", "tests.chaos.one", scenario.name, profile, str(seed), str(target)]
        # What it started dies with it: every process of ours asks the kernel for that.
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        try:
            output, _ = process.communicate(timeout=scenario.most_s(profile))
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\nnot over after {scenario.most_s(profile):g} s"
        except BaseException:
            process.kill()
            raise
        seconds = time.monotonic() - began
        if not target.exists():
            return Outcome(scenario, seconds, {}, (), fault=output.strip()[-4000:] or "it ended without a word")
        told = json.loads(target.read_text(encoding="utf-8"))
    return Outcome(scenario, seconds, told["figures"], told["promises"])
