"""What follows each failure: policies.md as a table, then properties that hold for every history."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind, Lane
from worker.domain.retry import IN_PLACE_S, Backoff
from worker.domain.route import ALL_NEEDS, Key, Needs, Route, Target, needs_of
from worker.domain.walk import Ask, Closed, Park, Stop, Walk

K = FailureKind
NEEDS = Needs(frozenset({"completion"}), 100)


def target(name: str, *, keys: int = 1, window: int | None = None, account: str | None = None) -> Target:
    provider, _, model = name.partition("/")
    pool = tuple(Key(f"{provider.upper()}_{n}", account or provider) for n in range(keys))
    return Target(provider, model, provider.title(), pool, ALL_NEEDS, window)


def route(*targets: Target, **bounds: object) -> Route:
    return Route("r", targets, **bounds)  # type: ignore[arg-type]


def walk(*targets: Target, lane: Lane = Lane.INTERACTIVE, most: int = 6, **bounds: object) -> Walk:
    return Walk(route(*targets, **bounds), lane, NEEDS, most)


def fail(w: Walk, ask: Ask, kind: FailureKind, *, at_s: float = 0.0, **said: Any) -> None:
    w.failed(ask.target.name, ask.key.name if ask.key else None, Failure(kind, "x", **said), at_s=at_s, draw=0.5)


def asked(w: Walk) -> Ask:
    step = w.next()
    assert isinstance(step, Ask), step
    return step


def course(kind: FailureKind, lane: Lane, *targets: Target, wait_s: float | None = None) -> list[str]:
    """The targets asked when every call ends in `kind`; parks are slept through, at most 20 steps."""
    w, seen, at_s = walk(*targets, lane=lane), [], 0.0
    for _ in range(20):
        step = w.next(draw=0.5)
        if isinstance(step, Stop):
            return [*seen, f"stop:{step.failure.kind}"]
        if isinstance(step, Park):
            seen.append("park")
            at_s += step.wait_s
            w.resumed()
            continue
        at_s += step.wait_s
        seen.append(step.target.provider)
        fail(w, step, kind, wait_s=wait_s, at_s=at_s)
    return seen


A, B = target("a/1"), target("b/1")


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (K.CONNECTION, ["a", "a", "b", "b"]),
        (K.TIMEOUT, ["a", "b", "stop:timeout"]),
        (K.OVERLOADED, ["a", "a", "a", "b"]),
        (K.SERVER_ERROR, ["a", "a", "b", "b"]),
        (K.CONFLICT, ["a", "a", "b", "b"]),
        (K.AUTH, ["a", "b", "stop:auth"]),
        (K.PERMISSION, ["a", "b", "stop:permission"]),
        (K.MODEL_NOT_FOUND, ["a", "b", "stop:model_not_found"]),
        (K.GONE, ["a", "b", "stop:gone"]),
        (K.CONTENT_FILTER, ["a", "stop:content_filter"]),
        (K.REFUSAL, ["a", "stop:refusal"]),
        (K.BAD_REQUEST, ["a", "stop:bad_request"]),
        (K.EMPTY_OUTPUT, ["a", "b", "stop:empty_output"]),
        (K.BAD_OUTPUT, ["a", "b", "stop:bad_output"]),
        (K.TRUNCATED, ["a", "b", "stop:truncated"]),
        (K.SCHEMA_MISMATCH, ["a", "a", "b", "b", "stop:schema_mismatch"]),
        (K.DEADLINE, ["a", "stop:deadline"]),
        (K.CANCELLED, ["a", "stop:cancelled"]),
        (K.BUDGET, ["a", "stop:budget"]),
        (K.QUOTA, ["a", "b", "park"]),
        (K.LOADING, ["a", "b", "park"]),
    ],
)
@pytest.mark.parametrize("lane", list(Lane))
def test_the_course_that_follows_a_kind(kind: FailureKind, first: list[str], lane: Lane) -> None:
    if lane is Lane.BATCH and kind is K.LOADING:
        first = ["a", "park", "a", "park"]  # a batch line waits for its own target to start
    if lane is Lane.BATCH and kind is K.AUTH:
        first = ["a", "b", "park", "a", "b", "park"]  # and for somebody to mend the keys
    assert course(kind, lane, A, B)[: len(first)] == first


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("kind", [K.SERVER_ERROR, K.OVERLOADED, K.CONFLICT])
def test_a_target_that_says_not_to_ask_again_is_asked_once(kind: FailureKind, lane: Lane) -> None:
    w = walk(A, B, lane=lane)
    fail(w, asked(w), kind, wait_s=1.0, final=True)
    second = asked(w)
    assert (second.target, second.wait_s) == (B, 0.0)
    fail(w, second, kind, final=True)
    step = w.next()
    assert isinstance(step, Stop)
    assert step.failure.kind is kind


def test_a_last_word_on_asking_again_does_not_turn_the_end_of_a_job_into_the_next_target() -> None:
    w = walk(A, B, on={K.SERVER_ERROR: "fail"})
    fail(w, asked(w), K.SERVER_ERROR, final=True)
    assert isinstance(w.next(), Stop)


def test_a_target_that_answers_that_it_ran_out_of_time_is_asked_again_when_nobody_else_is_left() -> None:
    """Unlike one that kept silent: a gateway's 504 is as good as any other 5xx, and is no call that is still open."""
    w = walk(A, B)
    fail(w, asked(w), K.TIMEOUT, http_status=504)
    second = asked(w)
    assert second.target is B
    fail(w, second, K.TIMEOUT)
    assert isinstance(w.next(draw=0.5), Park)
    w.resumed()
    third = asked(w)
    assert third.target is A
    fail(w, third, K.TIMEOUT, http_status=200)  # it began an answer and fell silent
    assert isinstance(w.next(), Stop)


