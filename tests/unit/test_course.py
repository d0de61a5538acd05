"""How a job's way is rebuilt from its rows after a crash or a park."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow
from worker.domain.route import Needs, Route, Target
from worker.domain.state import AttemptState
from worker.domain.walk import Ask, Walk
from worker.services.course import replay
from worker.store.attempts import Attempt

K, S = FailureKind, AttemptState
BEGAN = datetime(2026, 11, 22, tzinfo=UTC)
TARGETS = tuple(Target(name, "m", name.title()) for name in "abc")


def call(
    number: int,
    target: str,
    sent_s: float | None,
    ended_s: float | None,
    state: AttemptState = S.FAILED,
    kind: FailureKind | None = K.EMPTY_OUTPUT,
) -> Attempt:
    row = AttemptRow(f"att_{number}", "job_1", "clm_1", number, state, f"{target}/m", target, "m", kind=kind)
    sent, ended = (None if at is None else BEGAN + timedelta(seconds=at) for at in (sent_s, ended_s))
    return Attempt(row, sent, ended)


def replayed(*history: Attempt, most: int = 6) -> Walk:
    walk = Walk(Route("r", TARGETS, hedge_after_s=1.0), Lane.INTERACTIVE, Needs(frozenset({"completion"}), 1), most)
    replay(walk, history)
    return walk


@pytest.mark.parametrize(
    ("history", "hedged"),
    [
        ([], False),
        ([call(1, "a", 0, 1), call(2, "b", 1, 2)], False),
        ([call(1, "a", None, None, S.SKIPPED), call(2, "b", 0, 1)], False),
        ([call(1, "a", 0, 3), call(2, "b", 1, 2)], True),
        ([call(1, "a", 0, 9, S.LOST, K.INTERRUPTED), call(2, "b", 1, 9, S.LOST, K.INTERRUPTED)], True),
        ([call(1, "a", 0, 9, S.CANCELLED, K.INTERRUPTED), call(2, "b", 1, 9, S.CANCELLED, K.INTERRUPTED)], True),
        ([call(1, "a", 0, 1), call(2, "b", 1, 5), call(3, "c", 2, 3)], True),
    ],
)
def test_two_calls_that_were_open_at_once_are_the_one_hedge_of_a_job(history: list[Attempt], hedged: bool) -> None:
    walk = replayed(*history)
    assert walk.hedged is hedged
    assert walk.hedges is not hedged


def test_failures_count_in_the_order_in_which_they_came() -> None:
    """The second call failed first; what the first one asks for is what is due."""
    retry = call(1, "a", 0, 3, kind=K.SERVER_ERROR)
    walk = replayed(retry, call(2, "b", 1, 2))
    assert walk.calls == 2
    assert walk.last is not None
    assert walk.last.kind is K.SERVER_ERROR
    step = walk.next()
    assert isinstance(step, Ask)
    assert step.target.name == "a/m"


def test_both_calls_of_a_hedge_count_and_those_that_were_hung_up_do_not() -> None:
    both = replayed(call(1, "a", 0, 3), call(2, "b", 1, 2))
    hung_up = replayed(call(1, "a", 0, 9, S.CANCELLED, K.INTERRUPTED), call(2, "b", 1, 9, S.CANCELLED, K.INTERRUPTED))
    assert (both.calls, hung_up.calls) == (2, 0)
