"""What every run stands on: Postgres, Redis and the mock provider, started once; and how one run is measured."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.bench.jobs import configured
from tests.bench.mock import Mock
from tests.bench.watch import Watch, wait_for_quiet
from tests.support.postgres import Postgres
from tests.support.processes import Process, Processes
from tests.support.redis import Redis
from tests.support.wait import free_port
from worker.store.database import Database
from worker.store.migrate import upgrade

LOOK_S: Final = 0.1  # between two questions to the mock: each costs it as much as some thirty answers
TAIL_S: Final = 0.02  # between two questions to the database, once everything is answered
SLOTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Rates are of the middle, between 15 % and 85 % of the answers; CPU from first request to last row.

    cpu_ms       of the workers, per job; postgres_ms, redis_ms, provider_ms likewise
    seconds      from the first request to the last row
    busy         share of the machine that was in use: near 1 nothing runs faster for more processes
    others       share of the machine that went to processes which are none of ours
    """

    name: str
    jobs: int
    per_s: float
    cpu_ms: float
    postgres_ms: float
    redis_ms: float
    provider_ms: float
    peak_rss_mb: float
    peak_pss_mb: float
    most_in_flight: int
    mean_in_flight: float
    seconds: float
    busy: float
    others: float

    def line(self) -> str:
        return f"{self.name}: {self.per_s:,.0f} jobs/s, {self.cpu_ms:.2f} ms CPU per job"


class Ground:
    """Start with `with`; at the end nothing is left running."""

    def __init__(self, quiet_s: float) -> None:
        """`quiet_s`: how long each run waits at most for a quiet machine."""
        self._quiet_s = quiet_s
        self._stack = ExitStack()
        self.folder: Path
        self.postgres: Postgres
        self.redis: Redis
        self.processes: Processes
        self.mock: Mock
        self.config: Path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="completar-bench-")))
            self.postgres = stack.enter_context(closing(Postgres(durable=True))).start().migrate_once(_migrate)
            self.redis = stack.enter_context(closing(Redis())).start()
            self.processes = Processes(self.folder)
            stack.callback(self.end, self.processes.all)
            self.mock = Mock(self.processes)
            self.config = configured(self.folder, self.mock.base_url)
            os.environ["COMPLETAR_CONFIG"] = str(self.config)  # for what is imported here: no file of the user's
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def end(self, processes: Sequence[Process]) -> None:
        for process in processes:
            process.kill()

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The URL of an empty database with our tables, gone at the end; Redis is empty too."""
        self.redis.flushall()
        url = self.postgres.fresh()
        try:
            yield url
        finally:
            self.postgres.drop(url)

    @contextmanager
    def answering(self, *arguments: str) -> Iterator[None]:
        """Another mock provider for a while, with these arguments."""
        usual, usual_config = self.mock, self.config
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.mock = Mock(self.processes, *arguments)
        self.config = configured(folder, self.mock.base_url)
        try:
            yield
        finally:
            self.mock.end()
            self.mock, self.config = usual, usual_config

    def environment(self, database_url: str, **more: str) -> dict[str, str]:
        """For processes of ours."""
        return {
            "DATABASE_URL": database_url,
            "REDIS_URL": self.redis.url,
            "COMPLETAR_CONFIG": str(self.config),
            "COMPLETAR_DATA_DIR": str(self.folder),
            "SLOTS": str(SLOTS),
            **more,
        }

    def worker(self, database_url: str, **more: str) -> Process:
        """A worker as the Procfile starts it; not waited for, so that two can start at once."""
        number = len(self.processes.all)
        return self.processes.from_procfile(
            "worker", self.environment(database_url, **more), f"--hostname bench-{number}@localhost"
        )

    def web(self, database_url: str, **more: str) -> tuple[Process, int]:
        """A web process as the Procfile starts it, but on loopback alone, once it listens; and its port."""
        port = free_port()
        env = self.environment(database_url, PORT=str(port), WEB_CONCURRENCY="1", **more)
        process = self.processes.from_procfile("web", env, f"--bind 127.0.0.1:{port}")
        process.wait_for_port(port)
        return process, port

    def quiet(self) -> None:
        wait_for_quiet(self._quiet_s)

    def watch(self, workers: Sequence[Process], *, lightly: bool = False) -> Watch:
        return Watch(
            {
                "worker": [process.pid for process in workers],
                "postgres": [pid_of(self.postgres)],
                "redis": [pid_of(self.redis)],
                "provider": [self.mock.pid],
            },
            lightly=lightly,
        )

    def measure(
        self,
        name: str,
        jobs: int,
        start: Callable[[], Sequence[Process]],
        unfinished: Callable[[], int],
        costing: Sequence[Process] = (),
    ) -> Run:
        """Start the workers on work that is already there, and follow it until nothing is unfinished.

        costing  whose CPU and memory count, where these are others than the workers

        Raises AssertionError when a worker ends first, when nothing moves any more, and when calls and jobs differ.
        """
        self.quiet()
        self.mock.reset()
        workers = start()
        try:
            with self.watch(costing or workers) as watch:
                self._until(lambda: self.mock.served().answered >= jobs, workers, LOOK_S)
                self._until(lambda: unfinished() == 0, workers, TAIL_S)
                over_at = time.monotonic()
            served = self.mock.served()
        finally:
            self.end(workers)
        assert served.requests == served.answered == jobs, f"{name}: {jobs} jobs and {served.requests} calls"
        assert served.first_at is not None
        assert served.per_s is not None
        assert served.mean_in_flight is not None
        cost = {name: 1000 * seconds / jobs for name, seconds in watch.cost_s(served.first_at, over_at).items()}
        return Run(
            name=name,
            jobs=jobs,
            per_s=served.per_s,
            cpu_ms=cost["worker"],
            postgres_ms=cost["postgres"],
            redis_ms=cost["redis"],
            provider_ms=cost["provider"],
            peak_rss_mb=watch.peak_rss_mb,
            peak_pss_mb=watch.peak_pss_mb,
            most_in_flight=served.most_in_flight,
            mean_in_flight=served.mean_in_flight,
            seconds=over_at - served.first_at,
            busy=watch.busy(served.first_at, over_at),
            others=watch.others(served.first_at, over_at),
        )

    def _until(
        self, condition: Callable[[], bool], workers: Sequence[Process], every_s: float, stall_s: float = 30.0
    ) -> None:
        moved_at, last = time.monotonic(), -1
        while True:
            ended = [process for process in workers if not process.running]
            if condition():
                return
            assert not ended, f"{ended[0].name} ended too early\n{ended[0].tail()}"
            answered = self.mock.served().answered
            if answered != last:
                moved_at, last = time.monotonic(), answered
            assert time.monotonic() - moved_at < stall_s, f"nothing moves after {last} answers\n{workers[0].tail()}"
            time.sleep(every_s)


def _migrate(url: str) -> None:
    with closing(Database(url)) as database:
        upgrade(database)


def pid_of(server: Postgres | Redis) -> int:
    assert server._server is not None
    return server._server.pid