@pytest.mark.parametrize("lane", list(Lane))
def test_what_one_model_lacks_another_may_have(lane: Lane) -> None:
    w = walk(A, B, lane=lane)
    fail(w, asked(w), K.BAD_REQUEST, unfit=True)
    second = asked(w)
    assert second.target is B
    fail(w, second, K.BAD_REQUEST, unfit=True)
    step = w.next()
    assert isinstance(step, Stop)
    assert step.failure.kind is K.BAD_REQUEST
    only = walk(A, B, lane=lane, on={K.BAD_REQUEST: "fail"})
    fail(only, asked(only), K.BAD_REQUEST, unfit=True)
    assert isinstance(only.next(), Stop)


def test_the_wait_that_a_timeout_names_is_a_floor_too() -> None:
    w = walk(A)
    fail(w, asked(w), K.TIMEOUT, http_status=504, wait_s=30.0)
    step = w.next(draw=0.5)
    assert isinstance(step, Park)
    assert 30.0 <= step.wait_s <= 33.0


def test_a_short_rate_limit_is_waited_for_on_the_target_and_a_long_one_is_not() -> None:
    w = walk(A, B)
    first = asked(w)
    fail(w, first, K.RATE_LIMIT, wait_s=2.0)
    again = asked(w)
    assert again.target is A
    assert 2.0 <= again.wait_s <= 2.2
    fail(w, again, K.RATE_LIMIT, wait_s=60.0)
    assert asked(w).target is B


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("kind", [K.OVERLOADED, K.SERVER_ERROR, K.CONFLICT, K.CONNECTION])
def test_a_wait_that_a_failing_target_names_is_waited_for_within_max_wait_s_and_not_beyond(
    kind: FailureKind, lane: Lane
) -> None:
    w = walk(A, B, lane=lane)
    fail(w, asked(w), kind, wait_s=3.0)
    again = asked(w)
    assert (again.target, again.wait_s) == (A, pytest.approx(3.15))
    w = walk(A, B, lane=lane)
    fail(w, asked(w), kind, wait_s=3600.0)
    assert asked(w).target is B
    alone = walk(A, lane=lane)
    fail(alone, asked(alone), kind, wait_s=3600.0)
    step = alone.next()
    assert isinstance(step, Park), "there is no other"
    assert step.wait_s >= 3600.0


def test_a_back_off_of_our_own_is_not_measured_by_max_wait_s() -> None:
    w = walk(A, B, max_wait_s=0.0)
    fail(w, asked(w), K.OVERLOADED)
    assert asked(w).target is A


