"""`python3 run.py bench`: Completar and what one would use instead, in one run on one machine (docs/performance.md)."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import batches, hooks, panels, report, runs, waits
from tests.bench.batches import Case, ours_alone, say
from tests.bench.ground import Ground
from tests.bench.report import Results
from tests.support.parts import PartMissing

SEMAPHORES: Final = (50, 100, 200)


@dataclass(frozen=True, slots=True)
class Size:
    """How much each run does: enough for some ten seconds (with --quick three) on two ordinary cores."""

    naive: int
    script: int
    script_rounds: int  # of a short try: requests for each place of its semaphore
    interactive: int
    one: int
    two: int
    skewed: int
    embedded: int
    large: int  # 0: left out
    panels: int
    batches: batches.Size
    deliveries: int
    beside_hooks: int  # jobs of each of the runs that are compared
    pairs: int
    wait_s: float
    quiet_s: float


FULL: Final = Size(
    *(300, 2_000, 5, 8_000, 20_000, 30_000, 10_000, 10_000, 15_000, 3_000),
    *(batches.FULL, 12_000, 12_000, 4),
    wait_s=20.0,
    quiet_s=5.0,
)
QUICK: Final = Size(
    *(80, 400, 3, 2_000, 4_000, 6_000, 5_000, 3_000, 0, 800),
    *(batches.QUICK, 3_000, 3_000, 1),
    wait_s=4.0,
    quiet_s=0.5,
)


def measured(size: Size) -> Results:
    """Every case, whatever became of the ones before."""
    found = Results()

    case = Case(found)

    with Ground(size.quiet_s) as ground:
        case("naive", lambda: runs.naive(ground, size.naive))
        for at_once in SEMAPHORES:
            case(f"script-{at_once}", lambda: runs.script(ground, size.script_rounds * at_once, at_once))  # noqa: B023 - called at once
        best = max(SEMAPHORES, key=lambda at_once: getattr(found.runs.get(f"script-{at_once}"), "per_s", 0.0))
        case("script", lambda: runs.script(ground, size.script, best))
        case("interactive", lambda: runs.interactive(ground, size.interactive))
        case("one", lambda: runs.batch(ground, size.one, 1))
        case("two", lambda: runs.batch(ground, size.two, 2))
        case("skewed", lambda: runs.lognormal(ground, size.skewed))
        if size.large:
            case("large", lambda: runs.large(ground, size.large))
        case("embedded", lambda: runs.embedded(ground, size.embedded))
        batches.cases(ground, case, size.batches)
        case("panels", lambda: panels.rate(ground, size.panels))
        case("deliveries", lambda: hooks.deliveries(ground, size.deliveries))
        case("hanging", lambda: hooks.hanging(ground, size.beside_hooks, size.pairs))
        case("cancels", lambda: hooks.cancels(ground, size.beside_hooks))
        rate = found.runs["one"].per_s if "one" in found.runs else 2_000.0
        backlog = int(1.5 * rate * size.wait_s) + 2_000  # more than can be done meanwhile
        case("idle", lambda: waits.idle(ground, size.wait_s))
        case("panel", lambda: waits.panel(ground, size.wait_s))
        case("beside", lambda: waits.beside(ground, size.wait_s, backlog))
        case("within", lambda: waits.within(ground, size.wait_s, backlog))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog=report.COMMAND, description="Measure Completar against what one would write.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--quick", action="store_true", help="in a good two minutes; rates are rougher")
    parser.add_argument(
        "--from", type=Path, dest="earlier", metavar="FILE", help="only print what an earlier run wrote"
    )
    options = parser.parse_args()
    if options.earlier is not None:
        print(report.tables(json.loads(options.earlier.read_text(encoding="utf-8"))))
        return 0
    if sys.platform != "linux":
        say("bench: CPU time and memory of processes are read from /proc, so it runs on Linux only")
        return 2
    ours_alone()
    begun_s = time.monotonic()
    try:
        found = measured(QUICK if options.quick else FULL)
    except PartMissing as missing:
        say(f"bench: {missing}")
        return 2
    except KeyboardInterrupt:
        return 130
    document = report.document(
        found,
        [*report.targets(found), *report.batch_targets(found)],
        seconds=time.monotonic() - begun_s,
        command=report.COMMAND + " --quick" * options.quick,
    )
    print(report.tables(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
