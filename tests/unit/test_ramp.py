"""The plan of a batch: who keeps to it is left alone, who is behind goes first as far as it must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.ramp import GRACE, HORIZON_S, RESERVE, urgent

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("total", "ended", "remaining_s", "window_s", "expected"),
    [
        (1_000_000, 0, DAY_S, DAY_S, 0),  # it has just begun
        (1_000_000, 15_000, 0.98 * DAY_S, DAY_S, 0),  # a little behind the line, as who waits at first
        (1_000_000, 0, 0.96 * DAY_S, DAY_S, 153),  # an hour has passed and nothing happened: 15 lines a second
        (1_000_000, 500_000, 0.6 * DAY_S, DAY_S, 0),  # half of it when half of the plan has passed
        (1_000_000, 400_000, 0.6 * DAY_S, DAY_S, 174),
        (1_000_000, 400_000, 0.3 * DAY_S, DAY_S, 695),  # the same later: more
        (1_000_000, 999_000, 0.2 * DAY_S, DAY_S, 1_000),  # the plan is over: all
        (10, 3, 600, DAY_S, 7),  # due in ten minutes
        (10, 10, 600, DAY_S, 0),
        (10, 3, -1, DAY_S, 0),  # too late
        (40, 0, 3_599, 3_600, 0),
        (0, 0, 5, 3_600, 0),
    ],
)
def test_how_many_are_urgent(total: int, ended: int, remaining_s: float, window_s: float, expected: int) -> None:
    assert urgent(total, ended, remaining_s, window_s) == expected


LINES = st.integers(1, 2_000_000)
PART = st.floats(0, 1)


@given(total=LINES, done=PART, passed=PART, window_s=st.floats(3_600, 7 * DAY_S))
def test_it_is_never_more_than_there_are_and_grows_as_time_goes(
    total: int, done: float, passed: float, window_s: float
) -> None:
    ended = int(total * done)
    remaining_s = window_s * (1 - passed)
    now = urgent(total, ended, remaining_s, window_s)
    assert 0 <= now <= total - ended
    assert urgent(total, ended, remaining_s * 0.9, window_s) >= now or remaining_s * 0.9 <= 0
    assert urgent(total, min(total, ended + 1), remaining_s, window_s) <= max(now, 1)


@given(total=LINES, passed=PART, window_s=st.floats(3_600, 7 * DAY_S))
def test_who_runs_as_planned_costs_nothing(total: int, passed: float, window_s: float) -> None:
    ended = -int(-total * min(1.0, passed / (1 - RESERVE)))
    if (1 - passed - RESERVE) * window_s > HORIZON_S or ended == total:
        assert urgent(total, min(total, ended + 1), window_s * (1 - passed), window_s) == 0


@given(total=st.integers(100, 100_000), load=st.floats(0.05, 0.9), began=st.floats(0, 0.7))
def test_who_only_gets_what_is_urgent_ends_in_time(total: int, load: float, began: float) -> None:
    """Of a lane that is full of others' work, which could do the batch in `load` of the time there is, it gets no more
    than its urgent lines, and in the first part of its window nothing at all.
    """
    window_s = 3_600.0
    at_s, ended = began * window_s, 0
    per_tick = total / (load * (window_s * (1 - RESERVE) - at_s)) * HORIZON_S
    while ended < total and at_s < window_s:
        ended += min(urgent(total, ended, window_s - at_s, window_s), int(per_tick) + 1)
        at_s += HORIZON_S
    assert ended == total
    assert at_s <= window_s * (1 - RESERVE / 2)
    assert GRACE < RESERVE