def test_a_door_that_opens_while_the_job_waits_anyway_does_not_send_it_elsewhere() -> None:
    for kind, wait_s in ((K.RATE_LIMIT, 8.0), (K.OVERLOADED, 2.0), (K.OVERLOADED, 8.0)):
        w = walk(A, B)
        fail(w, asked(w), kind, wait_s=wait_s)
        closed = Closed(kind, wait_s, "it asked to wait")
        step = w.next(lambda target, _key, closed=closed: closed if target is A else None)
        assert isinstance(step, Ask | Park)
        assert (isinstance(step, Park), step.wait_s >= wait_s) == (wait_s > IN_PLACE_S, True)
        w.again(step) if isinstance(step, Ask) else w.resumed()
        assert asked(w).target is A


def test_a_door_that_no_wait_opens_stays_closed_to_a_call_that_is_due() -> None:
    w = walk(A, B)
    fail(w, asked(w), K.SCHEMA_MISMATCH)
    step = w.next(lambda target, _key: Closed(K.BUDGET, 0.0, "it has no price") if target is A else None)
    assert isinstance(step, Ask)
    assert step.target is B


@pytest.mark.parametrize("kind", [{"a": 1}, ["image_url"], 5, None, "image_url"])
def test_a_part_of_no_known_type_is_the_providers_to_refuse(kind: object) -> None:
    request: dict[str, Any] = {"messages": [{"role": "user", "content": [{"type": kind}]}]}
    needs = needs_of("completion", request, schema=False, size=100)
    assert needs.of == ({"completion", "vision"} if kind == "image_url" else {"completion"})


def test_a_job_that_comes_back_asks_who_is_done_waiting_while_another_stays_shut() -> None:
    w = walk(A, B)
    fail(w, Ask(A, A.keys[0]), K.OVERLOADED, wait_s=3600.0)
    w.skipped(B.name, K.OVERLOADED)
    w.resumed(rebuilt=True)
    step = w.next(lambda target, _key: Closed(K.OVERLOADED, 30.0, "shut") if target is B else None)
    assert isinstance(step, Ask), "its rows do not tell that the pass was over"
    assert step.target is A


def test_a_rate_limit_on_every_target_parks_until_the_first_is_over() -> None:
    w = walk(A, B)
    fail(w, asked(w), K.RATE_LIMIT, wait_s=100.0)
    fail(w, asked(w), K.RATE_LIMIT, wait_s=50.0)
    step = w.next()
    assert isinstance(step, Park)
    assert 50.0 <= step.wait_s <= 55.0


def test_a_wait_over_five_seconds_is_parked_and_then_asks_the_same_target() -> None:
    w = walk(A, B)
    fail(w, asked(w), K.RATE_LIMIT, wait_s=IN_PLACE_S + 2)
    assert isinstance(w.next(), Park)
    w.resumed()
    assert asked(w).target is A


def test_a_batch_line_waits_for_its_target_and_uses_up_no_attempt() -> None:
    w = walk(A, B, lane=Lane.BATCH, most=2)
    for _ in range(10):
        step = w.next()
        if isinstance(step, Park):
            w.resumed()
            step = asked(w)
        assert isinstance(step, Ask)
        assert step.target is A
        fail(w, step, K.RATE_LIMIT, wait_s=30.0)
    assert w.calls == 0


def test_every_key_of_the_pool_is_tried_without_using_up_an_attempt() -> None:
    w = walk(target("a/1", keys=10), most=1)
    keys = []
    for _ in range(9):
        ask = asked(w)
        assert ask.key is not None
        keys.append(ask.key.name)
        fail(w, ask, K.AUTH)
    last = asked(w)
    assert last.key is not None
    assert len({*keys, last.key.name}) == 10
    assert w.calls == 0


def test_a_quota_of_one_model_leaves_the_other_models_of_the_account() -> None:
    pool = (Key("K1", "acme"), Key("K2", "acme"), Key("K3", "other"))
    w = walk(Target("a", "1", "A", pool), Target("a", "2", "A", pool))
    seen = []
    for _ in range(4):
        ask = asked(w)
        assert ask.key is not None
        seen.append((ask.target.model, ask.key.name))
        fail(w, ask, K.QUOTA, of_model=True)
    assert seen == [("1", "K1"), ("1", "K3"), ("2", "K1"), ("2", "K3")]
    assert isinstance(w.next(), Park)
    assert w.calls == 0
    assert w.skips == []
    w.resumed()
    assert asked(w).target.model == "1"


