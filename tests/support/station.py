"""A small installation to test against: a database, perhaps a broker, a scripted provider, and real workers on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from worker.celery_app import CeleryHints, make_celery
from worker.deps import Deps, build
from worker.domain.answer import Kind
from worker.domain.failure import Lane
from worker.domain.job import JobView
from worker.domain.state import FINAL
from worker.services.hints import LocalHints, NoHints
from worker.services.submit import JobRequest, submit
from worker.services.worker import Worker
from worker.settings import load
from worker.store import attempts, projects, views
from worker.store.attempts import Attempt

_CONFIG = """
[providers.first]
format = "{first_format}"
base_url = "{url}/first/v1"
label = "First"

[providers.second]
format = "openai"
base_url = "{url}/second/v1"
label = "Second"

[routes.default]
targets = ["first/m", "second/m"]
backoff = {{ base_s = 0.01, cap_s = 0.05 }}
{more}
"""


class Station:
    """`env` is what its processes are started with; the tests' own process submits and looks."""

    def __init__(
        self,
        database_url: str,
        provider: ScriptedProvider,
        folder: Path,
        *,
        redis_url: str | None = None,
        more: str = "",
        first_format: str = "openai",
        **env: str,
    ) -> None:
        """`more` goes below `[routes.default]`; `first_format` is of the first target; `env` are further variables."""
        config = folder / "completar.toml"
        config.write_text(_CONFIG.format(url=provider.url, more=more, first_format=first_format), encoding="utf-8")
        self.provider = provider
        self.env = {
            "DATABASE_URL": database_url,
            "COMPLETAR_CONFIG": str(config),
            "COMPLETAR_DATA_DIR": str(folder / "data"),
            "COMPLETAR_SANDBOX": "off",
            **({"REDIS_URL": redis_url} if redis_url is not None else {}),
            **env,
        }
        self.settings = load(self.env)
        self.local = LocalHints()
        hints: Any = self.local if redis_url is None else CeleryHints(make_celery(redis_url))
        self.deps: Deps = build(self.settings, hints, connections=4)
        with self.deps.database.write() as conn:
            self.project_id = projects.ensure(conn)

    def close(self) -> None:
        self.deps.database.close()

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """A worker in this process, as the embedded mode has it."""
        deps = build(self.settings, NoHints(), connections=8)
        worker = Worker(deps)
        self.local.connect(worker.engine)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()
            deps.database.close()

    def submit(self, n: int = 1, *, lane: Lane = Lane.INTERACTIVE, prompt: str = "hello", **more: Any) -> list[str]:
        """Store `n` jobs with prompts of their own."""
        models = more.pop("models", ("default",))
        kind: Kind = more.pop("kind", "completion")
        field = "input" if kind == "embedding" else "prompt"
        requests = [JobRequest(kind, models, {field: f"{prompt} {i}"}, lane=lane, **more) for i in range(n)]
        return list(submit(self.deps, self.project_id, requests).ids)

    def one(self, **more: Any) -> str:
        return self.submit(1, **more)[0]

    def job(self, job_id: str) -> JobView:
        with self.deps.database.read() as conn:
            found = views.get(conn, self.project_id, job_id)
        assert found is not None
        return found

    def jobs(self, ids: Sequence[str]) -> list[JobView]:
        with self.deps.database.read() as conn:
            found = views.many(conn, self.project_id, ids)
        return [found[job_id] for job_id in ids]

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.deps.database.read() as conn:
            return attempts.of_jobs(conn, [job_id])[job_id]

    def ended(self, ids: Sequence[str], within_s: float = 30.0) -> list[JobView]:
        """The jobs, once all of them are final. Raises TimeoutError."""

        def all_final() -> bool:
            with self.deps.database.read() as conn:
                seen = views.versions(conn, ids)
            return all(status in FINAL for _, status in seen.values())

        wait_until(all_final, f"{len(ids)} jobs to end", within_s)
        return self.jobs(ids)

    def run(self, **more: Any) -> JobView:
        """Submit one job and wait for its end; a worker must be there."""
        return self.ended([self.one(**more)])[0]

    def course(self, job_id: str) -> list[str]:
        """The attempts of a job in short: `first:failed:overloaded`, `second:answered`."""
        return [
            ":".join(filter(None, (a.row.provider, a.row.state.value, a.row.kind.value if a.row.kind else None)))
            for a in self.attempts(job_id)
        ]
