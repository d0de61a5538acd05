"""Which worker looks whether a pause is over, where a call must pass two of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.simulated_pauses import Connections, PauseRows
from worker import clock
from worker.domain.failure import Lane
from worker.domain.pause import Cause, PauseKind, Scope, mark_of
from worker.domain.route import Key, Target
from worker.limits.gate import Gate
from worker.services import pauses as watching
from worker.services.pauses import HEARD_S, YIELD_S, PauseWatch

KEY = Key("K1", "acme", "1")
TARGET = Target("p", "m", "P", (KEY,))
SPENT, REFUSED = Scope("account", "p", "acme"), Scope("key", "p", "K1", tag="1")


class Fleet:
    """Two workers, a spent account, its key refused, and a job that waits for both."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        mark = mark_of([SPENT, REFUSED])
        self.job = SimpleNamespace(id="job_1", lane=Lane.BATCH, parked_for=mark, run_at=0.0)
        self.rows = PauseRows(lambda: self.now_s, lambda: [self.job])
        self.rows.claim = lambda _worker, job: setattr(job, "parked_for", mark)  # it cannot pass, and is parked again
        self.rows.begin(None, Cause(SPENT, PauseKind.QUOTA, "no money"))
        self.rows.begin(None, Cause(REFUSED, PauseKind.AUTH, "no such key"))
        for name in ("pauses", "parked", "attempts"):
            monkeypatch.setattr(watching, name, self.rows)
        monkeypatch.setattr(clock, "monotonic_s", lambda: self.now_s)
        engine: Any = SimpleNamespace(
            on_loop=lambda call, *args: call(*args), adopt=lambda _: None, wake=lambda _: None
        )
        self.gates, self.watches = [Gate({}), Gate({})], []
        for n, gate in enumerate(self.gates):
            database: Any = Connections(SimpleNamespace(id=f"wrk_{n}"))
            watch = PauseWatch(database, engine, list(Lane), lambda n=n: f"wrk_{n}", {})
            watch.load()
            watch.connect(gate)
            self.watches.append(watch)

    def turn(self, n: int, at_s: float) -> None:
        self.now_s = at_s
        self.watches[n].turn()

    def probes(self) -> list[int]:
        return [self.rows.rows[scope].probes for scope in (SPENT, REFUSED)]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet(monkeypatch)
    fleet.turn(0, 250.0)  # the account is due
    assert fleet.probes() == [1, 0]
    return fleet


def test_who_may_pass_one_of_two_pauses_goes_first_at_the_other(fleet: Fleet) -> None:
    fleet.turn(1, 300.1)
    assert fleet.probes() == [1, 0], "it may not pass the other: a call of it would prove nothing"
    fleet.turn(0, 300.2)
    assert fleet.probes() == [1, 1]
    assert fleet.gates[0].look(TARGET, KEY, 300.2) is None
    assert fleet.gates[1].look(TARGET, KEY, 300.2) is not None


def test_of_a_worker_that_does_not_come_nobody_waits_for_long(fleet: Fleet) -> None:
    fleet.turn(1, 300.0 + YIELD_S)
    assert fleet.probes() == [1, 1]


def test_a_leave_that_was_used_gives_nobody_the_first_turn(fleet: Fleet) -> None:
    fleet.gates[0].pauses.enter(TARGET, KEY)
    fleet.turn(0, 300.1)
    assert fleet.probes() == [1, 0]


def test_a_job_is_not_woken_because_its_pause_is_not_written_yet(fleet: Fleet) -> None:
    unwritten = Scope("target", "p", "P/m")
    fleet.job.parked_for = mark = mark_of([unwritten, SPENT])
    fleet.turn(1, 251.0)
    fleet.turn(1, 251.0 + HEARD_S / 2)
    fleet.rows.begin(None, Cause(unwritten, PauseKind.QUOTA, "no quota"))
    fleet.turn(1, 251.0 + 2 * HEARD_S)
    assert fleet.job.parked_for == mark


def test_a_job_whose_pause_nobody_writes_goes_on(fleet: Fleet) -> None:
    fleet.job.parked_for = mark = mark_of([Scope("target", "p", "P/m")])
    fleet.turn(1, 251.0)
    assert fleet.job.parked_for == mark
    fleet.turn(1, 251.0 + HEARD_S)
    assert fleet.job.parked_for is None