def test_a_quota_error_skips_the_siblings_of_the_account_but_not_another_account() -> None:
    pool = (Key("K1", "acme"), Key("K2", "acme"), Key("K3", "other"))
    w = walk(Target("a", "1", "A", pool))
    first = asked(w)
    fail(w, first, K.QUOTA)
    second = asked(w)
    assert second.key is not None
    assert second.key.name == "K3"
    fail(w, second, K.QUOTA)
    assert isinstance(w.next(draw=0.5), Park)


POOL = Target("a", "1", "A", (Key("K1", "one"), Key("K1B", "one"), Key("K2", "two"), Key("K3", "three")))


def key_of(step: object) -> str | None:
    assert isinstance(step, Ask), step
    return step.key.name if step.key else None


@pytest.mark.parametrize("lane", list(Lane))
def test_a_busy_account_is_replaced_at_once_by_the_next_of_the_pool(lane: Lane) -> None:
    w = walk(POOL, B, lane=lane)
    for name in ("K1", "K2", "K3"):
        step = asked(w)
        assert (key_of(step), step.wait_s) == (name, 0.0)
        fail(w, step, K.RATE_LIMIT, wait_s=30.0)
    assert w.calls == (3 if lane is Lane.INTERACTIVE else 0)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_when_every_account_is_busy_the_one_that_is_free_first_is_waited_for(rebuilt: bool) -> None:
    w = walk(POOL, B)
    said = [("K1", 4.0, 0.0), ("K2", 2.0, 1.0), ("K3", 9.0, 1.5)]
    for name, wait_s, at_s in said:
        if not rebuilt:
            step = asked(w)
            assert key_of(step) == name
        w.failed("a/1", name, Failure(K.RATE_LIMIT, "x", wait_s=wait_s), at_s=at_s, draw=0.0)
    if rebuilt:
        w.resumed(rebuilt=True)
    again = asked(w)
    assert key_of(again) == "K2"
    assert again.wait_s == (0.0 if rebuilt else 1.5), "it was asked half a second ago"


def test_the_pool_of_a_busy_provider_is_asked_twice_more_and_then_the_next_target() -> None:
    w, seen = walk(POOL, B, most=10), []
    while len(seen) < 6:
        step = asked(w)
        fail(w, step, K.RATE_LIMIT, wait_s=1.0, at_s=0.1 * len(seen))
        seen.append(key_of(step))
    assert seen == ["K1", "K2", "K3", "K1", "K2", "B_0"]


def test_a_batch_line_parks_when_the_last_account_of_the_pool_is_busy() -> None:
    w = walk(POOL, B, lane=Lane.BATCH)
    for wait_s in (60.0, 30.0, 90.0):
        fail(w, asked(w), K.RATE_LIMIT, wait_s=wait_s)
    step = w.next()
    assert isinstance(step, Park)
    assert 30.0 <= step.wait_s <= 33.0
    w.resumed()
    assert key_of(w.next()) == "K2"


def test_what_a_busy_account_asked_for_holds_when_the_key_that_replaced_it_is_refused() -> None:
    w = walk(Target("a", "1", "A", POOL.keys[:3]), B)
    fail(w, asked(w), K.RATE_LIMIT, wait_s=30.0)
    fail(w, asked(w), K.AUTH)
    assert asked(w).target is B, "the first has half a minute to go"


def test_a_key_whose_door_is_closed_is_no_replacement() -> None:
    w = walk(POOL, B)
    fail(w, asked(w), K.RATE_LIMIT, wait_s=30.0)
    gate = lambda _t, key: Closed(K.RATE_LIMIT, 40.0, "asked") if key and key.name == "K2" else None  # noqa: E731
    assert key_of(w.next(gate)) == "K3"


