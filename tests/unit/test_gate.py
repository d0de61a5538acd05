"""What one worker process remembers of targets, keys and accounts."""

from __future__ import annotations

import pytest

from worker.domain.answer import Answer, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.domain.route import Key, Target
from worker.limits.gate import Gate, Rates

K = FailureKind
K1, K2, K3 = Key("K1", "acme"), Key("K2", "acme"), Key("K3", "other")
T = Target("p", "m", "P", (K1, K2, K3))
OTHER = Target("p", "n", "P", (K1, K2, K3))
BARE = Target("q", "m", "Q")


def failed(
    gate: Gate, kind: FailureKind, target: Target = T, key: Key | None = K1, wait_s: float | None = None
) -> None:
    gate.leave(target, key, Failure(kind, "x", wait_s=wait_s), 0, 0.0)


def kind_of(gate: Gate, target: Target = T, key: Key | None = K1, now_s: float = 0.0) -> FailureKind | None:
    closed = gate.look(target, key, now_s)
    return closed.kind if closed is not None else None


def test_a_new_gate_is_open() -> None:
    assert kind_of(Gate({})) is None


def test_a_refused_key_rests_for_every_model_and_its_siblings_do_not() -> None:
    gate = Gate({})
    failed(gate, K.AUTH)
    assert kind_of(gate) is K.AUTH
    assert kind_of(gate, OTHER) is K.AUTH
    assert kind_of(gate, T, K2) is None


def test_a_missing_permission_is_of_one_model() -> None:
    gate = Gate({})
    failed(gate, K.PERMISSION)
    assert kind_of(gate) is K.PERMISSION
    assert kind_of(gate, OTHER) is None


def test_quota_rests_the_whole_account_and_no_other() -> None:
    gate = Gate({})
    failed(gate, K.QUOTA, wait_s=100.0)
    assert [kind_of(gate, T, key) for key in (K1, K2, K3)] == [K.QUOTA, K.QUOTA, None]
    assert kind_of(gate, OTHER, K2) is K.QUOTA


def test_quota_without_a_key_rests_only_that_target() -> None:
    gate = Gate({})
    failed(gate, K.QUOTA, BARE, None)
    assert kind_of(gate, BARE, None) is K.QUOTA
    assert kind_of(gate, Target("q", "other", "Q"), None) is None


def test_a_rate_limit_closes_the_target_as_long_as_the_provider_said() -> None:
    gate = Gate({})
    failed(gate, K.RATE_LIMIT, wait_s=7.0)
    closed = gate.look(T, K1, 2.0)
    assert closed is not None
    assert (closed.kind, closed.wait_s) == (K.RATE_LIMIT, 5.0)
    assert kind_of(gate, T, K3) is None
    failed(gate, K.RATE_LIMIT, wait_s=0.5)  # of a call that was on its way meanwhile
    closed = gate.look(T, K1, 2.0)
    assert closed is not None
    assert closed.wait_s == 5.0


@pytest.mark.parametrize("kind", [K.CONNECTION, K.TIMEOUT, K.OVERLOADED, K.SERVER_ERROR, K.EMPTY_OUTPUT])
def test_failures_of_the_provider_open_its_breaker(kind: FailureKind) -> None:
    gate = Gate({})
    for _ in range(5):
        failed(gate, kind)
    assert kind_of(gate) is K.OVERLOADED
    assert kind_of(gate, OTHER) is None
    assert gate.report(0.0)["targets"] == {"p/m": {"state": "open", "wait_s": 10.0}}


@pytest.mark.parametrize("kind", [K.BAD_REQUEST, K.CONTEXT_LENGTH, K.CONTENT_FILTER, K.MODEL_NOT_FOUND, K.RATE_LIMIT])
def test_failures_of_the_request_do_not(kind: FailureKind) -> None:
    gate = Gate({})
    for _ in range(20):
        failed(gate, kind, key=None, target=BARE, wait_s=0.0)
    assert kind_of(gate, BARE, None, now_s=1.0) is None


def test_a_sleeping_endpoint_is_woken_by_one_call() -> None:
    gate = Gate({})
    failed(gate, K.LOADING, BARE, None)
    assert kind_of(gate, BARE, None) is K.LOADING
    assert kind_of(gate, BARE, None, now_s=10.0) is None
    gate.enter(BARE, 0, 10.0)
    assert kind_of(gate, BARE, None, now_s=10.0) is K.LOADING, "the others wait for the one that looks"
    gate.leave(BARE, None, Answer(), 0, 11.0)
    assert kind_of(gate, BARE, None, now_s=11.0) is None


def test_configured_rates_close_and_open_again() -> None:
    gate = Gate({"p": Rates(rpm=60, tpm=6000)})
    for _ in range(7):
        gate.enter(T, 10, 0.0)
    assert kind_of(gate) is K.RATE_LIMIT
    assert kind_of(gate, now_s=1.5) is None


def test_reserved_tokens_come_back_when_fewer_were_used() -> None:
    gate = Gate({"p": Rates(tpm=600)})
    gate.enter(T, 600, 0.0)
    assert kind_of(gate) is K.RATE_LIMIT
    gate.leave(T, K1, Answer(usage=Usage(5, 5)), 600, 0.0)
    assert kind_of(gate) is None


def test_places_are_limited_only_where_the_file_says_so() -> None:
    assert Gate({}).place(T) is None
    assert Gate({"p": Rates(concurrency=1)}).place(T) is not None


def test_one_call_finds_out_whether_a_sleeper_is_awake() -> None:
    gate = Gate({}, ["q"])
    assert kind_of(gate, BARE, None) is None
    gate.enter(BARE, 0, 0.0)
    assert kind_of(gate, BARE, None) is K.RATE_LIMIT, "the others wait for the one that is out"
    gate.leave(BARE, None, Answer(), 0, 1.0)
    assert kind_of(gate, BARE, None, now_s=1.0) is None
    gate.enter(BARE, 0, 1.0)
    assert kind_of(gate, BARE, None, now_s=1.0) is None, "it is awake: as many as like"
    gate.leave(BARE, None, Answer(), 0, 2.0)
    gate.enter(BARE, 0, 100.0)
    assert kind_of(gate, BARE, None, now_s=100.0) is K.RATE_LIMIT, "it may have fallen asleep since"


def test_a_scout_that_never_comes_back_is_forgotten() -> None:
    gate = Gate({}, ["q"])
    gate.enter(BARE, 0, 0.0)
    assert kind_of(gate, BARE, None, now_s=200.0) is None


def test_a_person_closes_a_door_and_opens_it_as_if_nothing_had_ever_failed() -> None:
    gate = Gate({})
    gate.force("p/m", "open")
    closed = gate.look(T, K1, 0.0)
    assert closed is not None
    assert closed.reason == "p/m was closed by an operator"
    assert kind_of(gate, OTHER) is None
    gate.force("p/m", None)
    assert kind_of(gate) is None
    for _ in range(5):
        failed(gate, K.OVERLOADED)
    assert kind_of(gate) is K.OVERLOADED
    gate.force("p/m", "close")
    assert kind_of(gate) is None
