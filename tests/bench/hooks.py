"""Webhooks: how fast they go out, and what they cost the jobs they tell of.

`python -m tests.bench.hooks` prints both in about a minute. A receiver counts what arrives and answers 204.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from tests.bench import jobs as work
from tests.bench.ground import Ground, pid_of
from tests.bench.usage import cpu_s
from tests.support.processes import Process
from worker import clock
from worker.domain.delivery import DEFAULT_EVENTS
from worker.domain.failure import Lane
from worker.store import jobs as job_moves
from worker.store import projects, webhook_endpoints
from worker.store.database import Database
from worker.store.tables import delivery
from worker.store.webhook_endpoints import NewEndpoint
from worker.webhooks.signature import secret_of
from worker.webhooks.vault import Vault

KEY: Final = "k" * 32
ENV: Final = {"COMPLETAR_SECRET_KEY": KEY, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
KEPT: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s` of the middle, between 15 % and 85 % of them; CPU of the worker and of Postgres, for each."""

    name: str
    count: int
    per_s: float
    cpu_ms: float
    postgres_ms: float

    def line(self) -> str:
        figures = f"{self.count:>6,} | {self.per_s:>7,.0f} | {self.cpu_ms:>6.2f} | {self.postgres_ms:>6.3f}"
        return f"| {self.name:<48} | {figures} |"


def deliveries(ground: Ground, count: int, endpoints: int, max_rps: float = 1000.0) -> Rate:
    """Jobs that ended before the worker came; it has nothing to do but to tell."""
    with _receiver(ground) as url, ground.fresh_database() as database_url, closing(Database(database_url)) as database:
        _listen(database, [url] * endpoints, max_rps)
        ids = work.fill(database, Lane.BATCH, count // endpoints)
        for start in range(0, len(ids), 1000):
            with database.write() as conn:
                for job_id in ids[start : start + 1000]:
                    job_moves.cancel(conn, projects.ensure(conn), job_id)
        worker = _worker(ground, database_url)
        at, cost = _watched([worker.pid, pid_of(ground.postgres)], worker, lambda: _delivered(database), count)
        worker.kill()
    name = f"deliveries, {endpoints} endpoint{'s' * (endpoints > 1)}"
    return Rate(f"{name}, at most {max_rps * endpoints:,.0f}/s", count, at, *cost)


def jobs(ground: Ground, count: int, hooks: str) -> Rate:
    """Many rows; `hooks`: none, noted (nobody sends them), taken (by a fast receiver), hanging (it never answers)."""
    hanging = hooks == "hanging"
    with (
        _receiver(ground, *["--hang"] * hanging) as url,
        ground.fresh_database() as database_url,
        closing(Database(database_url)) as database,
    ):
        if hooks != "none":
            _listen(database, [url], 1000.0)
        work.fill(database, Lane.BATCH, count)
        worker = _worker(ground, database_url, COMPLETAR_WEBHOOKS="off" if hooks == "noted" else "on")
        at, cost = _watched(
            [worker.pid, pid_of(ground.postgres)], worker, lambda: count - work.unfinished(database), count
        )
        worker.kill()
    return Rate(f"jobs, webhooks {hooks}", count, at, *cost)


def _worker(ground: Ground, database_url: str, **more: str) -> Process:
    env = {
        "DATABASE_URL": database_url,
        "REDIS_URL": ground.redis.url,
        "COMPLETAR_CONFIG": str(ground.config),
        "SLOTS": "1000",
        **ENV,
        **more,
    }
    return ground.processes.from_procfile("worker", env)


def _watched(pids: Sequence[int], worker: Process, done: Callable[[], int], count: int) -> tuple[float, list[float]]:
    """Rate of the middle, and the CPU that each process took for each, in milliseconds."""
    low: tuple[float, int] | None = None
    high: tuple[float, int] | None = None
    begun = [cpu_s(pid) for pid in pids]
    while (n := done()) < count:
        now = time.monotonic()
        if low is None and n >= 0.15 * count:
            low = now, n
        if n <= 0.85 * count:
            high = now, n
        assert worker.running, worker.tail()
        time.sleep(0.05)
    cost = [1000 * (cpu_s(pid) - before) / count for pid, before in zip(pids, begun, strict=True)]
    if low is None or high is None or high[0] <= low[0]:
        return float("nan"), cost
    return (high[1] - low[1]) / (high[0] - low[0]), cost


def _listen(database: Database, urls: list[str], max_rps: float) -> None:
    sealed = Vault([KEY]).seal(secret_of(b"b" * 32))
    with database.write() as conn:
        project = projects.ensure(conn)
        for n, url in enumerate(urls):
            new = NewEndpoint(clock.new_id("we"), project, f"{url}/{n}", DEFAULT_EVENTS, secret=sealed)
            webhook_endpoints.insert(conn, _wide(new, max_rps))


def _wide(new: NewEndpoint, max_rps: float) -> NewEndpoint:
    return NewEndpoint(
        new.id, new.project_id, new.url, new.event_types, max_rps=max_rps, max_concurrency=100, secret=new.secret
    )


def _delivered(database: Database) -> int:
    with database.read() as conn:
        ended = sa.select(sa.func.count()).select_from(delivery).where(delivery.c.ended_at.is_not(None))
        return int(conn.execute(ended).scalar_one())


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
    parser.add_argument("--jobs", action="store_true", help="only what webhooks cost jobs")
    options = parser.parse_args()
    if options.serve:
        _Receiver.hangs = options.hang
        asyncio.run(_serve())
        return
    for name in set(os.environ) - set(KEPT):
        del os.environ[name]
    size = 1 if options.quick else 3
    print("| case | count | per s | CPU ms each | Postgres |\n| --- | ---: | ---: | ---: | ---: |", flush=True)
    with Ground(0.0) as ground:
        if not options.jobs:
            print(deliveries(ground, 4_000 * size, 1).line(), flush=True)
            print(deliveries(ground, 4_000 * size, 10).line(), flush=True)
        if not options.quick and not options.jobs:
            print(deliveries(ground, 10_000, 1, 300.0).line(), flush=True)
        for hooks in ("none", "noted", "hanging", "taken", "none", "noted", "hanging"):
            print(jobs(ground, 6_000 * size, hooks).line(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
