"""How fast and how big batches are, side by side with what one would use instead (docs/performance.md).

python -m tests.bench.batches               what `run.py bench` tells of batches, and no more
python -m tests.bench.batches --litellm     the same and LiteLLM's proxy, which is installed for it (.venv-litellm)
python -m tests.bench.batches --million     a batch of a million lines, and the end of one
python -m tests.bench.batches --only fair   one case
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import batch_runs, gateway, limits, million, report, runs
from tests.bench.batch_runs import Filed
from tests.bench.ground import Ground, Run
from tests.bench.report import Fact, Results
from tests.bench.waits import Wait
from tests.support.parts import PartMissing

COMMAND: Final = "python -m tests.bench.batches"
# Whoever measures may have keys, a database or a proxy in the environment: nothing of it may take part.
KEPT: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")
MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """How many lines, and for how many seconds a limit is used. `finish`: by case, of batches that are only written.

    spare  of those whose workers have so few slots that the cores have time to spare; 0: they are left out
    """

    one: int
    two: int
    spare: int
    large: int
    small: int  # how many batches of ten come beside the large one
    finish: dict[str, int]
    limit_s: float


FULL: Final = Size(20_000, 20_000, 8_000, 50_000, 5, {"finish_10k": 10_000, "finish_100k": 100_000}, limit_s=45.0)
QUICK: Final = Size(4_000, 4_000, 0, 15_000, 2, {}, limit_s=6.0)
_PEERS: Final = 2_000, 100  # of the httpx script alone: lines, and the semaphore at which it was best
_GATEWAY: Final = 1_500


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ours_alone() -> None:
    for name in set(os.environ) - set(KEPT):
        del os.environ[name]


class Case:
    """Runs a case and keeps what it found, whatever became of the ones before."""

    def __init__(self, found: Results, only: Collection[str] = ()) -> None:
        """`only`: every other case is passed over; empty: none is."""
        self._found = found
        self._only = only

    def __call__(self, name: str, measure: Callable[[], Run | Wait | Filed | Fact]) -> None:
        if self._only and name not in self._only:
            return
        try:
            result = measure()
        except Exception as fault:  # noqa: BLE001 - told in the report; the other cases have their figures
            say(f"{name}: NOT MEASURED: {fault}")
            self._found.failures[name] = str(fault).partition("\n")[0]
            return
        say(result.line())
        match result:
            case Run():
                self._found.runs[name] = result
            case Wait():
                self._found.waits[name] = result
            case Filed():
                self._found.batches[name] = result
            case _:
                self._found.facts[name] = result


def cases(ground: Ground, case: Case, size: Size) -> None:
    case("batch_one", lambda: batch_runs.filed(ground, size.one, 1))
    case("batch_two", lambda: batch_runs.filed(ground, size.two, 2))
    if size.spare:
        case("spare_one", lambda: batch_runs.filed(ground, size.spare, 1, slots=batch_runs.SPARE_SLOTS))
        case("spare_two", lambda: batch_runs.filed(ground, size.spare, 2, slots=batch_runs.SPARE_SLOTS))
    case("fair", lambda: batch_runs.fair(ground, size.large, size.small))
    case("enforced", lambda: limits.enforced(ground, size.limit_s))
    for name, lines in size.finish.items():
        case(name, lambda: batch_runs.finishing(ground, lines))  # noqa: B023 - called at once


def main() -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description="How fast and how big batches are.")
    parser.add_argument("--quick", action="store_true", help="smaller batches; figures are rougher")
    parser.add_argument(
        "--litellm", action="store_true", help="measure LiteLLM's proxy too, in an environment of its own"
    )
    parser.add_argument("--million", action="store_true", help="a batch of a million lines instead; takes minutes")
    parser.add_argument("--lines", type=int, default=MILLION, help="of that batch")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="this case; more than once: these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    options = parser.parse_args()
    if sys.platform != "linux":
        say("bench: CPU time and memory of processes are read from /proc, so it runs on Linux only")
        return 2
    ours_alone()
    size = QUICK if options.quick else FULL
    begun_s, found = time.monotonic(), Results()
    case = Case(found, options.only)
    try:
        with Ground(0.5 if options.quick else 5.0) as ground:
            if options.million:
                case("million", lambda: million.million(ground, options.lines, 20.0))
                case("finish_10k", lambda: batch_runs.finishing(ground, 10_000))
                case("finish_100k", lambda: batch_runs.finishing(ground, 100_000))
                case("finish_1m", lambda: batch_runs.finishing(ground, options.lines))
            else:
                case("script", lambda: runs.script(ground, *_PEERS))
                if options.litellm:
                    case("gateway", lambda: gateway.gateway(ground, _GATEWAY))
                cases(ground, case, size)
    except PartMissing as missing:
        say(f"bench: {missing}")
        return 2
    except KeyboardInterrupt:
        return 130
    promised = report.batch_targets(found, gateway=options.litellm, many=options.million)
    given = " ".join(word for word in sys.argv[1:] if word not in {"--json", str(options.json)})
    command = f"{COMMAND} {given}".strip()
    document = report.document(found, promised, seconds=time.monotonic() - begun_s, command=command)
    print(report.tables(document))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
