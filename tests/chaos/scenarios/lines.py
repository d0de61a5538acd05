"""13. The lines are bad: late, thin, cut, reset, between worker and database, and between worker and provider."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from tests.chaos.ground import Ground
from tests.chaos.nemesis import Fleet, Nemesis
from tests.chaos.proxy import WELL, Fault, Proxy
from tests.chaos.result import Profile, Promise, Result, at_least, at_most, standing
from tests.support.wait import wait_until

JOBS: Final = {"smoke": 120, "full": 1_500}
LASTS_S: Final = {"smoke": 1.0, "full": 5.0}
ROUNDS: Final = {"smoke": 1, "full": 3}
LEASE_S: Final = 2.0
DATABASE: Final = (Fault(latency_s=0.05), Fault(slice=11), Fault(bytes_per_s=200_000))
PROVIDER: Final = (Fault(latency_s=0.2), Fault(slice=5), Fault(bytes_per_s=20_000), Fault(linger_s=1.0))


def run(ground: Ground, profile: Profile) -> Result:
    ground.plan(low_s=0.1, high_s=0.5)
    nemesis = Nemesis(ground)
    lasts_s = LASTS_S[profile]
    with Proxy(ground.postgres.port) as database, Proxy(ground.provider_port) as provider:
        # One worker has the bad lines; the other is there to take over from it.
        env = ground.environment(COMPLETAR_LEASE_S=str(LEASE_S), SLOTS="5")
        bad = ground.environment(provider_port=provider.port, COMPLETAR_LEASE_S=str(LEASE_S), SLOTS="5") | {
            "DATABASE_URL": ground.url.replace(f":{ground.postgres.port}/", f":{database.port}/")
        }
        submitter = ground.submitter(env)
        fleet, steady = Fleet(ground, bad, 1), Fleet(ground, env, 1)
        fleet.ready()
        steady.ready()
        afflicted = fleet.workers[0]
        ids: list[str] = []
        for _ in range(ROUNDS[profile]):
            ids += submitter.mixed(JOBS[profile] // ROUNDS[profile])
            for proxy, faults in ((database, DATABASE), (provider, PROVIDER)):
                for fault in faults:
                    nemesis.told("line", partial(proxy.become, fault))
                    time.sleep(lasts_s)
                proxy.become(WELL)
            for _ in range(3):
                nemesis.told("line-reset", database.reset)
                time.sleep(lasts_s / 2)
            # A reset call is a failed call, and asked again: the provider saw it, and may have billed it.
            nemesis.told("line-reset", provider.reset)
            # Cut off from the database and not from the provider, for longer than the lease.
            ids += submitter.mixed(20)
            fleet.busy(0)
            database.become(Fault(black_hole=True))
            time.sleep(0.2)
            nemesis.cut_off(afflicted)
            wait_until(lambda: _dead(ground, afflicted.pid), "the worker that is cut off to be declared dead", 30)
            database.become(WELL)
            database.reset()
        ground.until_done(120)
    verdict = ground.checked()
    counts = verdict.counts
    failed = int(ground.sql("SELECT count(*) FROM attempt WHERE state = 'failed'")[0][0])
    return Result(
        {**verdict.figures(), "failed_calls": failed},
        [
            *standing(verdict, extra=False),
            Promise("the worker with the bad lines lives on", afflicted.running),
            at_least("all jobs are done", counts.completed, len(ids)),
            at_most("a call is repeated only when its line broke or its worker was cut off", counts.extra,
                    counts.in_flight + failed),
        ],
    )  # fmt: skip


def _dead(ground: Ground, pid: int) -> bool:
    rows = ground.sql("SELECT dead_at IS NOT NULL FROM worker WHERE pid = %s ORDER BY started_at DESC LIMIT 1", pid)
    return bool(rows and rows[0][0])
