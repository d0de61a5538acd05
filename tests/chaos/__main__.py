"""`python3 run.py chaos`: break things on purpose, and count what was lost (docs/guarantees.md)."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

from tests.chaos import campaign, report
from tests.chaos.campaign import NAMES, SCENARIOS, Outcome


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(outcome: Outcome) -> None:
    what = "kept" if outcome.kept else "BROKEN"
    say(f"{outcome.scenario.number:>3} {outcome.scenario.name}: {what}, {outcome.seconds:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=report.COMMAND, description="Break things on purpose and count what was lost."
    )
    parser.add_argument("--profile", choices=("smoke", "full"), default="smoke", help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="of an earlier run, to meet the same faults (default: drawn)")
    parser.add_argument("--only", action="append", choices=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--at-once", type=int, metavar="N", help="scenarios at a time (smoke 2, full 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("chaos.json"), help="default: %(default)s")
    options = parser.parse_args()
    if sys.platform != "linux":
        say("chaos: processes are frozen and killed in Linux's ways, so it runs on Linux only")
        return 2
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    at_once = options.at_once or (2 if options.profile == "smoke" else 1)
    names = options.only or [scenario.name for scenario in SCENARIOS]
    say(f"profile {options.profile}, seed {seed}")
    began = time.monotonic()
    try:
        outcomes = campaign.run(names, options.profile, seed, at_once=at_once, told=_told)
    except KeyboardInterrupt:
        return 130
    told = report.document(outcomes, options.profile, seed, time.monotonic() - began)
    print(report.table(told))
    options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if told["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
