"""How long one waiting client waits beyond the provider's own time: alone, beside a batch, and in the same process."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.bench import jobs as work
from tests.bench import panels
from tests.bench.client import Answered, Client, crowd
from tests.bench.ground import Ground
from tests.bench.mock import held_s
from tests.support.processes import Process
from worker.domain.failure import Lane
from worker.store.database import Database

KEY: Final = "ck_bench_0123456789abcdefghijklmnop"
WARM_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Milliseconds over the time for which the provider held its answer, by the mock's own clock.

    batch_per_s  jobs of the batch that ended meanwhile, per second; None: there was no batch
    ran_dry      the batch ended before the clients did: they were not beside it all the time
    """

    name: str
    posts: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    batch_per_s: float | None
    ran_dry: bool
    others: float

    def line(self) -> str:
        return f"{self.name}: {self.p50_ms:.1f} ms (p50), {self.p99_ms:.1f} ms (p99)"


def idle(ground: Ground, seconds: float) -> Wait:
    return _waited(ground, "idle", [{}], clients=2, seconds=seconds, backlog=0)


def beside(ground: Ground, seconds: float, backlog: int) -> Wait:
    lanes = [{"LANES": Lane.INTERACTIVE.value}, {"LANES": Lane.BATCH.value}]
    return _waited(ground, "beside a batch in another process", lanes, clients=4, seconds=seconds, backlog=backlog)


def within(ground: Ground, seconds: float, backlog: int) -> Wait:
    return _waited(ground, "beside a batch in the same process", [{}], clients=4, seconds=seconds, backlog=backlog)


def panel(ground: Ground, seconds: float) -> Wait:
    """A panel of five that stops early: over the time of the slowest of the three that were needed."""
    with ground.answering("--says", panels.VOTE):
        return _waited(
            ground, "a panel of five", [{}], clients=2, seconds=seconds, backlog=0, made=panels.Client, needed=3
        )


def _waited(
    ground: Ground,
    name: str,
    workers: Sequence[dict[str, str]],
    *,
    clients: int,
    seconds: float,
    backlog: int,
    made: type[Client] = Client,
    needed: int = 1,
) -> Wait:
    """`needed`: how many calls a job takes until it can end, beside each other."""
    with ground.fresh_database() as url, closing(Database(url)) as database:
        web, port = ground.web(url, COMPLETAR_API_KEY=KEY)
        started = [web, *(ground.worker(url, **more) for more in workers)]
        try:
            make = partial(made, port, KEY)
            for worker in started[1:]:
                worker.wait_for_line(r"\bready\.")
            crowd(make, clients, WARM_S)
            if backlog:
                work.fill(database, Lane.BATCH, backlog)
                _in_full_swing(ground, started)
            else:
                ground.quiet()
            before, begin_at = ground.mock.served(), time.monotonic()
            with ground.watch(started, lightly=True) as watch:
                answers = crowd(make, clients, seconds)
                end_at = time.monotonic()
            after = ground.mock.served()
            left = work.by_status(database).get("queued", 0)
            over = _over_ms(database, answers, needed)
        finally:
            ground.end(started)
    served = after.answered - before.answered - needed * len(answers)
    return Wait(
        name=name,
        posts=len(answers),
        p50_ms=_percentile(over, 50),
        p99_ms=_percentile(over, 99),
        worst_ms=over[-1],
        batch_per_s=served / (end_at - begin_at) if backlog else None,
        ran_dry=bool(backlog) and left == 0,
        others=watch.others(begin_at, end_at),
    )


def _in_full_swing(ground: Ground, started: Sequence[Process], answers: int = 500) -> None:
    begun = ground.mock.served().answered
    started[-1].wait_for(lambda: ground.mock.served().answered - begun >= answers, "the batch in full swing")


def _over_ms(database: Database, answers: Sequence[Answered], needed: int) -> list[float]:
    """What each client waited beyond the provider's time, in rising order."""
    calls = work.answered_by(database, [answer.job_id for answer in answers])
    over = []
    for answer in answers:
        held = [held_s(call) for call in calls[answer.job_id]]
        assert len(held) >= needed, f"{answer.job_id} took {len(held)} answered calls"
        assert needed > 1 or len(held) == 1, f"{answer.job_id} took {len(held)} calls"
        over.append(1000 * (answer.seconds - max(held)))
    return sorted(over)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that so many per cent of all do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