def test_a_busy_account_whose_replacement_stays_closed_does_not_get_every_attempt() -> None:
    w, seen = walk(POOL, B, most=10), []
    gate = lambda t, key: Closed(K.RATE_LIMIT, 60.0, "asked") if t is POOL and key != POOL.keys[0] else None  # noqa: E731
    while len(seen) < 5:
        step = w.next(gate)
        if isinstance(step, Park):
            w.resumed()
            continue
        assert isinstance(step, Ask)
        fail(w, step, K.RATE_LIMIT, wait_s=1.0, at_s=float(len(seen)))
        seen.append(key_of(step))
    assert seen == ["K1", "K1", "K1", "K1", "B_0"]


def test_a_retry_whose_own_key_is_closed_meanwhile_is_made_with_another() -> None:
    w = walk(POOL, B)
    fail(w, asked(w), K.SERVER_ERROR)
    gate = lambda _t, key: Closed(K.RATE_LIMIT, 40.0, "asked") if key and key.account == "one" else None  # noqa: E731
    step = w.next(gate)
    assert key_of(step) == "K2"
    assert isinstance(step, Ask)
    assert step.wait_s > 0.0, "what failed is given the same time"


def test_a_route_that_fails_on_a_rate_limit_asks_no_other_key() -> None:
    w = walk(POOL, on={K.RATE_LIMIT: "fail"})
    fail(w, asked(w), K.RATE_LIMIT, wait_s=1.0)
    assert isinstance(w.next(), Stop)


def test_a_busy_account_is_not_asked_beside_an_open_call() -> None:
    w = walk(POOL, B, hedge_after_s=1.0)
    fail(w, asked(w), K.RATE_LIMIT, wait_s=30.0)
    joined = w.hedge(B)
    assert joined is not None
    assert key_of(joined) == "K2"


@pytest.mark.parametrize("kind", [K.OVERLOADED, K.RATE_LIMIT, K.SERVER_ERROR, K.CONNECTION, K.SCHEMA_MISMATCH])
@pytest.mark.parametrize(("most", "width"), [(6, 6), (6, 3), (3, 3), (4, 3), (2, 2), (6, 4)])
@pytest.mark.parametrize("keys", [1, 8])
def test_every_target_has_its_attempt(kind: FailureKind, most: int, width: int, keys: int) -> None:
    """Six attempts went to the first two of three providers; the third was well, and was never asked."""
    pool = tuple(Key(f"K{n}", f"account {n}") for n in range(keys))
    w, seen = walk(*[Target(f"p{n}", "1", "", pool) for n in range(width)], most=most), set()
    while len(seen) < width:
        step = asked(w)
        seen.add(step.target.name)
        fail(w, step, kind)
    assert w.calls <= most


def test_targets_that_were_not_asked_for_want_of_attempts_are_named() -> None:
    w = walk(A, B, target("c/1"), Target("d", "1", "D", (), frozenset({"embedding"})), most=2)
    for _ in range(2):
        fail(w, asked(w), K.OVERLOADED)
    step = w.next()
    assert isinstance(step, Stop)
    assert step.failure.kind is K.OVERLOADED
    assert step.failure.message == "max_attempts (2) are used up, and c/1 was not asked: x"


def test_a_job_that_comes_back_asks_where_there_was_no_money_though_the_pass_was_not_over() -> None:
    closed = Closed(K.QUOTA, 60.0, "no quota")
    w = walk(A, B)
    fail(w, asked(w), K.QUOTA)
    assert isinstance(w.next(lambda t, _key: closed if t is B else None), Park)
    again = walk(A, B)
    again.failed("a/1", "A_0", Failure(K.QUOTA, "x"), at_s=0.0, draw=0.5)
    again.skipped("b/1", K.QUOTA)
    again.resumed()
    step = again.next(lambda t, _key: closed if t is B else None)
    assert isinstance(step, Ask)
    assert step.target is A


def test_a_line_does_not_wait_for_a_key_where_the_target_takes_none() -> None:
    w = walk(Target("q", "m", "Q"), lane=Lane.BATCH)
    fail(w, asked(w), K.AUTH)
    step = w.next()
    assert isinstance(step, Stop)
    assert step.failure.kind is K.AUTH


