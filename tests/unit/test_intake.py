from __future__ import annotations

import pytest

from worker.domain.intake import LATEST_S, UNKNOWN_S, Backlog, Bounds, judge

OPEN = Bounds(None, None)


def test_without_bounds_everything_comes_in() -> None:
    assert judge(Backlog(10**9, 10.0**9), OPEN, 1000) is None


@pytest.mark.parametrize(("waiting", "new", "full"), [(9, 1, False), (10, 1, True), (0, 10, False), (1, 10, True)])
def test_the_bound_is_for_what_waits_and_what_comes(waiting: int, new: int, full: bool) -> None:
    assert (judge(Backlog(waiting, 0.0), Bounds(10, None), new) is not None) is full


def test_a_bulk_that_can_never_fit_is_told_so() -> None:
    full = judge(Backlog(0, 0.0), Bounds(10, None), 11)
    assert full is not None
    assert "no more than 10 at once" in full.why


@pytest.mark.parametrize(
    ("per_s", "after_s"), [(1000.0, 1), (10.0, 5), (0.1, LATEST_S), (0.0, UNKNOWN_S), (None, UNKNOWN_S)]
)
def test_when_to_come_again_is_what_the_drain_needs(per_s: float | None, after_s: int) -> None:
    full = judge(Backlog(140, 0.0, per_s), Bounds(100, None), 10)
    assert full is not None
    assert full.after_s == after_s


def test_age_counts_only_beyond_its_bound() -> None:
    bounds = Bounds(None, 60.0)
    assert judge(Backlog(5, 60.0), bounds, 1) is None
    full = judge(Backlog(120, 120.0, 10.0), bounds, 1)
    assert full is not None
    assert full.after_s == 6  # half of what waits is older than it may be
