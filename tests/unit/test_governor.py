"""Places follow the loop's lag: fewer when it is late, more when it is calm, never outside their bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.engine.governor import CALM_S, LAG_S, Governor


@given(st.lists(st.floats(0, 2), max_size=500), st.integers(1, 2000))
def test_places_stay_within_their_bounds(lags: list[float], most: int) -> None:
    governor = Governor(most)
    for lag_s in lags:
        governor.saw(lag_s)
        assert min(50, most) <= governor.places <= most


def test_a_late_loop_sheds_places_and_a_calm_one_wins_them_back() -> None:
    governor = Governor(1000)
    for _ in range(1000):
        governor.saw(2 * LAG_S)
    assert governor.places == 50
    for _ in range(1000):
        governor.saw(CALM_S / 2)
    assert governor.places == 1000


def test_one_late_tick_is_no_lag() -> None:
    governor = Governor(1000)
    governor.saw(4 * LAG_S)
    for _ in range(100):
        governor.saw(0.0)
    assert governor.places == 1000


def test_a_little_lag_changes_nothing() -> None:
    governor = Governor(1000, places=0)
    for _ in range(30):
        governor.saw(2 * LAG_S)
    shed = governor.places
    assert shed < 1000
    for _ in range(200):
        governor.saw((CALM_S + LAG_S) / 2)
    assert governor.places >= int(shed * 0.85)
    assert governor.places < 1000


def test_while_somebody_waits_less_lag_is_put_up_with() -> None:
    calm, hurried = Governor(1000), Governor(1000)
    for _ in range(100):
        calm.saw(LAG_S / 2)
        hurried.saw(LAG_S / 2, hurried=True)
    assert calm.places == 1000
    assert hurried.places < 200
    for _ in range(2000):
        hurried.saw(CALM_S / 2)
    assert hurried.places == 1000
