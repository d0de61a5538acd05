"""After an outage of the database nobody is declared dead before everybody could be heard from."""

from __future__ import annotations

from worker.services.worker import Outage

LEASE_S = 15.0


def test_who_beats_on_may_bury() -> None:
    outage = Outage(LEASE_S)
    assert not outage.over(0.0), "nothing was heard yet"
    for now_s in (0.0, 3.0, 6.5):
        outage.heard(now_s)
        assert outage.over(now_s + 1.0)


def test_after_a_gap_others_get_a_lease() -> None:
    outage = Outage(LEASE_S)
    outage.heard(0.0)
    assert not outage.over(20.0), "our own beat comes first"
    outage.heard(20.0)
    for now_s in (23.0, 26.0, 30.0, 34.0):
        assert not outage.over(now_s)
        outage.heard(now_s)
    assert outage.over(20.0 + LEASE_S)


def test_a_beat_that_failed_is_a_gap_however_short() -> None:
    outage = Outage(LEASE_S)
    outage.heard(0.0)
    outage.silent()
    assert not outage.over(1.0)
    outage.heard(3.0)
    assert not outage.over(3.5)
