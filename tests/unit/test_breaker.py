"""Breaker, bucket, fair shares and money: plain arithmetic, checked as such."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.breaker import Breaker, BreakerPolicy
from worker.domain.bucket import Bucket
from worker.domain.fairness import in_turns, shares
from worker.domain.money import NANO, Price, Usage, cost_nano, estimate_tokens


def tripped(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.record(at_s, good=False)
    return breaker


def test_a_breaker_opens_at_its_volume_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.record(0.0, good=False)
    assert breaker.wait_s(0.0) == 0.0
    breaker.record(0.0, good=False)
    assert breaker.state == "open"
    assert breaker.wait_s(0.0) == 10.0


def test_a_breaker_tolerates_a_minority_of_failures() -> None:
    breaker = Breaker()
    for n in range(100):
        breaker.record(float(n), good=n % 3 != 0)
    assert breaker.state == "closed"


def test_failures_long_ago_do_not_count() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.record(0.0, good=False)
    breaker.record(31.0, good=False)
    assert breaker.state == "closed"


def test_after_the_open_spell_one_probe_is_let_in_and_decides() -> None:
    breaker = tripped()
    assert breaker.wait_s(9.9) > 0.0
    assert breaker.wait_s(10.0) == 0.0
    breaker.enter(10.0)
    assert breaker.wait_s(10.0) > 0.0, "one probe at a time"
    breaker.record(10.5, good=False)
    assert breaker.wait_s(10.5) == 20.0, "the spell grows"
    breaker.enter(30.5)
    breaker.record(30.6, good=True)
    assert breaker.state == "ramping"
    assert breaker.wait_s(30.6) == 0.0


def test_after_a_good_probe_the_share_grows_in_steps_and_failures_end_it() -> None:
    breaker = tripped()
    breaker.enter(10.0)
    breaker.record(10.0, good=True)
    shares = [breaker.share(10.0 + 0.5 * n) for n in range(11)]
    assert shares == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0]
    assert breaker.state == "closed"
    breaker = tripped()
    breaker.enter(10.0)
    breaker.record(10.0, good=True)
    for _ in range(5):
        breaker.record(11.0, good=False)
    assert breaker.wait_s(11.0) == 20.0


def test_a_probe_whose_caller_vanished_does_not_hold_the_door_for_ever() -> None:
    breaker = tripped()
    breaker.enter(10.0)
    assert breaker.wait_s(10.0 + breaker.policy.longest_open_s) == 0.0
    breaker.enter(10.0)
    breaker.forget_probe()
    assert breaker.wait_s(10.0) == 0.0


def test_a_dead_target_gets_few_calls_in_a_minute_and_is_back_soon() -> None:
    """policies.md: at most 6 calls in a 60 s outage once open, and back within 30 s."""
    breaker, calls, at_s = tripped(), 0, 0.0
    while at_s < 60.0:
        if breaker.wait_s(at_s) == 0.0:
            breaker.enter(at_s)
            breaker.record(at_s, good=False)
            calls += 1
        at_s += 0.1
    assert calls <= 6
    while breaker.wait_s(at_s) > 0.0:
        at_s += 0.1
    assert at_s <= 90.0


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200), st.integers(1, 10), st.floats(0.1, 1.0))
def test_a_breaker_never_asks_to_wait_longer_than_its_longest_spell(
    steps: list[tuple[float, bool]], volume: int, ratio: float
) -> None:
    breaker, now_s = Breaker(BreakerPolicy(volume, ratio)), 0.0
    for pause_s, good in steps:
        now_s += pause_s
        assert 0.0 <= breaker.wait_s(now_s) <= breaker.policy.longest_open_s + 1e-6
        if breaker.wait_s(now_s) == 0.0:
            breaker.enter(now_s)
            breaker.record(now_s, good=good)


@given(st.integers(1, 6000), st.lists(st.floats(0, 2), min_size=1, max_size=300))
def test_a_bucket_never_lets_more_through_than_its_rate_and_burst(per_minute: int, pauses: list[float]) -> None:
    bucket, now_s, taken = Bucket(per_minute), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        if bucket.wait_s(now_s) == 0.0:
            bucket.take(now_s, 1)
            taken += 1
    assert taken <= per_minute / 60.0 * (now_s + bucket.burst_s) + 1


def test_units_handed_back_are_free_again() -> None:
    bucket = Bucket(60, burst_s=1.0)
    bucket.take(0.0, 10)
    assert bucket.wait_s(0.0) == 9.7
    bucket.give(10)
    assert bucket.wait_s(0.0) == 0.0


@given(st.integers(60, 6000), st.lists(st.tuples(st.floats(0, 2), st.integers(1, 500)), min_size=1, max_size=200))
def test_a_bucket_that_somebody_waits_for_is_used_up(per_minute: int, calls: list[tuple[float, int]]) -> None:
    """Whoever comes when it said, or up to a quarter of the burst later, loses nothing of the rate."""
    bucket, now_s, taken, last = Bucket(per_minute, burst_s=1.0), 0.0, 0, 0
    for late, units in calls:
        now_s += bucket.wait_s(now_s, units) + late / 8
        bucket.take(now_s, units)
        taken, last = taken + units, units
    assert taken >= per_minute / 60.0 * (now_s - 1.0)
    assert taken - last <= per_minute / 60.0 * (now_s + 1.0) + 1


def test_a_block_goes_through_its_projects_in_turns() -> None:
    claimed = ["a1", "a2", "a3", "b1", "a4", "b2", "c1"]
    assert in_turns(claimed, lambda one: one[0]) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    assert in_turns(["a2", "a1"], lambda one: one[0]) == ["a2", "a1"]
    assert in_turns([], str) == []


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-2, 2)), unique=True, max_size=20), st.integers(0, 500))
def test_shares_are_fair_between_projects(groups: list[tuple[str, int]], room: int) -> None:
    out = shares(groups, room)
    parts = {project: {s.quota for s in out if s.project_id == project} for project in {s.project_id for s in out}}
    assert all(len(quotas) == 1 for quotas in parts.values()), "every priority of a project may use the whole part"
    quotas = [next(iter(q)) for q in parts.values()]
    if quotas:
        assert max(quotas) - min(quotas) <= 1
        assert sum(quotas) == room or len(quotas) == room
    for project in parts:
        order = [s.priority for s in out if s.project_id == project]
        assert order == sorted(order, reverse=True)


TOKENS = st.none() | st.integers(0, 10**9)


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_unknown_plus_known_is_known_and_zero_is_a_value(
    a: int | None, b: int | None, c: int | None, d: int | None
) -> None:
    total = Usage(a, b) + Usage(c, d)
    for left, right, sum_ in ((a, c, total.input_tokens), (b, d, total.output_tokens)):
        assert sum_ == (None if left is None and right is None else (left or 0) + (right or 0))


def test_cost_is_exact_and_unknown_stays_unknown() -> None:
    price = Price(Decimal("0.15"), Decimal("0.60"), Decimal("0.075"))
    assert cost_nano(Usage(1_000_000, 0), price) == 15 * NANO // 100
    assert cost_nano(Usage(1_000_000, 1_000_000, 400_000), price) == 90_000_000 + 30_000_000 + 600_000_000
    assert cost_nano(Usage(5, 5), None) is None
    assert cost_nano(Usage(None, 5), price) is None
    assert cost_nano(Usage(5, None), price) is None
    assert cost_nano(Usage(0, 0), price) == 0


def test_tokens_are_guessed_at_four_characters() -> None:
    assert [estimate_tokens(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
