"""How fast a target is asked whose limit nobody told, and how often again: plain arithmetic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.domain.pace import Pace
from worker.domain.repeats import MOST, RATIO, Repeats


def driven(pace: Pace, seconds: float, limit_per_s: float | None, demand_per_s: float = 100.0) -> tuple[int, int]:
    """Calls made in so many seconds against a provider that refuses more than its limit; and how many it refused."""
    now_s, calls, refused, room = 1000.0, 0, 0, 0.0
    while now_s < 1000.0 + seconds:
        now_s += 1.0 / demand_per_s
        room = min(limit_per_s or 1e9, room + (limit_per_s or 1e9) / demand_per_s)
        if pace.wait_s(now_s) > 0.0:
            continue
        pace.sent(now_s)
        calls += 1
        if room < 1.0:
            refused += 1
            pace.refused(now_s)
        else:
            room -= 1.0
    return calls, refused


def test_a_provider_that_refuses_nothing_is_never_slowed() -> None:
    assert driven(Pace(), 30.0, None) == (3000, 0) or driven(Pace(), 30.0, None)[0] >= 2999


def test_a_provider_that_refuses_is_asked_about_as_fast_as_it_takes() -> None:
    calls, refused = driven(Pace(), 120.0, 40.0)
    assert calls - refused >= 0.8 * 40 * 120
    assert refused <= 0.06 * calls


def test_one_burst_of_refusals_is_one_cut_and_is_forgotten() -> None:
    pace = Pace()
    driven(pace, 5.0, None)
    for _ in range(50):
        pace.refused(1005.0)
    assert pace.limit(1005.0) is not None
    assert 50.0 <= (pace.limit(1005.0) or 0.0) <= 100.0
    assert pace.limit(1005.0 + 120.0) is None


@given(st.floats(0.0, 1e9), st.integers(1, 50))
def test_a_cut_is_forgotten_however_long_nobody_asked_after_it(later_s: float, refusals: int) -> None:
    pace = Pace()
    for n in range(refusals):
        pace.sent(n * 2.0)
        pace.refused(n * 2.0)
    for at_s in (later_s, later_s + 60.0):
        pace.limit(refusals * 2.0 + at_s)
    assert pace.limit(refusals * 2.0 + later_s + 120.0) is None


def test_what_remains_is_spread_until_the_reset() -> None:
    pace = Pace()
    pace.counted(1000, 900, 50.0, 1, 0.0)
    assert pace.limit(0.0) is None, "plenty"
    pace.counted(1000, 100, 50.0, 4, 0.0)
    assert pace.limit(0.0) == 100 / 50 / 4
    assert pace.limit(60.0) is None
    pace.counted(1000, 0, 7.0, 1, 60.0)
    assert pace.wait_s(60.0) == 7.0


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300))
def test_repeats_at_a_failing_target_never_exceed_a_tenth_and_what_time_brings(steps: list[tuple[float, bool]]) -> None:
    budget, now_s, fresh, again = Repeats(), 0.0, 0, 0
    for pause_s, wants in steps:
        now_s += pause_s
        if wants and budget.allowed(now_s):
            budget.asked(now_s, again=True)
            budget.ended(good=False)
            again += 1
        else:
            budget.asked(now_s, again=False)
            budget.ended(good=False)
            fresh += 1
    assert again <= MOST + RATIO * fresh + now_s / 10.0 + 1e-6
