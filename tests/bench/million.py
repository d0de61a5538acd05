"""One batch of a million lines: how long until it is accepted, and what everybody else notices of it while it runs.

The lines run in a worker of their own (`LANES=batch`), as docs/deploy-railway.md advises where people wait; a second
worker serves those. The provider answers at once. After a while the batch is cancelled: what is told of claims, memory
and waiting is of the time until then, and not of a run to the very end.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import redis
import sqlalchemy as sa

from tests.bench import jobs as work
from tests.bench.batch_client import KEY, BatchClient, ended, seen
from tests.bench.client import Answered, Client, crowd
from tests.bench.ground import Ground
from tests.bench.mock import held_s
from tests.bench.usage import memory
from worker import clock
from worker.domain.failure import Lane
from worker.engine.lane import BLOCK
from worker.store import claims as moves
from worker.store.database import Database

READ_MOST_S = 600.0
WARM_S = 1.0
LOOK_S = 0.5
PROBE_S = 0.3  # between two claims that are timed


@dataclass(frozen=True, slots=True)
class Million:
    """upload_s of the file, read_s from the POST of the batch until it was validated.

    first_s             from then until its first line had ended      cancel_s  from the request to the last call
    web_mb, worker_mb   how much they grew, at most                   redis_mb  likewise
    claim_p95_ms        of claims of a whole block, beside those of the workers
    quiet_p95_ms, beside_p95_ms   one waiting client, over the provider's time, before the batch and while it ran
    per_s               lines that ended, while it ran                written_s  from the cancel to its files
    """

    lines: int
    upload_s: float
    read_s: float
    first_s: float
    cancel_s: float
    web_mb: float
    worker_mb: float
    redis_mb: float
    claims: int
    claim_p95_ms: float
    quiet_p95_ms: float
    beside_p95_ms: float
    ran: int
    per_s: float
    written_s: float

    @property
    def times_quiet(self) -> float:
        return self.beside_p95_ms / self.quiet_p95_ms

    def line(self) -> str:
        return (
            f"{self.lines:,} lines: read in {self.read_s:.1f} s, first line {self.first_s:.2f} s later, "
            f"{self.per_s:,.0f} lines/s, cancel {self.cancel_s:.2f} s, written {self.written_s:.1f} s after it; "
            f"a claim {self.claim_p95_ms:.0f} ms, a waiting client {self.quiet_p95_ms:.0f} ms before and "
            f"{self.beside_p95_ms:.0f} ms beside it (p95, until the cancel); + {self.web_mb:.0f} MB web, "
            f"+ {self.worker_mb:.0f} MB worker, + {self.redis_mb:.1f} MB Redis"
        )


def million(ground: Ground, lines: int, seconds: float) -> Million:
    """`seconds`: how long one client asks, before the batch and beside it; claims are timed half as long after that."""
    with (
        ground.answering("--none"),
        ground.fresh_database() as url,
        closing(Database(url)) as database,
        closing(redis.Redis.from_url(ground.redis.url)) as broker,
    ):
        web, port = ground.web(url, COMPLETAR_API_KEY=KEY)
        batch_worker = ground.worker(url, LANES=Lane.BATCH.value)
        people_worker = ground.worker(url, LANES=Lane.INTERACTIVE.value)
        started = [web, batch_worker, people_worker]
        try:
            for worker in started[1:]:
                worker.wait_for_line(r"\bready\.")
            client = BatchClient(port)
            people = lambda: Client(port, KEY)  # noqa: E731 - as `crowd` takes it
            ended(database, client.create(client.upload(100)), 60.0)  # what is loaded and made once is there
            crowd(people, 1, WARM_S)
            ground.quiet()
            quiet = crowd(people, 1, seconds)
            weighed = _Weighed(
                {
                    "web": lambda: memory(web.pid).pss_mb,
                    "worker": lambda: memory(batch_worker.pid).pss_mb,
                    "redis": lambda: broker.info("memory")["used_memory"] / 2**20,
                }
            )
            with weighed.watched():
                begun_at = time.monotonic()
                file_id = client.upload(lines)
                uploaded_at = time.monotonic()
                batch_id = client.create(file_id)
                _until(lambda: seen(database, batch_id).status != "validating", READ_MOST_S)
                assert seen(database, batch_id).status == "in_progress", seen(database, batch_id)
                _until(lambda: _first_s(database, batch_id) is not None, 60.0)
                before, ran_at = ground.mock.served().answered, time.monotonic()
                beside = crowd(people, 1, seconds)
                with _claims(url) as claims:  # after the crowd: it measures itself in this process
                    time.sleep(seconds / 2)
                ran_s = time.monotonic() - ran_at
                ran = ground.mock.served().answered - before - len(beside)
                cancelled_at = time.monotonic()
                client.cancel(batch_id)
                last_at = _last_call_at(ground)
                done = ended(database, batch_id, READ_MOST_S, every_s=0.1)
            assert done.status == "cancelled", done
            first_s, over = _first_s(database, batch_id), [_over_ms(database, posts) for posts in (quiet, beside)]
        finally:
            ground.end(started)
    assert first_s is not None
    assert done.began_s is not None
    assert done.ended_s is not None
    return Million(
        lines=lines,
        upload_s=uploaded_at - begun_at,
        read_s=done.began_s,
        first_s=first_s - done.began_s,
        cancel_s=max(0.0, last_at - cancelled_at),
        web_mb=weighed.grown("web"),
        worker_mb=weighed.grown("worker"),
        redis_mb=weighed.grown("redis"),
        claims=len(claims),
        claim_p95_ms=_p95(claims),
        quiet_p95_ms=_p95(over[0]),
        beside_p95_ms=_p95(over[1]),
        ran=ran,
        per_s=ran / ran_s,
        written_s=done.ended_s - (cancelled_at - uploaded_at),
    )


@dataclass(slots=True)
class _Weighed:
    """How much each of these grew at most, in MB, beyond what it had at the start."""

    weights: dict[str, Callable[[], float]]
    first: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)

    def grown(self, name: str) -> float:
        return self.most[name] - self.first[name]

    @contextmanager
    def watched(self) -> Iterator[None]:
        self.first = {name: weigh() for name, weigh in self.weights.items()}
        self.most = dict(self.first)
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_S):
                for name, weigh in self.weights.items():
                    self.most[name] = max(self.most[name], weigh())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def _claims(url: str) -> Iterator[list[float]]:
    """Milliseconds of claims of a block, by the workers' own statements, each rolled back; filled until the end."""
    took_ms: list[float] = []
    over = threading.Event()

    def claim() -> None:
        warm = False  # the first one makes the statements, as a worker does when it starts
        with closing(Database(url, connections=1)) as database:
            while not over.wait(PROBE_S):
                try:
                    with database.write() as conn:
                        begun_s = time.perf_counter()
                        found = moves.claim_block(
                            conn, Lane.BATCH, BLOCK, worker_id="bench", claim_id=clock.new_id("clm")
                        )
                        took = 1000 * (time.perf_counter() - begun_s)
                        raise _Undone  # noqa: TRY301 - nothing of it may stay
                except _Undone:
                    if found and warm:
                        took_ms.append(took)
                    warm = True

    thread = threading.Thread(target=claim, daemon=True)
    thread.start()
    try:
        yield took_ms
    finally:
        over.set()
        thread.join()


