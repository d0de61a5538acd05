"""What a process remembers of the fleet's pauses: what it sees itself, what it is told, and who may look again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.failure import FailureKind
from worker.domain.pause import (
    LONGEST_PROBE_S,
    MOST_SCOPES,
    Cause,
    Pause,
    PauseKind,
    Scope,
    ids_in,
    mark_of,
    probe_after_s,
)
from worker.domain.route import Key, Target
from worker.limits.pauses import Answered, Due, Pauses

K = FailureKind
K1, K2, K3 = Key("K1", "acme"), Key("K2", "acme"), Key("K3", "other")
T = Target("p", "m", "P", (K1, K2, K3))
OTHER = Target("p", "n", "P", (K1, K2, K3))
BARE = Target("q", "m", "Q")
ACME: Final = Scope("account", "p", "acme")
AT: Final = datetime(2026, 11, 22, tzinfo=UTC)
HELD: Final = Pause(ACME, PauseKind.QUOTA, "no money", AT, AT, 0, None, None, 60.0, None)
OVER: Final = replace(HELD, closed_at=AT, over_s=1.0)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


def told(pauses: Pauses) -> list[object]:
    return [one.what for one in pauses.news]


def call(pauses: Pauses, outcome: Outcome | None, key: Key = K1, target: Target = T, now_s: float = 0.0) -> None:
    pauses.enter(target, key)
    pauses.leave(target, key, outcome, now_s)


def kinds(pauses: Pauses, now_s: float = 0.0) -> list[FailureKind | None]:
    closed = [pauses.look(T, key, now_s) for key in (K1, K2, K3)]
    return [one.kind if one is not None else None for one in closed]


def test_a_failure_is_felt_at_once_and_told_once(pauses: Pauses) -> None:
    stirs: list[int] = []
    pauses.stir = lambda: stirs.append(1)
    for _ in range(5):
        call(pauses, Failure(K.QUOTA, "pay first"))
    assert kinds(pauses) == [K.QUOTA, K.QUOTA, None]
    (cause,) = told(pauses)
    assert isinstance(cause, Cause)
    assert (cause.scope, cause.kind, cause.wait_s) == (ACME, PauseKind.QUOTA, 60.0)
    assert cause.reason == "account acme has no quota left: pay first"
    assert len(stirs) == 1


def test_a_longer_wait_of_the_provider_is_told_too_and_bounded(pauses: Pauses) -> None:
    call(pauses, Failure(K.QUOTA, "x"))
    call(pauses, Failure(K.QUOTA, "x", wait_s=30.0))
    call(pauses, Failure(K.QUOTA, "x", wait_s=3_000_000.0))
    waits = [one.wait_s for one in told(pauses) if isinstance(one, Cause)]
    assert waits == [60.0, 6 * 3600.0]


@pytest.mark.parametrize(
    ("kind", "key", "scope"),
    [
        (K.AUTH, K1, Scope("key", "p", "K1")),
        (K.PERMISSION, K1, Scope("grant", "p", "p/m", "K1")),
        (K.QUOTA, K3, Scope("account", "p", "other")),
        (K.RATE_LIMIT, K1, None),
        (K.SERVER_ERROR, K1, None),
    ],
)
def test_what_a_failure_pauses(pauses: Pauses, kind: FailureKind, key: Key, scope: Scope | None) -> None:
    call(pauses, Failure(kind, "x"), key)
    assert [one.scope for one in told(pauses) if isinstance(one, Cause)] == ([scope] if scope is not None else [])
    assert (pauses.look(T, key, 0.0) is not None) == (scope is not None)
    assert (pauses.look(OTHER, key, 0.0) is not None) == (scope is not None and scope.covers != "grant")


def test_a_quota_of_one_model_closes_no_other(pauses: Pauses) -> None:
    call(pauses, Failure(K.QUOTA, "enough for today", of_model=True))
    (cause,) = told(pauses)
    assert isinstance(cause, Cause)
    assert (cause.scope, cause.kind) == (Scope("grant", "p", "p/m", "K1"), PauseKind.QUOTA)
    assert cause.reason == "key K1 has no quota left for p/m: enough for today"
    assert kinds(pauses) == [K.QUOTA, None, None]
    assert pauses.look(OTHER, K1, 0.0) is None


def test_without_a_key_only_the_target_rests(pauses: Pauses) -> None:
    pauses.leave(BARE, None, Failure(K.QUOTA, "x"), 0.0)
    assert pauses.look(BARE, None, 0.0) is not None
    assert pauses.look(Target("q", "other", "Q"), None, 0.0) is None


def test_what_others_met_is_mirrored_and_what_is_over_goes(pauses: Pauses) -> None:
    pauses.mirror([HELD], 0, 0.0)
    assert kinds(pauses) == [K.QUOTA, K.QUOTA, None]
    pauses.mirror([OVER], 0, 1.0)
    assert kinds(pauses) == [None] * 3
    pauses.mirror([], 0, 2.0)
    assert kinds(pauses) == [None] * 3


def test_a_mirror_that_is_older_than_what_was_seen_here_does_not_undo_it(pauses: Pauses) -> None:
    call(pauses, Failure(K.QUOTA, "x"))
    pauses.mirror([], 0, 1.0)
    assert kinds(pauses, 1.0) == [K.QUOTA, K.QUOTA, None]
    pauses.mirror([], pauses.news[-1].number, 2.0)
    assert kinds(pauses, 2.0) == [None] * 3, "it was written, and somebody has ended it since"


def test_only_who_has_the_right_probes_and_once(pauses: Pauses) -> None:
    pauses.mirror([HELD], 0, 0.0)
    assert kinds(pauses, 61.0) == [K.QUOTA, K.QUOTA, None], "to be due is no right"
    assert told(pauses) == [Due(ACME)], "but it is told, once"
    pauses.grant(ACME, 180.0)
    assert kinds(pauses, 62.0) == [None] * 3
    pauses.enter(T, K1)
    assert kinds(pauses, 62.0) == [K.QUOTA, K.QUOTA, None], "the others wait for the one that looks"
    pauses.leave(T, K1, Failure(K.QUOTA, "still"), 63.0)
    assert kinds(pauses, 63.0) == [K.QUOTA, K.QUOTA, None]
    assert told(pauses) == [Due(ACME)], "a probe that finds nothing new changes nothing"


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (Answer(), True),
        (Failure(K.TRUNCATED, "x"), True),
        (Failure(K.RATE_LIMIT, "x"), False),
        (Failure(K.TIMEOUT, "x"), False),
        (None, False),
    ],
)
def test_a_probe_that_is_served_ends_the_pause(pauses: Pauses, outcome: Outcome | None, ends: bool) -> None:
    pauses.mirror([HELD], 0, 0.0)
    pauses.grant(ACME, 180.0)
    call(pauses, outcome, K2, now_s=61.0)
    assert (kinds(pauses, 61.0) == [None] * 3) == ends
    assert (Answered(ACME) in told(pauses)) == ends
    pauses.mirror([HELD], 0, 61.0)
    assert (kinds(pauses, 61.0) == [None] * 3) == ends, "a mirror that does not know it yet changes nothing"


def test_an_answer_to_a_call_that_was_out_before_ends_nothing(pauses: Pauses) -> None:
    pauses.enter(T, K1)
    call(pauses, Failure(K.QUOTA, "x"), K2)
    pauses.leave(T, K1, Answer(), 1.0)
    assert kinds(pauses, 1.0) == [K.QUOTA, K.QUOTA, None]


def test_a_right_that_nobody_used_is_over_with_the_next_probe(pauses: Pauses) -> None:
    pauses.mirror([HELD], 0, 0.0)
    pauses.grant(ACME, 180.0)
    assert kinds(pauses, 181.0) == [K.QUOTA, K.QUOTA, None]


def test_what_a_person_paused_is_ended_by_a_person_alone(pauses: Pauses) -> None:
    whole = Pause(Scope("provider", "p"), PauseKind.OPERATOR, "a drill", AT, None, 0, "key_1", None, math.inf, None)
    pauses.mirror([whole], 0, 0.0)
    closed = pauses.look(T, K1, 1e9)
    assert closed is not None
    assert (closed.kind, closed.reason) == (K.OVERLOADED, "a drill")
    assert told(pauses) == []
    assert pauses.look(BARE, None, 0.0) is None


@pytest.mark.parametrize(("kind", "waits"), [(PauseKind.QUOTA, [60, 120, 240, 480]), (PauseKind.AUTH, [300, 600])])
def test_probes_come_less_and_less_often_but_do_not_cease(kind: PauseKind, waits: list[int]) -> None:
    assert [probe_after_s(kind, n) for n in range(len(waits))] == waits
    assert probe_after_s(kind, 10_000) == LONGEST_PROBE_S


def test_a_mark_names_its_pauses_and_fits_its_column() -> None:
    scopes = [Scope("key", "p", f"K{n}") for n in range(MOST_SCOPES)]
    mark = mark_of(scopes)
    assert list(ids_in(mark)) == [scope.id for scope in scopes]
    assert len(set(ids_in(mark))) == MOST_SCOPES
    assert len(mark) <= 160


def test_scopes_that_are_written_alike_are_told_apart() -> None:
    made: list[Callable[[], Scope]] = [
        lambda: Scope("key", "p", "a"),
        lambda: Scope("account", "p", "a"),
        lambda: Scope("grant", "p", "a", "b"),
        lambda: Scope("grant", "p", "ab", ""),
    ]
    assert len({make().id for make in made}) == len(made)
