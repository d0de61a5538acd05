"""Places to wait are shared by projects: alone one has them all, and beside others it leaves them some."""

from __future__ import annotations

import pytest

from api.waiting import RECENT_S, Places
from worker import clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [0.0]
    monkeypatch.setattr(clock, "monotonic_s", lambda: at[0])
    return at


def taken(places: Places, project_id: str, times: int) -> int:
    return sum(places.take(project_id) for _ in range(times))


@pytest.mark.parametrize("most", [0, 1, 2, 8, 32])
def test_alone_a_project_has_them_all_and_no_more(now: list[float], most: int) -> None:
    places = Places(most)
    assert taken(places, "a", most + 5) == most
    for _ in range(most):
        places.give("a")
    assert taken(places, "a", most + 5) == most


def test_beside_others_a_project_leaves_them_some(now: list[float]) -> None:
    places = Places(8)
    assert places.take("b")
    places.give("b")
    assert taken(places, "a", 20) == 6
    assert taken(places, "b", 20) == 2
    places.give("b")
    assert not places.take("a"), "it has more than half, and few are free"
    assert places.take("b")


def test_others_are_forgotten_when_they_have_not_come_for_long(now: list[float]) -> None:
    places = Places(8)
    places.take("b")
    places.give("b")
    now[0] = RECENT_S + 1
    assert taken(places, "a", 20) == 8


def test_whoever_has_little_is_served_while_there_is_any(now: list[float]) -> None:
    places = Places(8)
    assert [taken(places, name, 3) for name in "abc"] == [3, 3, 2]
