"""Several gates on one Redis, as the workers of a fleet have them: rates, places and breakers that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

import pytest
from redis import Redis as SyncRedis

from tests.support.looped import looped
from tests.support.redis import Redis
from tests.support.tickets import admitted
from worker import clock
from worker.domain.answer import Answer, Failure, Outcome
from worker.domain.breaker import BreakerPolicy
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.domain.route import Key, Target
from worker.limits import line
from worker.limits.gate import Gate, Rates, Shared, Size, Ticket
from worker.limits.scope import BURST_S

pytestmark = pytest.mark.redis

K = FailureKind
KEY = Key("K", "acme")
T = Target("p", "m", "P", (KEY,))
USAGE, SIZE = Usage(50, 50), Size(50)
DOWN = Failure(K.SERVER_ERROR, "down")
QUICK = BreakerPolicy(open_s=0.4, longest_open_s=0.8, step_s=0.1)


@asynccontextmanager
async def fleet(
    redis: Redis, n: int, rates: Rates | None = None, policy: BreakerPolicy | None = None
) -> AsyncIterator[list[Gate]]:
    gates = []
    for number in range(n):
        shared = Shared(redis.url, lambda number=number: f"wrk_{number}")  # type: ignore[misc]
        gate = Gate({"p": rates} if rates is not None else {}, shared=shared, policy=policy)
        gate.live = n
        await gate.start()
        gates.append(gate)
    try:
        yield gates
    finally:
        for gate in gates:
            await gate.close()


async def entered(gate: Gate, size: Size) -> Ticket:
    ticket = gate.join(T, KEY, size, clock.monotonic_s(), urgent=False)
    while not await admitted(ticket):  # told to look around: there is nothing else, so it lines up again
        gate.quit(ticket)
        ticket = gate.join(T, KEY, size, clock.monotonic_s(), urgent=False)
    gate.enter(ticket, T, KEY, clock.monotonic_s())
    return ticket


@dataclass
class Load:
    """Calls that want to be made all the time; what was used, by the moment it was sent."""

    gates: list[Gate]
    usage: Usage = USAGE
    size: Size = SIZE
    latency_s: float = 0.05
    used: list[tuple[float, float]] = field(default_factory=list)
    open: int = 0
    most: int = 0

    async def run(self, seconds: float, *between: Callable[[], object]) -> None:
        """So long before, between and after what happens."""
        tasks = [asyncio.create_task(self._lane(gate)) for gate in self.gates for _ in range(25)]
        await asyncio.sleep(seconds)
        for happens in between:
            happens()
            await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(self, gate: Gate) -> None:
        while True:
            ticket = await entered(gate, self.size)
            self.open += 1
            self.most = max(self.most, self.open)
            tokens = (self.usage.input_tokens or 0) + (self.usage.output_tokens or 0)
            self.used.append((clock.monotonic_s(), tokens))
            try:
                await asyncio.sleep(self.latency_s)
            finally:
                self.open -= 1
                gate.leave(ticket, T, KEY, Answer(usage=self.usage), clock.monotonic_s())

    def per_s(self, skip_s: float, *, tokens: bool = False) -> float:
        """Calls or tokens a second, without the beginning, when a second's worth comes at once."""
        begin, end = self.used[0][0] + skip_s, self.used[-1][0]
        return sum(units if tokens else 1.0 for at, units in self.used if at >= begin) / (end - begin)

    def over(self, per_s: float, *, tokens: bool = False) -> float:
        """At its worst moment after the first second: used, to what the limit and one burst let through."""
        began, used, worst = self.used[0][0], 0.0, 0.0
        for at, units in self.used:
            used += units if tokens else 1.0
            if at - began >= 1.0:
                worst = max(worst, used / (per_s * (at - began + BURST_S)))
        return worst


@looped
async def test_four_workers_use_one_limit_up_and_no_more(redis_server: Redis) -> None:
    async with fleet(redis_server, 4, Rates(rpm=12_000)) as gates:
        load = Load(gates)
        await load.run(2.5)
    assert load.per_s(1.0) >= 0.95 * 200
    assert load.over(200) <= 1.02


