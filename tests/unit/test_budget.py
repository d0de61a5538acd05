"""The arithmetic of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.budget import (
    OUTPUT_TOKENS,
    Balance,
    Purse,
    Settled,
    charged,
    held_in_turn,
    maybe_billed,
    most_tokens,
    settled,
)
from worker.domain.failure import FailureKind
from worker.domain.job import AttemptRow
from worker.domain.money import NANO, Usage, in_dollars, nano_of
from worker.domain.state import AttemptState

K, S = FailureKind, AttemptState
MONEY = st.integers(0, 10**12)
ROW = AttemptRow("att_1", "job_1", "clm_1", 1, S.SENT, "a/m", "a", "m", held_nano=100)


@pytest.mark.parametrize(
    ("kind", "request_", "size", "tokens"),
    [
        ("completion", {}, 400, Usage(100, OUTPUT_TOKENS)),
        ("completion", {"max_tokens": 7}, 401, Usage(101, 7)),
        ("completion", {"max_tokens": 7, "max_completion_tokens": 9}, 4, Usage(1, 9)),
        ("embedding", {}, 400, Usage(100, 0)),
        ("prediction", {"parameters": {"max_tokens": 30_000}}, 400, Usage(100, 30_000)),
        ("prediction", {"parameters": {"max_tokens": 7, "max_completion_tokens": 9}}, 4, Usage(1, 9)),
        ("prediction", {"parameters": {}}, 400, Usage(100, OUTPUT_TOKENS)),
    ],
)
def test_a_call_may_come_to_its_size_and_its_ceiling(
    kind: str, request_: dict[str, object], size: int, tokens: Usage
) -> None:
    assert most_tokens(kind, request_, size) == tokens  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "kind", "usage", "cost", "takes"),
    [
        (S.ANSWERED, None, Usage(1, 1), 40, 40),
        (S.ANSWERED, None, Usage(1, 1), 0, 0),
        (S.ANSWERED, None, Usage(), None, 100),
        (S.SUPERSEDED, None, Usage(), None, 100),
        (S.LOST, K.INTERRUPTED, Usage(), None, 100),
        (S.CANCELLED, K.CANCELLED, Usage(), None, 100),
        (S.CANCELLED, None, Usage(), None, 0),  # it never left
        (S.SKIPPED, None, Usage(), None, 0),
        (S.FAILED, K.TIMEOUT, Usage(), None, 100),
        (S.FAILED, K.SCHEMA_MISMATCH, Usage(), None, 100),
        (S.FAILED, K.SCHEMA_MISMATCH, Usage(1, 1), 40, 40),
        (S.FAILED, K.SERVER_ERROR, Usage(1), None, 100),
        (S.FAILED, K.SERVER_ERROR, Usage(), None, 0),
        (S.FAILED, K.AUTH, Usage(), None, 0),
        (S.FAILED, K.CONNECTION, Usage(), None, 100),
        (S.FAILED, K.CONNECTION, Usage(), 0, 0),  # nothing had left
    ],
)
def test_an_unknown_cost_takes_what_was_held_unless_nothing_was_billed(
    state: AttemptState, kind: FailureKind | None, usage: Usage, cost: int | None, takes: int
) -> None:
    row = replace(ROW, state=state, kind=kind, usage=usage, cost_nano=cost)
    assert charged(row) == takes
    assert maybe_billed(row) == (takes == 100 or cost is not None)


@pytest.mark.parametrize(("status", "billed"), [(None, False), (199, False), (200, True), (299, True), (300, False)])
def test_a_good_status_may_be_billed_whatever_came_with_it(status: int | None, billed: bool) -> None:
    row = replace(ROW, state=S.FAILED, kind=K.SERVER_ERROR, http_status=status)
    assert maybe_billed(row) is billed


def test_a_purse_refuses_what_could_pass_the_bound_and_nothing_else() -> None:
    purse = Purse.after(250, [replace(ROW, state=S.LOST), replace(ROW, state=S.FAILED, kind=K.AUTH)])
    assert purse.spent_nano == 100
    assert purse.refusal("a/m", 150) is None
    purse.hold(ROW)
    beside = purse.refusal("a/m", 51)
    assert beside is not None, "a call that is open may still cost what is held for it"
    assert "$0.0000001 is held for open calls" in beside.message
    purse.pay(replace(ROW, state=S.ANSWERED, cost_nano=1))
    refusal = purse.refusal("a/m", 150)
    assert refusal is not None
    assert refusal.kind is K.BUDGET
    assert refusal.message == ("max_cost is $0.00000025: $0.000000101 is spent, and a call of a/m may cost $0.00000015")
    assert Purse(None, 10**9).refusal("a/m", 10**9) is None


@given(MONEY, MONEY, MONEY, st.lists(MONEY, max_size=20))
def test_holds_in_turn_never_pass_the_budget_and_refuse_only_what_does_not_fit(
    budget: int, spent: int, held: int, estimates: list[int]
) -> None:
    before = Balance(budget, spent, held)
    after, refusals = held_in_turn(before, estimates)
    taken = [nano for nano, refusal in zip(estimates, refusals, strict=True) if refusal is None]
    assert after == replace(before, held_nano=held + sum(taken))
    assert not taken or after.room_nano >= 0
    room = before.room_nano
    for nano, refusal in zip(estimates, refusals, strict=True):
        assert (refusal is None) == (nano <= room)
        room -= nano if refusal is None else 0


def _changes(rows: Sequence[AttemptRow]) -> Settled:
    """Of one call, stored in these states one after another."""
    return sum((settled(a.state, 100, b) for a, b in pairwise(rows)), Settled())


@given(st.lists(st.sampled_from([S.ANSWERED, S.FAILED, S.SUPERSEDED, S.CANCELLED]), min_size=1, max_size=3), MONEY)
def test_a_call_gives_its_hold_back_once_and_is_charged_once(states: list[AttemptState], cost: int) -> None:
    over = [replace(ROW, state=state, cost_nano=cost, kind=K.TIMEOUT) for state in states]
    assert _changes([ROW, *over]) == Settled(100, cost)


def test_an_answer_after_a_loss_corrects_what_was_charged() -> None:
    lost, late = replace(ROW, state=S.LOST), replace(ROW, state=S.SUPERSEDED, cost_nano=30)
    assert _changes([ROW, lost]) == Settled(100, 100)
    assert _changes([ROW, lost, late]) == Settled(100, 30)


@given(st.integers(1, 10**15))
def test_dollars_are_exact_both_ways(nano: int) -> None:
    assert Decimal(in_dollars(nano)[1:]) * NANO == nano


@pytest.mark.parametrize(
    ("amount", "nano"), [(1, NANO), (0.29, 290_000_000), (1e-10, 1), (0.1, 100_000_000), (5e-324, 1)]
)
def test_an_amount_is_read_as_it_is_written(amount: float, nano: int) -> None:
    assert nano_of(amount) == nano
