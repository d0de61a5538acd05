"""What a receiver's answer means, and when the next try goes out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.webhooks.schedule import LONGEST_WAIT_S, SCHEDULE_S, Fault, Move, Verdict, verdict

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def after(
    status: int | None = 500, fault: Fault | None = Fault.HTTP, tries: int = 1, draw: float = 0.0, **fields: str
) -> Verdict:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return verdict(status=status, fields=named, fault=fault, tries=tries, draw=draw, now=NOW)


def test_the_schedule_is_the_specifications() -> None:
    assert len(SCHEDULE_S) == 10
    assert sum(SCHEDULE_S) == timedelta(hours=75, minutes=35, seconds=5).total_seconds()


@pytest.mark.parametrize("tries", range(1, 10))
def test_each_try_waits_its_turn_and_a_little_more(tries: int) -> None:
    base = SCHEDULE_S[tries]
    assert after(tries=tries, draw=0.0) == Verdict(Move.AGAIN, base)
    latest = after(tries=tries, draw=0.999).wait_s
    assert base + 0.9 < latest <= base + max(1.0, 0.1 * base)


def test_the_tenth_failure_is_the_last() -> None:
    assert after(tries=10) == Verdict(Move.EXHAUSTED)


@pytest.mark.parametrize(
    "status", [301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 413, 415, 422, 429, 500, 502, 503, 504]
)
def test_every_answer_but_success_is_tried_again(status: int) -> None:
    assert after(status).move is Move.AGAIN


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.SSRF_BLOCKED])
def test_every_fault_but_a_forbidden_address_is_tried_again(fault: Fault) -> None:
    assert after(None, fault).move is Move.AGAIN


def test_a_forbidden_address_is_never_tried_again() -> None:
    assert after(None, Fault.SSRF_BLOCKED) == Verdict(Move.REFUSED)


def test_gone_means_no_more() -> None:
    assert after(410) == Verdict(Move.EXHAUSTED, disable=True)


def test_a_receiver_may_end_one_delivery_or_all() -> None:
    assert after(500, webhook_delivery="abort-message") == Verdict(Move.EXHAUSTED)
    assert after(500, webhook_delivery="Disable ") == Verdict(Move.EXHAUSTED, disable=True)
    assert after(200, None, webhook_delivery="disable") == Verdict(Move.DELIVERED, disable=True)
    assert after(200, None, webhook_delivery="anything") == Verdict(Move.DELIVERED)


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("120", 120.0),
        ("7.5", 7.5),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        ("1", 5.0),
        ("-5", 5.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 5.0),
        ("315360000", LONGEST_WAIT_S),
        (format_datetime(NOW + timedelta(days=3650), usegmt=True), LONGEST_WAIT_S),
        ("soon", 5.0),
        ("", 5.0),
        ("nan", 5.0),
        ("inf", 5.0),
    ],
)
def test_a_wait_that_is_asked_for_is_a_floor_within_reason(asked: str, waits: float) -> None:
    for status in (429, 503):
        assert after(status, retry_after=asked) == Verdict(Move.AGAIN, waits)


@given(st.integers(1, 12), st.floats(0, 1, exclude_max=True), st.text(max_size=30), st.integers(100, 599))
def test_no_try_is_ever_early_or_beyond_its_number(tries: int, draw: float, asked: str, status: int) -> None:
    found = after(status, tries=tries, draw=draw, retry_after=asked)
    if found.move is Move.AGAIN:
        assert tries < len(SCHEDULE_S)
        assert SCHEDULE_S[tries] <= found.wait_s <= LONGEST_WAIT_S * 1.1
