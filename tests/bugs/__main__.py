"""Plants bugs and shows that the tests find them: `python -m tests.bugs` lists, `--run [NAME]` plants all, or one.

Each is planted alone in a copy of the tree; its test must be green there without it, and red with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bugs.catalogue import ROOT, Bug, bugs

_FAILED = 1  # pytest's exit code for "a test failed"; all others above 0 say that none was run
_VERDICTS = {0: "GREEN: nobody noticed", _FAILED: "red"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bugs", description=__doc__)
    parser.add_argument(
        "--run", nargs="?", const="", metavar="NAME", help="plant all bugs, or those with this in the name"
    )
    wanted: str | None = parser.parse_args().run
    found = [bug for bug in bugs() if wanted is None or wanted in bug.name]
    if not found:
        print(f"no bug has {wanted!r} in its name; `python -m tests.bugs` lists them")
        return 2
    if wanted is None:
        for bug in found:
            print(f"{bug.name:52} {bug.file:30} {_short(bug.test)}")
        return 0
    with tempfile.TemporaryDirectory(prefix="completar-bugs-") as folder:
        tree = Path(folder)
        _copy(tree)
        return 0 if _play(tree, found) else 1


def _play(tree: Path, found: Sequence[Bug]) -> bool:
    code, output = _pytest(tree, sorted({bug.test for bug in found}))
    if code != 0:
        print(f"without any bug the tests must be green, and they are not:\n{output}")
        return False
    caught = 0
    for bug in found:
        path = tree / bug.file
        clean = path.read_text(encoding="utf-8")
        path.write_text(bug.planted(clean), encoding="utf-8")
        began = time.monotonic()
        code, output = _pytest(tree, [bug.test])
        path.write_text(clean, encoding="utf-8")
        caught += code == _FAILED
        verdict = _VERDICTS.get(code, f"NO VERDICT, pytest says {code}")
        print(f"{bug.name:52} {verdict:10} {time.monotonic() - began:5.1f} s  {_short(bug.test)}", flush=True)
        if code not in _VERDICTS:
            print(output)
    print(f"{caught} of {len(found)} bugs were caught; without them all {len({b.test for b in found})} tests are green")
    return caught == len(found)


def _copy(tree: Path) -> None:
    """What git knows of, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)


def _pytest(tree: Path, names: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "--show-capture=no", "--tb=short", *names],
        cwd=tree,
        env={**os.environ, "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"},  # the same course each time
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout[-3000:] + done.stderr[-1000:]


def _short(test: str) -> str:
    return test.removeprefix("tests/").replace("test_the_second_of_two_moves_finds_what_the_first_left", "...")


if __name__ == "__main__":
    sys.exit(main())
