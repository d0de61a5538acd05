"""One scenario in a process of its own: `python -m tests.chaos.one NAME PROFILE SEED RESULT.json`."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import cast

from tests.chaos.ground import Ground
from tests.chaos.result import Profile, Result


def main() -> int:
    name, profile, seed, target = sys.argv[1:5]
    folder = Path(target).parent
    scenario = import_module(f"tests.chaos.scenarios.{name}")
    with Ground(f"{name}-{seed}", folder) as ground:
        try:
            result: Result = scenario.run(ground, cast("Profile", profile))
        except Exception:  # noqa: BLE001 - told to whoever started us
            traceback.print_exc()
            for process in ground.processes.all[-6:]:
                print(process.tail(15), file=sys.stderr)
            return 1
    told = {"figures": dict(result.figures), "promises": [asdict(promise) for promise in result.promises]}
    Path(target).write_text(json.dumps(told), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
