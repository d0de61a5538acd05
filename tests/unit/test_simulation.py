"""300 fleets under 300 seeds; `python -m tests.simulation --seeds 10000` for a night."""

from __future__ import annotations

import pytest

from tests import simulation
from tests.simulation import S, World


def test_no_seed_breaks_a_promise() -> None:
    assert simulation.play(range(300)) == []


def test_the_seeds_meet_what_they_are_for() -> None:
    """A simulation in which nothing goes wrong proves nothing."""
    worlds = [World(seed) for seed in range(60)]
    for world in worlds:
        world.run()
    jobs = [job for world in worlds for job in world.jobs.values()]
    assert {job.status for job in jobs} == {S.COMPLETED, S.FAILED, S.CANCELLED, S.EXPIRED}
    states = {row.state.value for job in jobs for row, *_ in job.rows}
    assert states >= {"answered", "failed", "lost", "skipped", "superseded"}
    assert sum(job.deaths > 0 for job in jobs) > 10
    assert any(len(job.rows) > 5 for job in jobs)
    assert any(job.convicted for job in jobs)
    assert any(job.adopted for job in jobs)
    assert any(job.hedged for job in jobs)
    rows = [row for world in worlds for row in world.pauses.rows.values()]
    assert any(row.probes and row.closed is not None for row in rows)


def test_a_seed_plays_the_same_each_time() -> None:
    first, again = World(17), World(17)
    for world in (first, again):
        world.run()
    assert [(j.id, j.status, [r for r, *_ in j.rows]) for j in first.jobs.values()] == [
        (j.id, j.status, [r for r, *_ in j.rows]) for j in again.jobs.values()
    ]


def test_the_auditor_speaks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that does not look at its gate is seen."""
    monkeypatch.setattr("tests.simulation.Gate.look", lambda *_a, **_k: None)
    assert simulation.play(range(60))
