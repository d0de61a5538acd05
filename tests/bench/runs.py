"""The runs: many jobs at once, by each peer and by Completar in its several ways."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

from tests.bench import jobs as work
from tests.bench import naive as naive_queue
from tests.bench.ground import Ground, Run
from tests.support.processes import Process
from tests.support.wait import free_port
from worker.domain.failure import Lane
from worker.store.database import Database
from worker.store.migrate import upgrade


def naive(ground: Ground, jobs: int) -> Run:
    """Celery prefork with eight processes, an HTTP client per call, an ORM session per step."""
    url, redis_url = ground.postgres.empty(), ground.redis.url
    ground.redis.flushall()
    naive_queue.fill(url, redis_url, [work.openai_request(number) for number in range(jobs)])

    def start() -> list[Process]:
        env = naive_queue.environment(url, redis_url, ground.mock.base_url)
        return [ground.processes.python("naive", *naive_queue.COMMAND, env=env)]

    run = ground.measure("naive Celery, prefork 8", jobs, start, lambda: naive_queue.unfinished(url))
    ground.postgres.drop(url)
    return run


def script(ground: Ground, jobs: int, at_once: int) -> Run:
    """asyncio and httpx with so many requests at once."""
    source, target = ground.folder / "prompts.jsonl", ground.folder / "answers.jsonl"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(work.openai_request(number)) + "\n" for number in range(jobs))
    arguments = [str(source), str(target), f"{ground.mock.base_url}/chat/completions", str(at_once)]
    started: list[Process] = []

    def start() -> list[Process]:
        started.append(ground.processes.python("script", "-m", "tests.bench.script", *arguments))
        return started

    run = ground.measure(f"httpx script, semaphore {at_once}", jobs, start, lambda: int(started[0].running))
    assert started[0].exit_code == 0, started[0].tail()
    # Its own word is exact; seen from here, the end of a process that has ended is missing.
    return replace(run, cpu_ms=1000 * json.loads(started[0].output)["cpu_s"] / jobs)


def interactive(ground: Ground, jobs: int) -> Run:
    """One message per job, one worker process."""
    with ground.fresh_database() as url, closing(Database(url)) as database:
        ids = work.fill(database, Lane.INTERACTIVE, jobs)
        work.publish(ground.redis.url, ids)
        name = "Completar interactive, 1 process"
        return ground.measure(name, jobs, lambda: [ground.worker(url)], lambda: work.unfinished(database))


def batch(ground: Ground, jobs: int, processes: int, name: str | None = None) -> Run:
    """Many rows."""
    with ground.fresh_database() as url, closing(Database(url)) as database:
        work.fill(database, Lane.BATCH, jobs)
        name = name or f"Completar many rows, {processes} process{'es' * (processes > 1)}"
        return ground.measure(
            name,
            jobs,
            lambda: [ground.worker(url) for _ in range(processes)],
            lambda: work.unfinished(database),
        )


def lognormal(ground: Ground, jobs: int) -> Run:
    """Many rows, with answers that take a second as a rule and now and then ten."""
    ground.mock.hold("lognormal")
    try:
        return batch(ground, jobs, 1, "Completar many rows, log-normal latency")
    finally:
        ground.mock.hold("uniform")


def large(ground: Ground, jobs: int) -> Run:
    """Many rows, with answers of 4 KB."""
    with ground.answering("--bytes", "4096"):
        return batch(ground, jobs, 1, "Completar many rows, 4 KB answers")


def embedded(ground: Ground, jobs: int) -> Run:
    """`completar up`: SQLite, no broker, web and worker in one process."""
    folder = ground.folder / "embedded"
    folder.mkdir()
    with closing(Database(f"sqlite:///{folder / 'completar.sqlite3'}")) as database:
        upgrade(database)
        work.fill(database, Lane.BATCH, jobs)

        def start() -> list[Process]:
            env = {"COMPLETAR_CONFIG": str(ground.config), "COMPLETAR_DATA_DIR": str(folder)}
            return [ground.processes.python("up", "-m", "api.cli", "up", env={**env, "PORT": str(free_port())})]

        return ground.measure("Completar embedded (SQLite)", jobs, start, lambda: work.unfinished(database))
