"""What one worker process remembers of targets, keys and accounts."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.support.looped import looped
from tests.support.tickets import admitted
from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.domain.route import Key, Target
from worker.limits.gate import Gate, Rates, Size, Ticket

K = FailureKind
K1, K2, K3 = Key("K1", "acme"), Key("K2", "acme"), Key("K3", "other")
T = Target("p", "m", "P", (K1, K2, K3))
OTHER = Target("p", "n", "P", (K1, K2, K3))
BARE = Target("q", "m", "Q")
ANY = Size()


def entered(
    gate: Gate,
    target: Target = T,
    key: Key | None = K1,
    now_s: float = 0.0,
    size: Size = ANY,
    *,
    again: bool = False,
) -> Ticket:
    ticket = gate.join(target, key, size, now_s)
    assert ticket.admitted, "it need not wait"
    gate.enter(ticket, T, K1, now_s, again=again)
    return ticket


def call(
    gate: Gate,
    outcome: Outcome | None,
    target: Target = T,
    key: Key | None = K1,
    now_s: float = 0.0,
    took_s: float = 0.0,
    size: Size = ANY,
) -> None:
    ticket = entered(gate, target, key, now_s, size)
    gate.leave(ticket, target, key, outcome, now_s + took_s)


def failed(
    gate: Gate,
    kind: FailureKind,
    target: Target = T,
    key: Key | None = K1,
    wait_s: float | None = None,
    now_s: float = 0.0,
) -> None:
    call(gate, Failure(kind, "x", wait_s=wait_s), target, key, now_s)


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


def test_a_target_that_says_how_long_it_is_overloaded_is_left_alone_so_long_whatever_the_key() -> None:
    gate = Gate({})
    failed(gate, K.OVERLOADED, wait_s=60.0)
    failed(gate, K.OVERLOADED, wait_s=0.5)  # of a call that was on its way meanwhile
    for key in (K1, K2, K3):
        closed = gate.look(T, key, 20.0)
        assert closed is not None
        assert (closed.kind, closed.wait_s) == (K.OVERLOADED, 40.0)
    assert gate.report(20.0)["targets"] == {"p/m": {"state": "open", "wait_s": 40.0}}
    assert kind_of(gate, OTHER, K1, 20.0) is None
    assert kind_of(gate, now_s=60.0) is None
    failed(gate, K.OVERLOADED, wait_s=600.0, now_s=60.0)
    gate.force("p/m", "close")
    assert kind_of(gate, now_s=61.0) is None, "who closes its breaker means that it is to be asked"


@pytest.mark.parametrize("kind", [K.SERVER_ERROR, K.CONFLICT])
def test_a_wait_after_a_failure_of_one_request_is_that_requests_own(kind: FailureKind) -> None:
    gate = Gate({})
    failed(gate, kind, wait_s=60.0)
    assert kind_of(gate) is None


@pytest.mark.parametrize("kind", [K.CONNECTION, K.TIMEOUT, K.OVERLOADED, K.SERVER_ERROR, K.EMPTY_OUTPUT])
def test_failures_of_the_provider_open_its_breaker(kind: FailureKind) -> None:
    gate = Gate({})
    for n in range(5):
        failed(gate, kind, now_s=float(n))
    assert kind_of(gate, now_s=4.0) is K.OVERLOADED
    assert kind_of(gate, OTHER) is None
    assert gate.report(4.0)["targets"] == {"p/m": {"state": "open", "wait_s": 10.0}}


@pytest.mark.parametrize("kind", [K.BAD_REQUEST, K.CONTEXT_LENGTH, K.CONTENT_FILTER, K.MODEL_NOT_FOUND, K.RATE_LIMIT])
def test_failures_of_the_request_do_not(kind: FailureKind) -> None:
    gate = Gate({})
    for n in range(20):
        failed(gate, kind, key=None, target=BARE, wait_s=0.0, now_s=3.0 * n)
    assert kind_of(gate, BARE, None, now_s=60.0) is None


def test_a_sleeping_endpoint_is_woken_by_one_call() -> None:
    gate = Gate({})
    failed(gate, K.LOADING, BARE, None)
    assert kind_of(gate, BARE, None) is K.LOADING
    assert kind_of(gate, BARE, None, now_s=10.0) is None
    scout = entered(gate, BARE, None, 10.0)
    assert kind_of(gate, BARE, None, now_s=10.0) is K.LOADING, "the others wait for the one that looks"
    gate.leave(scout, BARE, None, Answer(), 11.0)
    assert kind_of(gate, BARE, None, now_s=11.0) is None


def test_one_call_finds_out_whether_a_sleeper_is_awake() -> None:
    gate = Gate({}, ["q"])
    assert kind_of(gate, BARE, None) is None
    scout = entered(gate, BARE, None)
    assert kind_of(gate, BARE, None) is K.RATE_LIMIT, "the others wait for the one that is out"
    gate.leave(scout, BARE, None, Answer(), 1.0)
    assert kind_of(gate, BARE, None, now_s=1.0) is None
    call(gate, Answer(), BARE, None, now_s=1.0, took_s=1.0)
    assert kind_of(gate, BARE, None, now_s=1.0) is None, "it is awake: as many as like"
    entered(gate, BARE, None, 100.0)
    assert kind_of(gate, BARE, None, now_s=100.0) is K.RATE_LIMIT, "it may have fallen asleep since"


def test_a_scout_that_never_comes_back_is_forgotten() -> None:
    gate = Gate({}, ["q"])
    entered(gate, BARE, None)
    assert kind_of(gate, BARE, None, now_s=200.0) is None


class HeldRedis:
    """Grants whatever it is asked for, as soon as it may answer."""

    up, why = True, ""

    def __init__(self) -> None:
        self.on_away: object = None
        self.answers = asyncio.Event()

    def worker(self) -> str:
        return "wrk_1"

    async def run(self, _script: str, _keys: list[str], told: dict[str, list[object]]) -> list[int]:
        await self.answers.wait()
        return [len(told["costs"]), 0]

    async def close(self) -> None: ...


@pytest.mark.parametrize("leaving", [0, 1, 2])
@looped
async def test_who_leaves_the_line_while_redis_is_asked_takes_nobodys_grant_along(leaving: int) -> None:
    redis = HeldRedis()
    gate = Gate({"p": Rates(rpm=600)}, shared=redis)  # type: ignore[arg-type]
    tickets = [gate.join(T, K1, ANY, 0.0) for _ in range(3)]
    await asyncio.sleep(0.0)
    gate.quit(tickets[leaving])
    redis.answers.set()
    others = [ticket for ticket in tickets if ticket is not tickets[leaving]]
    assert [await admitted(ticket, 1.0) for ticket in others] == [True, True]
    assert not tickets[leaving].admitted
    assert others[0].line.door.waiting == 0
    assert others[0].line.scopes[0].settle[0] == 1.0, "what it was granted goes back"
    assert tickets[leaving].coming is not None
    assert tickets[leaving].coming.done(), "nobody waits for it any more"
    await gate.close()


# -- what is kept -------------------------------------------------------------------------------------------------


def kept(gate: Gate) -> tuple[int, ...]:
    return len(gate._doors), len(gate._lines), len(gate._lines_of), len(gate._rests), len(gate._counted_s)


def test_names_that_anybody_may_make_up_leave_nothing_behind() -> None:
    gate = Gate({})
    asked_for = (K.MODEL_NOT_FOUND, K.BAD_REQUEST, K.RATE_LIMIT, K.SERVER_ERROR)
    for n in range(20_000):
        now_s = n / 100.0
        target = Target("q", f"nobody-{n}", "Q")
        failed(gate, asked_for[n % 4] if n % 100 < 4 else K.MODEL_NOT_FOUND, target, None, now_s=now_s)
        gate.reads_counters(target, now_s)
        if n % 500 == 0:
            gate.sweep(now_s)
    assert max(kept(gate)) < 3_000, "those of the last seconds, and the few that failed"
    gate.sweep(1_000.0)
    assert kept(gate) == (0, 0, 0, 0, 0)


def test_what_is_used_or_shut_or_waited_for_is_kept_however_long() -> None:
    gate = Gate({})
    for _ in range(5):
        failed(gate, K.SERVER_ERROR)
    gate._doors["p/m"].breaker.hold_open(1_000.0)  # as the fleet has it for a target that fails on and on
    failed(gate, K.OVERLOADED, BARE, None, wait_s=1_000.0)
    open_call = entered(gate, Target("q", "slow", "Q"), None)
    gate.force("q/held", "open")
    gate.sweep(999.0)
    assert set(gate._doors) == {"p/m", "q/m", "q/slow", "q/held"}
    assert kind_of(gate, now_s=999.0) is K.OVERLOADED
    gate.leave(open_call, Target("q", "slow", "Q"), None, Answer(), 1_000.0)
    gate.sweep(1_290.0)
    assert set(gate._doors) == {"q/slow", "q/held"}, "what answered is remembered for minutes"
    gate.sweep(1_301.0)
    assert set(gate._doors) == {"q/held"}


@looped
async def test_a_line_in_which_somebody_waits_is_kept() -> None:
    gate = Gate({"p": Rates(rpm=1)})
    gate.join(T, K1, ANY, 0.0)
    waiting = gate.join(T, K1, ANY, 0.0)
    assert not waiting.admitted
    gate.sweep(1_000.0)
    assert gate.join(T, K1, ANY, 1_000.0).line is waiting.line
    await gate.close()


# -- rates --------------------------------------------------------------------------------------------------------


def let_in(gate: Gate, now_s: float, n: int = 1000, size: Size = ANY, target: Target = T, key: Key = K1) -> int:
    """How many of `n` that ask at once are let in at once."""
    tickets = [gate.join(target, key, size, now_s, urgent=False) for _ in range(n)]
    admitted = sum(ticket.admitted for ticket in tickets)
    for ticket in tickets:
        if not ticket.admitted:
            gate.quit(ticket)
    return admitted


@looped
async def test_a_configured_rate_lets_a_second_through_and_then_a_share_of_time() -> None:
    gate = Gate({"p": Rates(rpm=6000)})
    assert let_in(gate, 0.0) in {98, 99}
    assert let_in(gate, 0.0) == 0
    assert let_in(gate, 0.1) in {9, 10}


@looped
async def test_keys_of_one_account_share_its_limit_and_another_account_has_its_own() -> None:
    gate = Gate({"p": Rates(rpm=60)})
    assert let_in(gate, 0.0) == 1
    assert let_in(gate, 0.0, key=K2) == 0
    assert let_in(gate, 0.0, target=OTHER) == 0
    assert let_in(gate, 0.0, key=K3) == 1


@looped
async def test_a_model_may_have_limits_of_its_own_below_those_of_its_provider() -> None:
    gate = Gate({"p": Rates(rpm=6000), "p/m": Rates(rpm=60)})
    assert let_in(gate, 0.0) == 1
    assert let_in(gate, 0.0, target=OTHER) > 40


@looped
async def test_without_redis_a_limit_is_divided_by_the_workers_that_live() -> None:
    gate = Gate({"p": Rates(rpm=6000, concurrency=20)})
    gate.live = 4
    assert let_in(gate, 0.0) == 5, "places"
    gate = Gate({"p": Rates(rpm=6000)})
    gate.live = 4
    assert let_in(gate, 0.0) in {24, 25}
    assert gate.report(0.0)["limits"] == {"shared": False, "workers": 4, "why": "no REDIS_URL is set"}


@looped
async def test_reserved_tokens_come_back_when_fewer_were_used_and_more_are_owed() -> None:
    for used, at_s in ((10, 0.0), (4000, 20.0)):
        gate = Gate({"p": Rates(tpm=6000)})
        call(gate, Answer(usage=Usage(1, 0)), size=Size(1, 0))
        ticket = entered(gate, size=Size(1000, 0))
        assert let_in(gate, 0.0, 1) == 0
        gate.leave(ticket, T, K1, Answer(usage=Usage(used, 0)), 0.0)
        assert let_in(gate, at_s, 1) == (1 if used == 10 else 0)


@looped
async def test_a_call_that_failed_before_a_token_was_spent_is_refunded() -> None:
    gate = Gate({"p": Rates(tpm=6000)})
    call(gate, Answer(usage=Usage(1, 0)), size=Size(1, 0))
    ticket = entered(gate, size=Size(1000, 0))
    assert let_in(gate, 0.0, 1) == 0
    gate.leave(ticket, T, K1, Failure(K.BAD_REQUEST, "x"), 0.0)
    assert let_in(gate, 0.0, 1) == 1


@looped
async def test_estimates_learn_from_what_was_used() -> None:
    gate = Gate({"p": Rates(tpm=600_000)})
    for n in range(100):
        ticket = entered(gate, now_s=float(n), size=Size(100, 4000))
        gate.leave(ticket, T, K1, Answer(usage=Usage(300, 50)), float(n))
    _, tokens, _, output = entered(gate, now_s=200.0, size=Size(100, 4000)).cost
    assert 340 < tokens < 360
    assert output == 50


@looped
async def test_until_the_first_answer_one_call_scouts_and_guesses_count_three_times() -> None:
    gate = Gate({"p": Rates(tpm=60_000)})
    scout, second = (entered(gate, size=Size(50)) for _ in range(2))
    assert (scout.cost[1], second.cost[1]) == (0.0, 750.0)
    waiting = gate.join(T, K1, Size(50), 0.0)
    assert not waiting.admitted
    for ticket in (scout, second):
        gate.leave(ticket, T, K1, Answer(usage=Usage(10, 5)), 0.0)
    assert await admitted(waiting)
    assert waiting.cost == (1.0, 15.0, 10.0, 5.0), "while it waited there was something to learn"


@looped
async def test_a_scout_that_comes_back_with_nothing_is_followed_by_another() -> None:
    gate = Gate({"p": Rates(tpm=60_000)})
    call(gate, Failure(K.SERVER_ERROR, "x"))
    assert entered(gate).cost[1] == 0.0


@looped
async def test_a_provider_that_does_not_count_is_taken_to_need_what_was_thought() -> None:
    gate = Gate({"p": Rates(tpm=60_000)})
    call(gate, Answer(), size=Size(50))
    assert entered(gate, size=Size(50)).cost[1] == 250.0


@looped
async def test_a_line_of_small_calls_under_a_token_limit_is_not_full() -> None:
    for answered in (False, True):
        gate = Gate({"p": Rates(rpm=3000, tpm=100_000)}, slots=200)
        if answered:
            call(gate, Answer(usage=Usage(10, 5)), size=Size(8))
        waiting = [gate.join(T, K1, Size(8), 0.0, urgent=False) for _ in range(190)]
        assert gate.look(T, K1, 0.0, urgent=False) is None
        for ticket in waiting:
            gate.quit(ticket)


@looped
async def test_a_share_of_its_own_keeps_no_more_than_it_gets_done_while_others_may_have_room() -> None:
    for live, full in ((1, False), (2, True)):
        gate = Gate({"p": Rates(rpm=600)}, slots=1000)
        gate.live = live
        waiting = [gate.join(T, K1, ANY, 0.0, urgent=False) for _ in range(90)]
        assert (gate.look(T, K1, 0.0, urgent=False) is not None) is full
        for ticket in waiting:
            gate.quit(ticket)


@looped
async def test_places_are_handed_on() -> None:
    gate = Gate({"p": Rates(concurrency=1)})
    first = entered(gate)
    second = gate.join(T, K1, Size(), 0.0)
    assert not second.admitted
    gate.leave(first, T, K1, Answer(), 0.1)
    assert await admitted(second)


@looped
async def test_who_is_in_a_hurry_goes_first() -> None:
    gate = Gate({"p": Rates(concurrency=1)})
    first = entered(gate)
    patient, hurried = (gate.join(T, K1, Size(), 0.0, urgent=urgent) for urgent in (False, True))
    gate.leave(first, T, K1, Answer(), 0.1)
    assert await admitted(hurried)
    assert not patient.admitted
    gate.quit(patient)


@looped
async def test_a_line_that_is_too_long_sends_batch_jobs_away_each_to_a_time_of_its_own() -> None:
    gate = Gate({"p": Rates(rpm=600)}, slots=100)
    waiting = [gate.join(T, K1, Size(), 0.0, urgent=False) for _ in range(90)]
    found = [gate.look(T, K1, 0.0, urgent=False) for _ in range(100)]
    waits = [closed.wait_s for closed in found if closed is not None]
    assert len(waits) == 100
    assert min(waits) > 5.0, "its place is needed"
    assert max(waits) - min(waits) > 5.0, "they do not come back as one"
    for ticket in waiting:
        gate.quit(ticket)
    assert kind_of(gate) is None


@looped
async def test_nothing_left_on_a_providers_counter_is_obeyed() -> None:
    gate = Gate({})
    call(gate, Answer())
    gate.counted(T, K1, [(1000, 0, 40.0)], 0.0)
    closed = gate.look(T, K1, 0.0)
    assert closed is not None
    assert (closed.kind, closed.wait_s) == (K.RATE_LIMIT, 40.0)
    assert kind_of(gate, now_s=41.0) is None


# -- doors --------------------------------------------------------------------------------------------------------


@looped
async def test_a_target_that_never_answered_gets_few_calls_at_once() -> None:
    gate = Gate({}, slots=1000)
    tickets = [gate.join(T, K1, Size(), 0.0, urgent=False) for _ in range(300)]
    open_ = [ticket for ticket in tickets if ticket.admitted]
    for ticket in open_:
        gate.enter(ticket, T, K1, 0.0)
    more = [gate.join(T, K1, Size(), 0.0, urgent=False) for _ in range(100)]
    assert len(open_) + sum(ticket.admitted for ticket in more) <= 300
    for ticket in open_[:6]:
        gate.leave(ticket, T, K1, Answer(), 0.1)
    assert await admitted(more[-1]), "each answer doubles what may be open"


@looped
async def test_a_silent_target_does_not_take_the_places_of_others() -> None:
    gate = Gate({}, slots=100)
    for _ in range(3):
        call(gate, Answer(), took_s=0.1)
    for _ in range(50):
        entered(gate, now_s=1.0)
    assert kind_of(gate, now_s=1.2) is None
    closed = gate.look(T, K1, 2.0, urgent=False)
    assert closed is not None
    assert closed.kind is K.OVERLOADED
    assert closed.wait_s > 5.0, "longer than a job waits in its place"
    assert kind_of(gate, BARE, None, now_s=2.0) is None


@looped
async def test_a_slow_target_that_answers_is_not_silent() -> None:
    gate = Gate({}, slots=100)
    for _ in range(3):
        call(gate, Answer(), took_s=20.0)
    for _ in range(100):
        entered(gate, now_s=30.0)
    assert kind_of(gate, now_s=65.0) is None


def test_slow_answers_open_the_breaker_where_the_file_says_what_is_slow() -> None:
    gate = Gate({"p": Rates(slow_s=10.0)})
    for _ in range(5):
        call(gate, Answer(), took_s=11.0)
    assert kind_of(gate, now_s=11.0) is K.OVERLOADED


def test_calls_from_before_an_outage_say_nothing_of_what_came_after() -> None:
    gate = Gate({})
    old = [entered(gate) for _ in range(20)]
    for _ in range(5):
        failed(gate, K.SERVER_ERROR)
    probe = entered(gate, now_s=10.0)
    gate.leave(probe, T, K1, Answer(), 10.1)
    for ticket in old:
        gate.leave(ticket, T, K1, Failure(K.TIMEOUT, "x"), 11.0)
    assert kind_of(gate, now_s=11.0) is None


def repeated(gate: Gate, of: int, outcomes: list[Outcome]) -> int:
    """How many of so many calls may be followed by another of the same job."""
    again = 0
    for n in range(of):
        now_s = n / 10.0
        call(gate, outcomes[n % len(outcomes)], now_s=now_s)
        if gate.look(T, K1, now_s, again=True) is None:
            ticket = entered(gate, now_s=now_s, again=True)
            gate.leave(ticket, T, K1, outcomes[n % len(outcomes)], now_s)
            again += 1
    return again


def test_asking_again_is_bounded_by_a_tenth_while_a_target_fails_and_free_while_it_does_well() -> None:
    some_fail: list[Outcome] = [Failure(K.SERVER_ERROR, "x"), Answer(), Answer()]
    assert repeated(Gate({}), 1000, some_fail) <= 1.1 * (10 + 100 + 1000 / 10.0 / 10.0)
    assert repeated(Gate({}), 100, [Answer()]) == 100


@looped
async def test_who_has_been_through_the_line_is_not_sent_away_because_of_its_length() -> None:
    gate = Gate({"p": Rates(rpm=600)}, slots=100)
    tickets = [gate.join(T, K1, ANY, 0.0, urgent=False) for _ in range(90)]
    assert gate.look(T, K1, 0.0, urgent=False) is not None
    assert gate.look(T, K1, 0.0, urgent=False, waited=True) is None
    for ticket in tickets:
        gate.quit(ticket)


def test_an_operator_holds_a_door_open_or_shut() -> None:
    gate = Gate({})
    gate.force("p/m", "open")
    assert kind_of(gate) is K.OVERLOADED
    assert gate.report(0.0)["targets"]["p/m"]["state"] == "open"
    gate.force("p/m", None)
    assert kind_of(gate) is None
    for _ in range(5):
        failed(gate, K.SERVER_ERROR)
    assert kind_of(gate) is K.OVERLOADED
    gate.force("p/m", "close")
    assert kind_of(gate) is None


@looped
async def test_a_cancel_that_was_swallowed_is_said_again() -> None:
    """As `asyncio.wait_for` of Python 3.11 does, in the client of Redis, when it comes together with a result."""

    async def deaf() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    gate = Gate({})
    await gate.start()
    gate._tasks.append(asyncio.create_task(deaf()))
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await gate.close()