def test_the_doors_of_a_job_are_those_it_may_still_ask() -> None:
    w = walk(target("a/1", keys=2), B)
    assert [(t.name, key and key.name) for t, key in w.doors()] == [("a/1", "A_0"), ("a/1", "A_1"), ("b/1", "B_0")]
    fail(w, asked(w), K.AUTH)
    fail(w, Ask(B, B.keys[0]), K.MODEL_NOT_FOUND)
    assert [key and key.name for _, key in w.doors()] == ["A_1"]
    bare = walk(Target("q", "m", "Q"))
    assert [key for _, key in bare.doors()] == [None]


def test_a_prompt_too_long_goes_only_to_a_larger_window() -> None:
    small, smaller, large = target("a/1", window=8_000), target("b/1", window=4_000), target("c/1", window=128_000)
    w = walk(small, smaller, large)
    fail(w, asked(w), K.CONTEXT_LENGTH)
    assert asked(w).target is large
    fail(w, Ask(large, large.keys[0]), K.CONTEXT_LENGTH)
    assert isinstance(w.next(), Stop)


def test_targets_that_cannot_take_the_request_are_skipped_with_a_reason() -> None:
    blind = Target("a", "1", "A", (), frozenset({"completion"}))
    w = Walk(route(blind, B), Lane.INTERACTIVE, Needs(frozenset({"completion", "vision"}), 10), 6)
    assert asked(w).target is B
    assert [s.reason for s in w.skips] == ["a/1 does not take vision"]


def test_nothing_fits_ends_with_every_reason() -> None:
    narrow = target("a/1", window=10)
    w = Walk(route(narrow), Lane.INTERACTIVE, Needs(frozenset({"completion"}), 500), 6)
    step = w.next()
    assert isinstance(step, Stop)
    assert step.failure.kind is K.CONTEXT_LENGTH
    assert "window of 10 tokens" in step.failure.message


def test_an_open_breaker_is_passed_by_and_a_route_with_one_target_parks() -> None:
    gate = lambda t, _k: Closed(K.OVERLOADED, 7.0, "open") if t is A else None  # noqa: E731
    step = walk(A, B).next(gate)
    assert isinstance(step, Ask)
    assert step.target is B
    alone = walk(A).next(gate)
    assert isinstance(alone, Park)
    assert alone.wait_s == 7.0


def test_a_route_may_turn_fail_into_next() -> None:
    w = walk(A, B, on={K.CONTENT_FILTER: "next"})
    fail(w, asked(w), K.CONTENT_FILTER)
    assert asked(w).target is B


def test_a_route_may_turn_next_into_fail() -> None:
    w = walk(A, B, on={K.TIMEOUT: "fail"})
    fail(w, asked(w), K.TIMEOUT)
    step = w.next()
    assert isinstance(step, Stop)
    assert step.failure.kind is K.TIMEOUT


def test_a_sleeping_endpoint_is_waited_for_within_its_budget() -> None:
    w = walk(A, cold_start_s=100.0)
    at_s = 0.0
    for _ in range(50):
        step = w.next(draw=0.5)
        if isinstance(step, Stop):
            assert step.failure.kind is K.LOADING
            assert 100.0 <= at_s <= 130.0
            return
        if isinstance(step, Park):
            at_s += step.wait_s
            w.resumed()
        else:
            at_s += step.wait_s
            fail(w, step, K.LOADING, at_s=at_s)
    pytest.fail("it waited for ever")


# -- a second call beside an open one --------------------------------------------------------------------------------

C = target("c/1")


def test_a_slow_call_is_joined_by_the_next_target_that_could_be_asked() -> None:
    w = walk(A, B, C, hedge_after_s=1.0)
    first = asked(w)
    joined = w.hedge(first.target)
    assert joined is not None
    assert (joined.target, joined.key, joined.repair) == (B, B.keys[0], False)
    closed = lambda t, _k: Closed(K.OVERLOADED, 7.0, "open") if t is B else None  # noqa: E731
    past = w.hedge(first.target, closed)
    assert past is not None
    assert past.target is C
    assert w.hedge(first.target, lambda _t, _k: Closed(K.OVERLOADED, 7.0, "open")) is None
    assert w.skips == [], "to look changes nothing"


