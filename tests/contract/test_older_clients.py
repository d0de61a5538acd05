"""The acceptance tests once more, with older majors of OpenAI's client: people update a client when they must.

One environment holds one version. So each older one lies in a folder of its own (`run.py` installs it), which goes
before everything else in the path of a process that runs the same tests against the same server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.parts import PartMissing
from tests.support.processes import ROOT

_ACCEPTANCE: Final = ("tests/contract/test_batch_contract.py", "tests/contract/test_responses.py")
_RUN: Final = """
import sys, pytest
major, *arguments = sys.argv[1:]
code = pytest.main(arguments)
import openai  # not before: pytest must see the modules of its plugins first
assert openai.__version__.startswith(major + "."), openai.__file__
sys.exit(code)
"""


@pytest.mark.parametrize("major", ["2", "1"])
def test_the_acceptance_tests_pass_with_an_older_major(major: str) -> None:
    folder = Path(sys.prefix) / "clients" / f"openai-{major}"
    if not (folder / "openai").is_dir():
        why = f"`python3 run.py test` installs requirements-openai-{major}.txt, if the network is there"
        pytest.skip(str(PartMissing(f"openai-{major}", why)))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MISSING_PARTS"))}
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    # One database is enough: what differs is the client.
    words = ["-q", "-m", "acceptance and not postgres", "-p", "no:xdist", "-p", "no:randomly", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, major, *words, *_ACCEPTANCE],
        cwd=ROOT,
        env={**env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
