"""What one scenario stands on: its own Postgres, Redis, provider and folder, and whoever submits work to them.

Each scenario runs in a process of its own (`campaign.py`), so what it breaks is nobody else's.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from tests.chaos import books
from tests.chaos.checker import INPUT_NANO, OUTPUT_NANO, Verdict, check
from tests.chaos.history import Event, Teller, events, logged
from tests.support.postgres import Postgres
from tests.support.processes import Process, Processes
from tests.support.redis import Redis
from tests.support.wait import wait_until
from worker.celery_app import CeleryHints, make_celery
from worker.deps import Deps, build
from worker.domain.failure import Lane
from worker.services.submit import JobRequest, submit
from worker.settings import load
from worker.store import projects
from worker.store.database import Database
from worker.store.migrate import upgrade

KEY: Final = "ck_of_the_campaign_0123456789"
# Quick to notice a death, so that many fit into a run; the product's defaults are 3 s, 15 s and 1 s.
QUICK: Final = {"COMPLETAR_HEARTBEAT_S": "0.3", "COMPLETAR_LEASE_S": "1.5", "COMPLETAR_POLL_S": "0.2"}
_PROVIDER: Final = """
[providers.{name}]
format = "openai"
base_url = "http://127.0.0.1:{port}/{name}/v1"
label = "{name}"
{limits}
[providers.{name}.models.m]
price = {{ input = {input}, output = {output} }}
"""
_ROUTE: Final = """
[routes.default]
targets = [{targets}]
backoff = {{ base_s = 0.01, cap_s = 0.05 }}
{more}
"""


class Ground:
    """Start with `with`; at the end nothing is left running. `seed` is of this scenario."""

    def __init__(self, seed: str, folder: Path | None = None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self._folder = folder
        self._stack = ExitStack()
        self._numbers = itertools.count(1)
        self._numbering = threading.Lock()
        self.folder: Path
        self.postgres: Postgres
        self.redis: Redis
        self.processes: Processes
        self.url: str
        self.provider_port: int
        self.client: Teller
        self.nemesis: Teller

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._folder is None:
                self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="completar-chaos-")))
            else:
                self.folder = self._folder
            self.postgres = stack.enter_context(closing(Postgres())).start().migrate_once(_migrate)
            self.url = self.postgres.fresh()
            books.watch(self.url)
            self.redis = stack.enter_context(closing(Redis())).start()
            self.processes = Processes(self.folder)
            stack.callback(self._kill_all)
            ledger = self.folder / "provider.jsonl"
            process = self.processes.python("provider", "-m", "tests.chaos.provider", str(ledger), self.seed)
            self.provider_port = int(process.wait_for_line(r"^serving on port (\d+)$")[1])
            self.client = stack.enter_context(closing(Teller(self.folder / "client.jsonl")))
            self.nemesis = stack.enter_context(closing(Teller(self.folder / "nemesis.jsonl")))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- what is set up -----------------------------------------------------------------------------------------

    def environment(
        self,
        *,
        providers: Sequence[str] = ("first",),
        limits: str = "",
        more: str = "",
        provider_port: int | None = None,
        **variables: str,
    ) -> dict[str, str]:
        """For processes of ours. `more` goes below `[routes.default]`, `limits` below each provider."""
        config = self.folder / f"completar-{next(self._numbers)}.toml"
        port = provider_port if provider_port is not None else self.provider_port
        price = {"input": INPUT_NANO / 1000, "output": OUTPUT_NANO / 1000}
        parts = [_PROVIDER.format(name=name, port=port, limits=limits, **price) for name in providers]
        targets = ", ".join(f'"{name}/m"' for name in providers)
        config.write_text("".join(parts) + _ROUTE.format(targets=targets, more=more), encoding="utf-8")
        return {
            "DATABASE_URL": self.url,
            "REDIS_URL": self.redis.url,
            "COMPLETAR_CONFIG": str(config),
            "COMPLETAR_DATA_DIR": str(self.folder),
            "COMPLETAR_API_KEY": KEY,
            "COMPLETAR_SANDBOX": "off",
            **QUICK,
            **variables,
        }

    def plan(self, provider: str = "first", **told: Any) -> None:
        """How a provider behaves from now on; see `provider.Plan`."""
        self._ask_provider("/plan", {"provider": provider, **told})

    def provider_calls(self) -> dict[str, int]:
        """`{"open": ..., "calls": ...}`; all of the ledger is on the disk."""
        return dict(self._ask_provider("/flush"))

    def worker(self, env: dict[str, str], *, wait: bool = True) -> Process:
        """A worker as the Procfile starts it; with `wait`, once it takes tasks."""
        if wait:
            return self.processes.worker(env)
        name = f"w{len(self.processes.all)}-{os.getpid()}@chaos"
        return self.processes.from_procfile("worker", env, f"--hostname {name}")

    def web(self, env: dict[str, str]) -> tuple[Process, int]:
        """The API as the Procfile starts it, but on loopback alone, once it listens; and its port."""
        process, url = self.processes.web({**env, "HOST": "127.0.0.1"})
        return process, int(url.rsplit(":", 1)[1])

    def prompts(self, count: int) -> list[str]:
        """Prompts that no other job has."""
        with self._numbering:
            return [f"{self.seed}-{next(self._numbers)}" for _ in range(count)]

    def submitter(self, env: dict[str, str]) -> Submitter:
        return self._stack.enter_context(closing(Submitter(self, env)))

    # -- what is seen -------------------------------------------------------------------------------------------

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement on a connection of its own: the last one may have died with the server."""
        with psycopg.connect(books.plain(self.url), autocommit=True, connect_timeout=5) as conn:
            cursor = conn.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description is not None else []

    def open_jobs(self) -> int:
        rows = self.sql("SELECT count(*) FROM job WHERE status IN ('queued', 'in_progress', 'cancelling')")
        return int(rows[0][0])

    def open_calls(self, process: Process) -> list[dict[str, str]]:
        """Calls on record as open in this worker, as `{job, call}`."""
        rows = self.sql(
            "SELECT a.job_id, a.id FROM worker w JOIN job j ON j.worker_id = w.id"
            " JOIN attempt a ON a.job_id = j.id AND a.claim_id = j.claim_id AND a.state = 'sent' WHERE w.pid = %s",
            process.pid,
        )
        return [{"job": job, "call": call} for job, call in rows]

    def until_done(self, within_s: float) -> bool:
        """Whether all jobs ended in time: whoever waits in vain has stuck jobs, and the checker names them."""
        try:
            wait_until(lambda: self.open_jobs() == 0, "all jobs to end", within_s, every_s=0.1)
        except AssertionError:
            return False
        return True

    def history(self) -> list[Event]:
        self.provider_calls()
        told = [
            *events("client", self.folder / "client.jsonl"),
            *events("provider", self.folder / "provider.jsonl"),
            *events("nemesis", self.folder / "nemesis.jsonl"),
        ]
        return sorted(told, key=lambda event: event.at)

    def worker_log(self) -> Iterator[Event]:
        for path in sorted(self.folder.glob("worker-*.log")):
            yield from logged(path)

    def checked(self) -> Verdict:
        return check(self.history(), books.read(self.url))

    # -- inside -------------------------------------------------------------------------------------------------

    def _ask_provider(self, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.provider_port}{path}", data)
        with _DIRECT.open(request, timeout=10) as reply:
            return json.load(reply)

    def _kill_all(self) -> None:
        for process in self.processes.all:
            process.kill()