def test_a_call_of_the_second_target_is_joined_by_one_of_the_first_only_where_that_may_be_asked() -> None:
    w = walk(A, B, hedge_after_s=1.0)
    fail(w, asked(w), K.TIMEOUT)
    assert asked(w).target is B
    assert w.hedge(B) is None, "it was silent once"


def test_another_key_of_the_pool_is_looked_for_and_what_cannot_take_it_is_not_asked() -> None:
    narrow = target("n/1", window=10)
    w = walk(A, narrow, target("b/1", keys=2), hedge_after_s=1.0)
    refused = lambda _t, key: Closed(K.AUTH, 300.0, "refused") if key and key.name == "B_0" else None  # noqa: E731
    joined = w.hedge(A, refused)
    assert joined is not None
    assert joined.key is not None
    assert joined.key.name == "B_1"


@pytest.mark.parametrize(
    "never",
    [
        walk(A, B),
        walk(A, hedge_after_s=1.0),
        walk(A, B, lane=Lane.BATCH, hedge_after_s=1.0),
        walk(A, B, most=1, hedge_after_s=1.0),
    ],
    ids=["not asked for", "nobody else", "batch", "one attempt"],
)
def test_no_call_is_joined(never: Walk) -> None:
    assert never.hedge(asked(never).target) is None


def test_a_job_is_hedged_once_and_both_calls_count() -> None:
    w = walk(A, B, C, most=3, hedge_after_s=1.0)
    first = asked(w)
    joined = w.hedge(first.target)
    assert joined is not None
    w.hedged = True
    fail(w, joined, K.EMPTY_OUTPUT)
    fail(w, first, K.EMPTY_OUTPUT)
    assert w.calls == 2
    last = asked(w)
    assert last.target is C
    assert w.hedge(last.target) is None
    fail(w, last, K.EMPTY_OUTPUT)
    assert isinstance(w.next(), Stop)


KINDS = st.sampled_from(list(K))
EVENTS = st.lists(st.tuples(KINDS, st.none() | st.floats(0, 1e9), st.floats(0, 0.999)), max_size=30)


@given(events=EVENTS, lane=st.sampled_from(list(Lane)), most=st.integers(1, 8), width=st.integers(1, 4))
def test_any_history_ends_within_the_caps(events: list, lane: Lane, most: int, width: int) -> None:
    """Never more counted calls than allowed; a target left for good is never asked again; every wait is finite."""
    w = walk(*[target(f"p{i}/1", keys=2) for i in range(width)], lane=lane, most=most)
    timed_out: set[str] = set()
    for kind, wait_s, draw in events:
        step = w.next(draw=draw)
        while isinstance(step, Park):
            assert 0.0 < step.wait_s < 7 * 3600
            w.resumed()
            step = w.next(draw=draw)
            if isinstance(step, Park):
                break
        if isinstance(step, Stop):
            assert isinstance(w.next(draw=draw), Stop), "an end is an end"
            return
        if isinstance(step, Park):
            continue
        assert step.target.name not in timed_out
        assert w.calls < most
        key = step.key.name if step.key else None
        w.failed(step.target.name, key, Failure(kind, "x", wait_s=wait_s), at_s=0.0, draw=draw)
        if kind is K.TIMEOUT:
            timed_out.add(step.target.name)


def _closed(target: Target, _key: Key | None) -> Closed | None:
    return Closed(K.QUOTA, 600.0, "no money") if target.name == "a/1" else None


@pytest.mark.parametrize("hindered", ["window", "key", "door"])
def test_a_job_rebuilt_after_its_park_goes_on_although_another_target_cannot_be_asked(hindered: str) -> None:
    """What hinders it is in no row. The pass looked unfinished, and the job was parked anew for ever."""
    w = walk(target("a/1", window=50 if hindered == "window" else None), target("b/1"))
    if hindered == "key":
        w.failed("a/1", "A_0", Failure(K.AUTH, "x"), at_s=0.0, draw=0.5)
    w.failed("b/1", "B_0", Failure(K.RATE_LIMIT, "x", wait_s=40.0), at_s=0.0, draw=0.5)
    w.resumed(rebuilt=True)
    step = w.next(_closed) if hindered == "door" else w.next()
    assert isinstance(step, Ask)
    assert step.target.name == "b/1"
    w.failed("b/1", "B_0", Failure(K.RATE_LIMIT, "x", wait_s=40.0), at_s=0.0, draw=0.5)
    assert isinstance(w.next(_closed) if hindered == "door" else w.next(), Park), "the next wait is a wait again"