@pytest.mark.parametrize(
    ("usage", "size", "calls"),
    [
        (Usage(60, 140), Size(50, 4000), 200),
        (Usage(20, 20), Size(200), 200),
        (Usage(600, 600), Size(200), 100),
    ],
    ids=["below a ceiling", "a tenth of the guess", "three times the guess"],
)
@looped
async def test_tokens_are_used_up_however_wrong_the_guess_was(
    redis_server: Redis, usage: Usage, size: Size, calls: int
) -> None:
    per_s = calls * ((usage.input_tokens or 0) + (usage.output_tokens or 0))
    async with fleet(redis_server, 4, Rates(tpm=60 * per_s)) as gates:
        load = Load(gates, usage, size)
        await load.run(2.5)
    assert 0.95 * per_s <= load.per_s(1.0, tokens=True)
    assert load.over(per_s, tokens=True) <= 1.02


@looped
async def test_places_are_counted_over_the_fleet(redis_server: Redis) -> None:
    async with fleet(redis_server, 3, Rates(concurrency=7)) as gates:
        load = Load(gates)
        await load.run(1.0)
    assert load.most == 7
    assert len(load.used) > 0.7 * 7 * 1.0 / 0.05 * 0.5


@looped
async def test_the_places_of_a_worker_that_died_come_back(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PLACES_LEASE_S", 0.5)
    async with fleet(redis_server, 1, Rates(concurrency=2)) as (living,):
        async with fleet(redis_server, 1, Rates(concurrency=2)) as (dead,):
            assert dead._shared is not None
            dead._shared.worker = lambda: "wrk_dead"
            for _ in range(2):
                await entered(dead, Size())
        began = clock.monotonic_s()
        await asyncio.wait_for(entered(living, Size()), 5.0)
        assert 0.3 <= clock.monotonic_s() - began <= 2.0


@looped
async def test_a_dead_redis_leaves_each_worker_its_share(redis_server: Redis) -> None:
    async with fleet(redis_server, 4, Rates(rpm=12_000)) as gates:
        load = Load(gates)
        whys: list[str] = []

        def back() -> None:
            whys.extend(gate.report(0.0)["limits"]["why"] for gate in gates)
            redis_server.start()

        await load.run(2.0, redis_server.kill, back)
        assert all("Redis" in why for why in whys)
        assert all(gate.report(0.0)["limits"]["shared"] for gate in gates)
    assert load.per_s(1.0) >= 0.95 * 200
    assert load.over(200) <= 1.05


@looped
async def test_a_redis_that_hangs_is_as_good_as_away(redis_server: Redis) -> None:
    async with fleet(redis_server, 2, Rates(rpm=12_000)) as gates:
        load = Load(gates)
        await load.run(1.5, redis_server.freeze)
        redis_server.thaw()
    late = [at for at, _ in load.used if at > load.used[0][0] + 2.0]
    assert len(late) >= 0.9 * 200, "the own share is used while Redis says nothing"
    assert load.over(200) <= 1.05


# -- doors --------------------------------------------------------------------------------------------------------


async def call(gate: Gate, outcome: Outcome) -> bool:
    """One call if the gate lets it; whether it was made."""
    if gate.look(T, KEY, clock.monotonic_s(), urgent=False) is not None:
        return False
    ticket = gate.join(T, KEY, Size(), clock.monotonic_s(), urgent=False)
    if not ticket.admitted:
        gate.quit(ticket)
        return False
    gate.enter(ticket, T, KEY, clock.monotonic_s())
    await asyncio.sleep(0.01)
    gate.leave(ticket, T, KEY, outcome, clock.monotonic_s())
    return True


def shut(gate: Gate) -> bool:
    return gate.look(T, KEY, clock.monotonic_s()) is not None


async def until(condition: Callable[[], bool], within_s: float) -> float:
    began = clock.monotonic_s()
    while not condition():
        assert clock.monotonic_s() - began < within_s, "it never came"
        await asyncio.sleep(0.01)
    return clock.monotonic_s() - began


@looped
async def test_one_worker_that_finds_a_target_dead_shuts_it_for_all(redis_server: Redis) -> None:
    async with fleet(redis_server, 4) as gates:
        for _ in range(5):
            await call(gates[0], DOWN)
        assert await until(lambda: all(map(shut, gates)), 2.0) <= 1.0


@looped
async def test_failures_too_few_for_each_worker_are_enough_for_the_fleet(redis_server: Redis) -> None:
    async with fleet(redis_server, 4) as gates:
        for gate in gates:
            for _ in range(2):
                await call(gate, DOWN)
        assert await until(lambda: all(map(shut, gates)), 2.0) <= 1.0


@looped
async def test_one_worker_with_a_bad_network_does_not_shut_a_target_for_the_others(redis_server: Redis) -> None:
    async with fleet(redis_server, 2, policy=BreakerPolicy(open_s=0.3)) as (good, bad):
        for _ in range(40):
            await call(good, Answer())
        await asyncio.sleep(0.4)
        for _ in range(5):
            await call(bad, DOWN)
        assert shut(bad)
        await asyncio.sleep(0.6)
        assert not shut(good)


@looped
async def test_a_dead_target_is_probed_by_one_of_all_and_comes_back_in_steps(redis_server: Redis) -> None:
    async with fleet(redis_server, 4, policy=QUICK) as gates:
        calls: list[float] = []
        healthy = False

        async def lane(gate: Gate) -> None:
            while True:
                if await call(gate, Answer() if healthy else DOWN):
                    calls.append(clock.monotonic_s())
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(lane(gate)) for gate in gates for _ in range(5)]
        await until(lambda: all(map(shut, gates)), 3.0)
        await asyncio.sleep(0.1)
        calls.clear()
        await asyncio.sleep(2.0)
        probes = len(calls)
        assert 2 <= probes <= 4, "spells of 0.4, 0.8, 0.8 ... seconds, and one probe of the whole fleet after each"
        healthy = True
        await until(lambda: not any(map(shut, gates)), 3.0)
        await until(lambda: all(gate.report(clock.monotonic_s())["targets"] == {} for gate in gates), 3.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@looped
async def test_what_a_worker_knows_of_a_dead_target_outlives_redis(redis_server: Redis) -> None:
    async with fleet(redis_server, 2) as gates:
        for _ in range(5):
            await call(gates[0], DOWN)
        await until(lambda: all(map(shut, gates)), 2.0)
        redis_server.kill()
        await until(lambda: not any(gate.report(0.0)["limits"]["shared"] for gate in gates), 3.0)
        assert all(map(shut, gates))


@looped
async def test_an_operator_closes_a_door_for_the_whole_fleet(redis_server: Redis) -> None:
    async with fleet(redis_server, 2) as gates:
        for _ in range(5):
            await call(gates[0], DOWN)
        await until(lambda: all(map(shut, gates)), 2.0)
        gates[1].force(T.name, "close")
        await until(lambda: not any(map(shut, gates)), 2.0)


@looped
async def test_redis_keeps_no_name_that_nobody_has_and_no_door_that_is_over(redis_server: Redis) -> None:
    doors = "completar:limit:{doors}"
    policy = BreakerPolicy(window_s=1.0, open_s=30.0, longest_open_s=30.0)
    with closing(SyncRedis.from_url(redis_server.url)) as redis:
        async with fleet(redis_server, 2, policy=policy) as gates:
            gate = gates[0]
            for n in range(20_000):
                target = Target("q", f"nobody-{n}", "Q")
                ticket = gate.join(target, None, Size(), clock.monotonic_s())
                gate.enter(ticket, target, None, clock.monotonic_s())
                refused = Failure(K.MODEL_NOT_FOUND if n % 20 else K.SERVER_ERROR, "no such model")
                gate.leave(ticket, target, None, refused, clock.monotonic_s())
                if n % 500 == 0:
                    await asyncio.sleep(0)
            for _ in range(5):
                await call(gate, DOWN)
            await until(lambda: all(map(shut, gates)), 2.0)
            assert redis.hlen(doors) <= 1_001
            await until(lambda: redis.hkeys(doors) == [T.name.encode()], 4.0)
            await asyncio.sleep(1.0)
            assert all(map(shut, gates)), "what is open stays"
            assert gate.report(0.0)["limits"]["shared"]
