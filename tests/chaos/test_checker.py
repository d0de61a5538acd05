"""The checker must see what is wrong: histories with a fault planted in each, beside one that is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.chaos.books import Books, Call, Job, Move
from tests.chaos.checker import INPUT_NANO, OUTPUT_NANO, check
from tests.chaos.history import Event


@dataclass
class World:
    """Two jobs: the first answered at once, the second after a worker died with its call open."""

    told: list[Event] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)

    def tell(self, who: str, what: str, **of: Any) -> None:
        self.told.append(Event(who, what, float(len(self.told)), of))

    def broken(self) -> set[str]:
        return {breach.promise for breach in check(self.told, Books(self.jobs, self.calls, self.moves)).breaches}

    def job(self, index: int, **changes: Any) -> None:
        self.jobs[index] = replace(self.jobs[index], **changes)

    def call(self, index: int, **changes: Any) -> None:
        self.calls[index] = replace(self.calls[index], **changes)

    def without(self, what: str, **of: Any) -> None:
        self.told = [e for e in self.told if e.what != what or any(e.of.get(k) != v for k, v in of.items())]

    def ask(self, n: int, prompt: str, *, answered: bool = True) -> None:
        self.tell("provider", "send", n=n, prompt=prompt, provider="first")
        if answered:
            self.tell("provider", "answer", n=n, text=f"answer {n} to {prompt}", input=10, output=5)


_COST = 10 * INPUT_NANO + 5 * OUTPUT_NANO


def _move(job: str, was: str, became: str, version: int) -> Move:
    return Move(job, was, became, version - 1, version, "wrk_1", float(version))


@pytest.fixture
def world() -> World:
    made = World()
    for name in ("a", "b"):
        made.tell("client", "submit-sent", prompt=f"ask {name}")
        made.tell("client", "submit-ok", prompt=f"ask {name}", job=f"job_{name}")
    made.ask(1, "ask a")
    made.ask(2, "ask b")  # answered to a worker that is dead
    made.tell("nemesis", "kill", pid=1, open=[{"job": "job_b", "call": "att_2"}])
    made.ask(3, "ask b")
    made.jobs = [
        Job("job_a", "ask a", "completed", 3, "answer 1 to ask a", None, 1, 10, 5, _COST, cost_complete=True),
        Job("job_b", "ask b", "completed", 5, "answer 3 to ask b", None, 2, 10, 5, _COST, cost_complete=False),
    ]
    made.calls = [
        Call("att_1", "job_a", "answered", None, "req-1", 10, 5, _COST),
        Call("att_2", "job_b", "lost", "interrupted", None, None, None, None),
        Call("att_3", "job_b", "answered", None, "req-3", 10, 5, _COST),
    ]
    made.moves = [
        _move("job_a", "queued", "in_progress", 2),
        _move("job_a", "in_progress", "completed", 3),
        _move("job_b", "queued", "in_progress", 2),
        _move("job_b", "in_progress", "queued", 3),
        _move("job_b", "queued", "in_progress", 4),
        _move("job_b", "in_progress", "completed", 5),
    ]
    return made


def test_a_history_that_is_well_breaks_nothing(world: World) -> None:
    verdict = check(world.told, Books(world.jobs, world.calls, world.moves))
    assert verdict.breaches == ()
    counts = verdict.counts
    assert (counts.jobs, counts.completed, counts.sends, counts.extra) == (2, 2, 3, 1)
    assert (counts.in_flight, counts.reached, counts.lost_calls, counts.unknown) == (1, 1, 1, 1)


def _vanished(w: World) -> None:
    del w.jobs[0], w.calls[0], w.moves[:2]
    w.without("send", n=1)
    w.without("answer", n=1)


def _appeared(w: World) -> None:
    w.without("submit-sent", prompt="ask a")


def _never_ended(w: World) -> None:
    w.job(0, status="in_progress", version=2, text=None)
    del w.moves[1]


def _ended_twice(w: World) -> None:
    w.moves.append(_move("job_a", "in_progress", "completed", 4))
    w.job(0, version=4)


def _left_its_end(w: World) -> None:
    w.moves.append(_move("job_a", "completed", "failed", 4))
    w.job(0, status="failed", version=4)


def _overwritten_without_a_word(w: World) -> None:
    w.job(0, version=4)


def _version_stood_still(w: World) -> None:
    w.moves[1] = Move("job_a", "in_progress", "completed", 2, 2, "wrk_1", 2.0)
    w.job(0, version=2)


def _doubled(w: World) -> None:
    w.jobs.append(replace(w.jobs[0], id="job_c"))
    w.calls.append(replace(w.calls[0], id="att_9", job_id="job_c"))
    w.moves += [replace(move, job_id="job_c") for move in w.moves[:2]]


def _failed_for_nothing(w: World) -> None:
    w.moves[1] = _move("job_a", "in_progress", "failed", 3)
    w.job(0, status="failed", error_kind="internal", text=None)


def _answer_of_another(w: World) -> None:
    w.job(0, text="answer 3 to ask b")


def _answer_made_up(w: World) -> None:
    w.job(1, text="answer 7 to ask b")


def _call_without_a_row(w: World) -> None:
    del w.calls[1]
    w.job(1, cost_complete=True)


def _row_without_a_call(w: World) -> None:
    w.call(0, request_id="req-99")


def _left_open(w: World) -> None:
    w.call(1, state="sent")


def _one_call_on_two_rows(w: World) -> None:
    w.call(1, state="superseded", request_id="req-3", input=10, output=5, cost_nano=_COST)


def _tokens_of_another(w: World) -> None:
    w.call(0, input=11)
    w.job(0, input=11)


def _settled_twice(w: World) -> None:
    w.job(0, input=20, output=10, cost_nano=2 * _COST)


def _cost_said_to_be_whole(w: World) -> None:
    w.job(1, cost_complete=True)


def _sent_again_for_nothing(w: World) -> None:
    w.ask(4, "ask a")
    w.calls.append(Call("att_4", "job_a", "answered", None, "req-4", 10, 5, _COST))
    w.job(0, input=20, output=10, cost_nano=2 * _COST)


def _lost_while_its_worker_lives(w: World) -> None:
    w.without("kill")


_PLANTED: list[tuple[Callable[[World], None], str]] = [
    (_vanished, "lost"),
    (_appeared, "lost"),
    (_never_ended, "stuck"),
    (_ended_twice, "twice"),
    (_left_its_end, "twice"),
    (_overwritten_without_a_word, "twice"),
    (_version_stood_still, "twice"),
    (_doubled, "twice"),
    (_failed_for_nothing, "failed"),
    (_answer_of_another, "foreign"),
    (_answer_made_up, "foreign"),
    (_call_without_a_row, "unrecorded"),
    (_row_without_a_call, "unrecorded"),
    (_left_open, "unrecorded"),
    (_one_call_on_two_rows, "unrecorded"),
    (_tokens_of_another, "money"),
    (_settled_twice, "money"),
    (_cost_said_to_be_whole, "money"),
    (_sent_again_for_nothing, "extra"),
    (_lost_while_its_worker_lives, "extra"),
]


@pytest.mark.parametrize(("plant", "promise"), _PLANTED, ids=[plant.__name__.strip("_") for plant, _ in _PLANTED])
def test_a_planted_fault_is_seen(world: World, plant: Callable[[World], None], promise: str) -> None:
    plant(world)
    assert promise in world.broken()


def test_a_job_may_end_as_failed_when_three_workers_died_with_it(world: World) -> None:
    """So that one poisonous job does not kill worker after worker: it is counted, and no breach."""
    world.without("submit-ok", prompt="ask a")
    world.without("submit-sent", prompt="ask a")
    del world.jobs[0], world.calls[0], world.moves[:2]
    world.told = [e for e in world.told if e.who != "provider" or e.of["n"] != 1]
    world.ask(4, "ask b", answered=False)
    world.tell("nemesis", "kill", pid=2, open=[{"job": "job_b", "call": "att_3"}])
    world.tell("nemesis", "kill", pid=3, open=[{"job": "job_b", "call": "att_4"}])
    world.calls = [Call(f"att_{n}", "job_b", "lost", "interrupted", None, None, None, None) for n in (2, 3, 4)]
    world.job(0, status="failed", error_kind="poison", deaths=3, text=None, input=None, output=None, cost_nano=None)
    world.moves[-1] = _move("job_b", "in_progress", "failed", 5)
    verdict = check(world.told, Books(world.jobs, world.calls, world.moves))
    assert verdict.breaches == ()
    assert verdict.counts.given_up == 1


def test_a_late_answer_beside_the_result_is_no_breach(world: World) -> None:
    world.call(1, state="superseded", request_id="req-2", input=10, output=5, cost_nano=_COST)
    assert world.broken() == set()