class Submitter:
    """Submits from this process with the code that the API uses; tells what was asked for and what was acknowledged."""

    def __init__(self, ground: Ground, env: dict[str, str]) -> None:
        self._ground = ground
        self._deps: Deps = build(load(env), CeleryHints(make_celery(env["REDIS_URL"])), connections=2)
        with self._deps.database.write() as conn:
            self._project = projects.ensure(conn)

    def submit(self, count: int, lane: Lane = Lane.INTERACTIVE, **more: Any) -> list[str]:
        """Store `count` jobs with prompts of their own; their ids."""
        prompts = self._ground.prompts(count)
        for prompt in prompts:
            self._ground.client.tell("submit-sent", prompt=prompt)
        models = more.pop("models", ("default",))
        requests = [JobRequest("completion", models, {"prompt": prompt}, lane=lane, **more) for prompt in prompts]
        ids = list(submit(self._deps, self._project, requests).ids)
        for prompt, job in zip(prompts, ids, strict=True):
            self._ground.client.tell("submit-ok", prompt=prompt, job=job)
        return ids

    def mixed(self, count: int, **more: Any) -> list[str]:
        """Half of them for people who wait, half for a batch; in pages."""
        ids: list[str] = []
        for start in range(0, count, 200):
            size = min(200, count - start)
            ids += self.submit(size // 2, Lane.BATCH, **more)
            ids += self.submit(size - size // 2, Lane.INTERACTIVE, **more)
        return ids

    def close(self) -> None:
        self._deps.database.close()


class Beside:
    """Runs `work` over and over in a thread beside the scenario; a fault of it is raised at the end."""

    def __init__(self, work: Callable[[], object], every_s: float = 0.0) -> None:
        self._work = work
        self._every_s = every_s
        self._over = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(30)
        if self._fault is not None and error is None:
            raise self._fault

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._work()
                self._over.wait(self._every_s)
        except BaseException as fault:  # noqa: BLE001 - raised where the scenario stands
            self._fault = fault


_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _migrate(url: str) -> None:
    with closing(Database(url)) as database:
        upgrade(database)
