"""During a deploy the release before works on the new schema, beside the new one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.support import scripted_provider as script
from tests.support.processes import ROOT, Processes, procfile
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from worker.domain.failure import Lane
from worker.domain.state import JobStatus

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

BEFORE: Final = "363c213588"  # the last commit that knows no migration after 0002


@pytest.fixture
def old_tree(tmp_path: Path) -> Path:
    """The code of the release before, from the history; a shallow clone has none."""
    git = shutil.which("git")
    archive = None
    if git is not None and (ROOT / ".git").exists():
        archive = subprocess.run(
            [git, "archive", "--format=tar", BEFORE], cwd=ROOT, capture_output=True, check=False, timeout=30
        )
    if archive is None or archive.returncode != 0:
        pytest.skip("the history does not go back to the release before: a shallow clone, or no git")
    folder = tmp_path / "before"
    folder.mkdir()
    subprocess.run(["tar", "-xf", "-"], input=archive.stdout, cwd=folder, check=True, timeout=30)
    return folder


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine", delay_s=0.02))
        yield running


def test_an_old_worker_and_a_new_one_share_the_work(
    old_tree: Path, postgres_url: str, provider: ScriptedProvider, tmp_path: Path, processes: Processes
) -> None:
    with closing(Station(postgres_url, provider, tmp_path, DRAIN_S="10", SLOTS="20")) as station:
        env = {**station.env, "PYTHONPATH": str(old_tree)}
        command = ["/bin/sh", "-c", f"{procfile()['worker']} --hostname before@test"]
        old = processes.start("before", command, env, cwd=old_tree)
        old.wait_for_line(r"\bready\.")
        alone = station.submit(30, lane=Lane.BATCH, prompt="alone") + station.submit(3)
        assert {job.status for job in station.ended(alone)} == {JobStatus.COMPLETED}
        new = processes.worker(station.env)
        together = station.submit(300, lane=Lane.BATCH, prompt="together")
        assert {job.status for job in station.ended(together)} == {JobStatus.COMPLETED}
        assert len(provider.requests) == len(alone) + len(together), "no call is made twice"
        assert (old.stop(), new.stop()) == (0, 0)
        for process in (old, new):
            assert '"level": "error"' not in process.output, process.tail()
            assert "Traceback" not in process.output, process.tail()
