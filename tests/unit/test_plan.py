"""A plan is what a job would do: the policy table in sequences, and every sequence replayed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind, Lane
from worker.domain.plan import CALL_S, SHOWN, PlanStep, joined, plan
from worker.domain.retry import Backoff
from worker.domain.route import Key, Needs, Route, Target
from worker.domain.walk import Ask, Park, Stop, Walk

INTERACTIVE, BATCH = Lane.INTERACTIVE, Lane.BATCH
K = FailureKind
A = Target("groq", "a", "Groq", (Key("GROQ_API_KEY", "groq"),), window=8_000)
B = Target("kimi", "b", "Kimi", (Key("KIMI_API_KEY", "kimi"),), window=128_000)
TWO = Route("default", (A, B), backoff=Backoff(0.5, 60.0))
POOL = Route("pool", (replace(A, keys=(Key("K1", "one"), Key("K2", "one"), Key("K3", "two"))), B))


def words(steps: Sequence[PlanStep]) -> str:
    """`a b fail`; `a!`: to mend; `~2`: given back for at most 2 s; `a+1`: after at most 1 s; `...`: more of it."""
    return " ".join(map(_word, steps))


def _word(step: PlanStep) -> str:
    if step.do in {"fail", "expire", "end"}:
        return step.do
    if step.do == "wait":
        said = f"~{step.wait_s:g}"
    else:
        assert step.target is not None
        said = step.target.rpartition("/")[2] + "!" * (step.do == "repair")
        said += f"+{step.wait_s:g}" if step.wait_s else ""
    return said + " ..." * bool(step.skipped)


@pytest.mark.parametrize(
    ("lane", "kind", "expected"),
    [
        (INTERACTIVE, K.RATE_LIMIT, "a a+0.5 a+1 b b+0.5 b+1 fail"),
        (BATCH, K.RATE_LIMIT, "a a+0.5 a+1 ... expire"),
        (INTERACTIVE, K.AUTH, "a b fail"),
        (INTERACTIVE, K.MODEL_NOT_FOUND, "a b fail"),
        (INTERACTIVE, K.CONTEXT_LENGTH, "a b fail"),
        (INTERACTIVE, K.BAD_REQUEST, "a fail"),
        (INTERACTIVE, K.CONTENT_FILTER, "a fail"),
        (INTERACTIVE, K.TIMEOUT, "a b fail"),
        (BATCH, K.TIMEOUT, "a b fail"),
        (INTERACTIVE, K.OVERLOADED, "a a+0.5 a+1 b b+0.5 b+1 fail"),
        (INTERACTIVE, K.CONNECTION, "a a+0.5 b b+0.5 ~1 a a+1 fail"),
        (INTERACTIVE, K.SERVER_ERROR, "a a+0.5 b b+0.5 ~1 a a+1 fail"),
        (INTERACTIVE, K.EMPTY_OUTPUT, "a b fail"),
        (INTERACTIVE, K.SCHEMA_MISMATCH, "a a! b b! fail"),
        (INTERACTIVE, K.LOADING, "a b ~10 a b ~10 a b ~10 ... fail"),
        (BATCH, K.LOADING, "a ~10 a ~10 a ~10 ... fail"),
        (INTERACTIVE, K.QUOTA, "a b ~60 a b ~60 a b ~60 ... expire"),
        (INTERACTIVE, K.INTERRUPTED, "a a a fail"),
        (INTERACTIVE, K.CANCELLED, "a end"),
        (INTERACTIVE, K.DEADLINE, "a end"),
    ],
)
def test_the_policy_table_in_sequences(lane: Lane, kind: FailureKind, expected: str) -> None:
    assert words(plan(TWO, lane, kind)) == expected


def test_a_wait_the_provider_names_is_kept_within_the_bounds_of_the_lane() -> None:
    short = plan(TWO, INTERACTIVE, K.RATE_LIMIT, hint_s=2.0)
    assert words(short) == "a a+2.2 a+2.2 b b+2.2 b+2.2 fail"
    assert words(plan(TWO, INTERACTIVE, K.RATE_LIMIT, hint_s=60.0)).startswith("a b ~66 a"), "nobody waits a minute"
    assert words(plan(TWO, BATCH, K.RATE_LIMIT, hint_s=60.0)).startswith("a ~66 a ~66 a"), "a batch line does"


def test_every_key_of_a_pool_has_its_turn_and_keys_of_one_account_share_their_quota() -> None:
    refused = plan(POOL, INTERACTIVE, K.AUTH)
    assert [step.key for step in refused] == ["K1", "K2", "K3", "KIMI_API_KEY", None]
    spent = plan(POOL, INTERACTIVE, K.QUOTA)
    assert [step.key for step in spent][:4] == ["K1", "K3", "KIMI_API_KEY", None]


def test_keys_of_other_accounts_come_before_a_wait() -> None:
    for lane in (INTERACTIVE, BATCH):
        steps = plan(POOL, lane, K.RATE_LIMIT, hint_s=8.0)
        assert [(step.key, step.wait_s) for step in steps[:2]] == [("K1", 0.0), ("K3", 0.0)]
        assert (steps[2].do, steps[3].key) == ("wait", "K1")


def test_a_route_may_go_round_a_refusal_or_stop_at_a_fault() -> None:
    route = replace(TWO, on={K.CONTENT_FILTER: "next", K.SERVER_ERROR: "fail"})
    assert words(plan(route, INTERACTIVE, K.CONTENT_FILTER)) == "a b fail"
    assert words(plan(route, INTERACTIVE, K.SERVER_ERROR)) == "a fail"


def test_what_is_left_out_is_counted_and_only_where_nothing_is_used_up() -> None:
    steps = plan(TWO, BATCH, K.RATE_LIMIT, hint_s=600.0)
    calls = math.ceil(86_400 / (600 * 1.1 + CALL_S))
    assert [step.skipped for step in steps if step.skipped] == [2 * (calls - SHOWN)], "of each a call and a wait"
    exact = plan(replace(TWO, max_attempts=100), INTERACTIVE, K.OVERLOADED)
    assert sum(step.counts for step in exact) == 100
    assert not any(step.skipped for step in exact)


def test_who_joins_a_slow_call() -> None:
    assert joined(TWO) is None
    assert joined(replace(TWO, hedge_after_s=2.0)) == (A, B)
    assert joined(replace(TWO, targets=(A,), hedge_after_s=2.0)) is None


ROUTES = st.builds(
    Route,
    name=st.just("drawn"),
    targets=st.lists(
        st.builds(
            Target,
            provider=st.sampled_from(["groq", "kimi", "openai"]),
            model=st.sampled_from("abc"),
            label=st.just(""),
            keys=st.lists(
                st.builds(Key, name=st.sampled_from(["K1", "K2"]), account=st.sampled_from("xy")),
                max_size=2,
                unique_by=lambda key: key.name,
            ).map(tuple),
            window=st.sampled_from([None, 8_000, 128_000]),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda target: target.name,
    ).map(tuple),
    max_attempts=st.integers(1, 12),
    max_wait_s=st.sampled_from([0.0, 10.0, 60.0]),
    on=st.dictionaries(st.sampled_from([K.SERVER_ERROR, K.REFUSAL, K.TIMEOUT]), st.sampled_from(["next", "fail"])),
)


@given(ROUTES, st.sampled_from(Lane), st.sampled_from(FailureKind), st.sampled_from([None, 0.0, 7.0, 3600.0]))
def test_a_job_does_what_its_plan_says(route: Route, lane: Lane, kind: FailureKind, hint_s: float | None) -> None:
    """Replayed with other draws: the calls are the same, and no wait is longer than was said."""
    steps = plan(route, lane, kind, hint_s=hint_s, deadline_s=3600.0)
    walk = Walk(route, lane, Needs(frozenset({"completion"}), 1), route.max_attempts)
    at_s = 0.0
    for place, step in enumerate(steps):
        if step.do == "expire" or (step.do == "fail" and kind is K.INTERRUPTED):
            return  # decided by the clock or the store, not by the walk
        found = walk.next(draw=0.7)
        at_s += step.wait_s + CALL_S * (step.do in {"call", "repair"})
        match found:
            case Ask(target, key, wait_s, repair):
                assert (step.do, step.target) == ("repair" if repair else "call", target.name)
                assert step.key == (key.name if key is not None else None)
                assert wait_s <= step.wait_s
                failure = Failure(kind, kind.value, wait_s=hint_s)
                walk.failed(target.name, step.key, failure, at_s=at_s, draw=0.7)
            case Park(wait_s):
                assert step.do == "wait"
                assert wait_s <= step.wait_s
                walk.resumed()
            case Stop():
                assert step.do in {"fail", "end"}
                assert place == len(steps) - 1
        if step.skipped:
            return  # what follows is more of the same
    assert steps[-1].do in {"fail", "expire", "end"}


@given(ROUTES, st.sampled_from(Lane), st.sampled_from(FailureKind))
def test_a_plan_ends_is_short_and_keeps_within_the_cap(route: Route, lane: Lane, kind: FailureKind) -> None:
    steps = plan(route, lane, kind, deadline_s=3600.0)
    assert [step.do for step in steps if step.do in {"fail", "expire", "end"}] == [steps[-1].do]
    assert sum(step.counts for step in steps) <= route.max_attempts
    keys = sum(max(1, len(target.keys)) for target in route.targets)
    assert len(steps) <= 2 * (route.max_attempts + SHOWN * keys) + 2