class _Undone(Exception):
    pass


def _first_s(database: Database, batch_id: str) -> float | None:
    """When the first of its lines ended, in seconds since the batch was created."""
    with database.read() as conn:
        # Its lines begin with the first page that was taken in.
        first = conn.execute(
            sa.text(
                "SELECT extract(epoch FROM min(j.ended_at) - min(b.created_at)) FROM batch b"
                " JOIN batch_line l ON l.batch_id = b.id AND l.line <= 2000 JOIN job j ON j.id = l.job_id"
                " WHERE b.id = :id"
            ),
            {"id": batch_id},
        ).scalar_one()
    return None if first is None else float(first)


def _last_call_at(ground: Ground, still_s: float = 4.0) -> float:
    """When the provider was called for the last time, once nobody has called it for so long."""
    last, changed_at = -1, time.monotonic()
    while time.monotonic() - changed_at < still_s:
        now = ground.mock.served()
        if now.requests != last:
            last, changed_at = now.requests, time.monotonic()
        time.sleep(0.1)
    assert now.last_at is not None
    return now.last_at


def _over_ms(database: Database, posts: Sequence[Answered]) -> list[float]:
    calls = work.answered_by(database, [post.job_id for post in posts])
    return [1000 * (post.seconds - held_s(calls[post.job_id][0])) for post in posts]


def _p95(values: Sequence[float]) -> float:
    assert values, "nothing was timed"
    return sorted(values)[max(0, math.ceil(0.95 * len(values)) - 1)]


def _until(condition: Callable[[], bool], most_s: float) -> None:
    deadline_s = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {most_s:g} s"
        time.sleep(0.05)