def test_a_target_that_its_row_tells_is_too_small_is_no_reason_to_go_on_with_an_old_pass() -> None:
    """The pass was over; who asks the poor account first of all, as if it were not, leaves the order of the route."""
    small = target("c/1", window=50)
    lived, rebuilt = (walk(target("a/1"), target("b/1", keys=0), small) for _ in range(2))
    for one in (lived, rebuilt):
        if one is lived:
            one.next()
        one.failed("a/1", "A_0", Failure(K.RATE_LIMIT, "x", wait_s=40.0), at_s=0.0, draw=0.5)
        one.failed("b/1", None, Failure(K.QUOTA, "x", wait_s=40.0), at_s=8.0, draw=0.5)
    assert isinstance(lived.next(), Park)
    lived.resumed()
    for skip in lived.skips:
        rebuilt.skipped(skip.target.name, skip.kind)
    rebuilt.resumed(rebuilt=True)
    assert asked(lived).target.name == asked(rebuilt).target.name == "a/1"


@given(kinds=st.lists(st.sampled_from([K.CONNECTION, K.TIMEOUT, K.AUTH, K.SERVER_ERROR, K.QUOTA]), max_size=12))
def test_a_walk_rebuilt_from_the_rows_goes_on_where_the_old_one_stood(kinds: list[FailureKind]) -> None:
    targets = [target(f"p{i}/1", keys=2) for i in range(3)]
    first = walk(*targets, backoff=Backoff(0.0, 0.0))
    rows: list[tuple[str, str | None, FailureKind]] = []
    for kind in kinds:
        step = first.next()
        if isinstance(step, Park):
            first.resumed()
            step = first.next()
        if not isinstance(step, Ask):
            break
        fail(first, step, kind)
        rows.append((step.target.name, step.key.name if step.key else None, kind))
    again = walk(*targets, backoff=Backoff(0.0, 0.0))
    for name, key, kind in rows:
        again.failed(name, key, Failure(kind, "x"), at_s=0.0, draw=0.5)
    assert again.calls == first.calls
    here, there = first.next(), again.next()
    if isinstance(here, Park):
        first.resumed()
        here = first.next()
    again.resumed()
    if isinstance(there, Park):
        there = again.next()
    assert type(here) is type(there)
    if isinstance(here, Ask) and isinstance(there, Ask):
        assert here.target == there.target


@given(n=st.integers(0, 60), draws=st.lists(st.floats(0, 0.999), min_size=2, max_size=2))
def test_backoff_is_bounded_and_grows_with_the_draw(n: int, draws: list[float]) -> None:
    backoff = Backoff(0.5, 60.0)
    for low, high in pairwise(sorted(draws)):
        assert 0.0 <= backoff.delay_s(n, low) <= backoff.delay_s(n, high) <= 60.0


@given(
    kinds=st.lists(st.tuples(KINDS, KINDS), max_size=4),
    second_first=st.booleans(),
    most=st.integers(1, 6),
    width=st.integers(1, 4),
)
def test_two_calls_at_once_keep_within_the_caps(
    kinds: list[tuple[FailureKind, FailureKind]], second_first: bool, most: int, width: int
) -> None:
    """Whatever both fail with, in either order: at most `most` calls that count, and one is joined."""
    w = walk(*[target(f"p{i}/1", keys=2) for i in range(width)], most=most, hedge_after_s=1.0)
    joins = 0
    for kind, other in kinds:
        step = w.next(draw=0.5)
        if not isinstance(step, Ask):
            return
        joined = w.hedge(step.target)
        calls = [(step, kind)]
        if joined is not None:
            assert joined.target.name != step.target.name
            w.hedged = True
            joins += 1
            calls.append((joined, other))
        for ask, failure in reversed(calls) if second_first else calls:
            fail(w, ask, failure)
        assert w.calls <= most
    assert joins <= 1
