"""The contestants: how each is set up, started, given work and asked what it has done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import psycopg
from celery import Celery
from procrastinate import App, SyncPsycopgConnector

from tests.chaos.books import plain
from tests.chaos.ground import QUICK, Ground
from tests.chaos.rivals.answers import TABLE, stored
from tests.support.processes import Process

PLACES = 4  # calls at once in each worker


class Contestant(Protocol):
    name: str
    needs_redis: bool

    def submit(self, count: int) -> Sequence[str]:
        """Queue so many jobs; their prompts."""

    def worker(self) -> Process:
        """Start one; it is not waited for."""

    def answered(self) -> dict[str, int]:
        """Prompt -> answers on record."""


class Completar:
    needs_redis = True

    def __init__(self, ground: Ground, *, quick: bool) -> None:
        self.name = "Completar"
        self._ground = ground
        env = ground.environment(SLOTS=str(PLACES), LANES="interactive")
        self._env = env if quick else {name: value for name, value in env.items() if name not in QUICK}
        self._submitter = ground.submitter(self._env)

    def submit(self, count: int) -> Sequence[str]:
        ids = self._submitter.submit(count)
        prompts = dict(self._ground.sql("SELECT job_id, body::json->'input'->>'prompt' FROM job_input"))
        return [prompts[job] for job in ids]

    def worker(self) -> Process:
        return self._ground.worker(self._env, wait=False)

    def answered(self) -> dict[str, int]:
        rows = self._ground.sql(
            "SELECT i.body::json->'input'->>'prompt', count(*) FROM chaos_move m"
            " JOIN job_input i ON i.job_id = m.job_id WHERE m.became = 'completed' GROUP BY 1"
        )
        return dict(rows)


class LateCelery:
    needs_redis = True

    def __init__(self, ground: Ground, visibility_s: int) -> None:
        self.name = f"Celery, late ack, visibility {visibility_s} s"
        self._ground = ground
        self._url = _empty(ground)
        self._env = _environment(ground, self._url) | {"RIVAL_VISIBILITY_S": str(visibility_s)}

    def submit(self, count: int) -> Sequence[str]:
        prompts = self._ground.prompts(count)
        with Celery("rival", broker=self._ground.redis.url, set_as_current=False) as sender:
            for prompt in prompts:
                sender.send_task("rival.ask", args=[prompt])
        return prompts

    def worker(self) -> Process:
        name = f"rival-{len(self._ground.processes.all)}@chaos"
        arguments = ("-m", "celery", "-A", "tests.chaos.rivals.celery_queue", "worker", "--hostname", name)
        more = ("--pool", "prefork", "--concurrency", str(PLACES))
        return self._ground.processes.python("celery", *arguments, *more, env=self._env)

    def answered(self) -> dict[str, int]:
        return stored(self._url)


class Procrastinate:
    needs_redis = False

    def __init__(self, ground: Ground) -> None:
        self.name = "procrastinate, stalled jobs retried each 10 s"
        self._ground = ground
        self._url = _empty(ground)
        self._env = _environment(ground, self._url)
        with self._app().open() as app:
            app.schema_manager.apply_schema()

    def submit(self, count: int) -> Sequence[str]:
        prompts = self._ground.prompts(count)
        with self._app().open() as app:
            for prompt in prompts:
                app.configure_task("rival.ask", allow_unknown=True).defer(prompt=prompt)
        return prompts

    def worker(self) -> Process:
        arguments = ("-m", "procrastinate", "--app", "tests.chaos.rivals.procrastinate_queue.app", "worker")
        return self._ground.processes.python("procrastinate", *arguments, "--concurrency", str(PLACES), env=self._env)

    def answered(self) -> dict[str, int]:
        return stored(self._url)

    def _app(self) -> App:
        return App(connector=SyncPsycopgConnector(conninfo=self._url))


def _empty(ground: Ground) -> str:
    url = plain(ground.postgres.empty())
    with psycopg.connect(url) as conn:
        conn.execute(TABLE)
    return url


def _environment(ground: Ground, url: str) -> dict[str, str]:
    return {
        "RIVAL_DATABASE_URL": url,
        "RIVAL_REDIS_URL": ground.redis.url,
        "RIVAL_PROVIDER_URL": f"http://127.0.0.1:{ground.provider_port}/first/v1/chat/completions",
    }
