"""Webhooks: how fast they go out, and what they cost the jobs they tell of.

`python3 run.py bench` measures them among all else; `python -m tests.bench.hooks` them alone, at more rates. A receiver
counts what arrives and answers 204, or never answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from tests.bench import jobs as work
from tests.bench.ground import Ground, Run
from tests.support.wait import wait_until
from worker import clock
from worker.domain.delivery import DEFAULT_EVENTS
from worker.domain.failure import Lane
from worker.services.deliver import PLACES
from worker.store import jobs as job_moves
from worker.store import projects, webhook_endpoints
from worker.store.database import Database
from worker.store.webhook_endpoints import NewEndpoint
from worker.store.webhook_tables import delivery
from worker.webhooks.signature import secret_of
from worker.webhooks.vault import Vault

KEY: Final = "k" * 32
ENV: Final = {"COMPLETAR_SECRET_KEY": KEY, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
KEPT: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")
FAST: Final = 2_000.0  # deliveries a second that an endpoint allows: more than are made
LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Figure:
    """One number about webhooks. `told`: what else there is to say of it; `others` as in Run."""

    name: str
    value: float
    unit: str
    told: str
    others: float

    def line(self) -> str:
        return f"{self.name}: {self.value:,.1f} {self.unit}; {self.told}"


def deliveries(ground: Ground, count: int, endpoints: int = 1, max_rps: float = FAST) -> Figure:
    """Per second, of the middle (between 15 % and 85 %), by one worker process with nothing else to do.

    The jobs they tell of ended before the worker came.
    """
    with _receiver(ground) as url, ground.fresh_database() as database_url, closing(Database(database_url)) as database:
        _listen(database, [url] * endpoints, max_rps)
        _cancel(database, work.fill(database, Lane.BATCH, count // endpoints))
        ground.quiet()
        worker = ground.worker(database_url, **ENV)
        try:
            with ground.watch([worker], lightly=True) as watch:
                begun_at, seen = time.monotonic(), [(time.monotonic(), 0)]
                while seen[-1][1] < count:
                    assert worker.running, worker.tail()
                    time.sleep(LOOK_S)
                    seen.append((time.monotonic(), _delivered(database)))
        finally:
            worker.kill()
    middle = [(at, n) for at, n in seen if 0.15 * count <= n <= 0.85 * count]
    assert len(middle) > 1, "too few deliveries for a rate"
    (low_at, low), (high_at, high) = middle[0], middle[-1]
    cost = {name: 1000 * spent / count for name, spent in watch.cost_s(begun_at, seen[-1][0]).items()}
    return Figure(
        f"deliveries to {endpoints} endpoint{'s' * (endpoints > 1)} that allow {max_rps:,.0f}/s",
        (high - low) / (high_at - low_at),
        "a second",
        f"{cost['worker']:.2f} ms CPU each with the start of the worker, Postgres {cost['postgres']:.2f}",
        watch.others(low_at, high_at),
    )


def jobs(ground: Ground, count: int, hooks: str) -> Run:
    """Many rows; `hooks`: none, noted (nobody sends them), taken (by a fast receiver), hanging (it never answers)."""
    with (
        _receiver(ground, *["--hang"] * (hooks == "hanging")) as url,
        ground.fresh_database() as database_url,
        closing(Database(database_url)) as database,
    ):
        if hooks != "none":
            _listen(database, [url], FAST)
        work.fill(database, Lane.BATCH, count)
        start = partial(ground.worker, database_url, **ENV, COMPLETAR_WEBHOOKS="off" if hooks == "noted" else "on")
        return ground.measure(f"jobs, webhooks {hooks}", count, lambda: [start()], lambda: work.unfinished(database))


def hanging(ground: Ground, count: int, pairs: int) -> Figure:
    """By how many per cent the rate of jobs is lower when every receiver hangs than when nobody is told.

    Each pair runs one way and the next the other way round, so that what drifts meanwhile counts for both; the fastest
    of each are compared, for single runs of a few seconds differ by a tenth and more, and what disturbs one slows it.
    """
    rates: dict[str, list[float]] = {"none": [], "hanging": []}
    others = 0.0
    for pair in range(pairs):
        for hooks in ("none", "hanging") if pair % 2 == 0 else ("hanging", "none"):
            run = jobs(ground, count, hooks)
            rates[hooks].append(run.per_s)
            others = max(others, run.others)
    without, beside = max(rates["none"]), max(rates["hanging"])
    lost = [f"{100 * (1 - b / a):+.1f}" for a, b in zip(rates["none"], rates["hanging"], strict=True)]
    told = f"{without:,.0f} jobs/s without and {beside:,.0f} with; by pairs {', '.join(lost)} %"
    return Figure("jobs lost to receivers that hang", 100 * (1 - beside / without), "%", told, others)


def cancels(ground: Ground, count: int) -> Figure:
    """Seconds from the cancel of all jobs of a worker to the end of the last of them, while every receiver hangs."""
    with (
        _receiver(ground, "--hang") as url,
        ground.fresh_database() as database_url,
        closing(Database(database_url)) as database,
    ):
        _listen(database, [url], FAST)
        _cancel(database, work.fill(database, Lane.BATCH, 2 * PLACES))
        ground.quiet()
        ground.mock.reset()
        worker = ground.worker(database_url, **ENV)
        try:
            with ground.watch([worker], lightly=True) as watch:
                wait_until(lambda: _sending(database) == PLACES, "receivers that hang")
                ids = work.fill(database, Lane.BATCH, count)
                wait_until(lambda: ground.mock.served().in_flight >= PLACES, "jobs that run")
                _cancel(database, ids)
                begun_at, open_jobs = time.monotonic(), work.unfinished(database)
                while work.unfinished(database):
                    assert worker.running, worker.tail()
                    time.sleep(0.02)
                over_at = time.monotonic()
        finally:
            worker.kill()
        ended = work.by_status(database).get("cancelled", 0) - 2 * PLACES
    told = f"{ended:,} of {count:,} were cancelled, of which {open_jobs} ran"
    return Figure("cancels, receivers hanging", over_at - begun_at, "s", told, watch.others(begun_at, over_at))


def _listen(database: Database, urls: list[str], max_rps: float) -> None:
    sealed = Vault([KEY]).seal(secret_of(b"b" * 32))
    with database.write() as conn:
        project = projects.ensure(conn)
        for n, url in enumerate(urls):
            new = NewEndpoint(clock.new_id("we"), project, f"{url}/{n}", DEFAULT_EVENTS, secret=sealed)
            webhook_endpoints.insert(conn, replace(new, max_rps=max_rps, max_concurrency=100))


def _cancel(database: Database, ids: list[str]) -> None:
    for start in range(0, len(ids), work.PAGE):
        with database.write() as conn:
            project = projects.ensure(conn)
            for job_id in ids[start : start + work.PAGE]:
                job_moves.cancel(conn, project, job_id)


def _delivered(database: Database) -> int:
    return _counted(database, delivery.c.ended_at.is_not(None))


def _sending(database: Database) -> int:
    return _counted(database, delivery.c.state == "sending")


def _counted(database: Database, where: sa.ColumnElement[bool]) -> int:
    with database.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(delivery).where(where)).scalar_one())


@contextmanager
def _receiver(ground: Ground, *arguments: str) -> Iterator[str]:
    process = ground.processes.python("receiver", "-m", "tests.bench.hooks", "--serve", *arguments)
    port = process.wait_for_line(r"^serving on port (\d+)$")[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()


class _Receiver(asyncio.Protocol):
    """As little HTTP as a fast receiver can do with: bodies come with a content-length."""

    hangs = False

    def __init__(self) -> None:
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            at = head.index(b"content-length:") + 15
            length = int(head[at:].split(b"\r\n", 1)[0])
            if len(self._held) < end + 4 + length:
                return
            self._held = self._held[end + 4 + length :]
            if not self.hangs:
                self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Receiver, "127.0.0.1", 0, backlog=1024)
    print(f"serving on port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", action="store_true", help="only be the receiver")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a third of the work")
    options = parser.parse_args()
    if options.serve:
        _Receiver.hangs = options.hang
        asyncio.run(_serve())
        return
    for name in set(os.environ) - set(KEPT):
        del os.environ[name]
    size = 1 if options.quick else 3
    with Ground(2.0) as ground:
        print(deliveries(ground, 4_000 * size).line(), flush=True)
        print(deliveries(ground, 4_000 * size, 10).line(), flush=True)
        print(deliveries(ground, 2_000 * size, 1, 300.0).line(), flush=True)
        print(hanging(ground, 6_000, 2 * size).line(), flush=True)
        print(cancels(ground, 6_000).line(), flush=True)
        for hooks in ("noted", "taken"):
            print(jobs(ground, 6_000, hooks).line(), flush=True)


if __name__ == "__main__":
    main()
