"""The runs of whole batches: a file through the API to its files of results, alone and beside others."""

from __future__ import annotations

import json
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from tests.bench.batch_client import KEY, BatchClient, custom_id, ended, seen
from tests.bench.ground import Ground, pid_of
from tests.bench.usage import cpu_s, memory
from tests.support.processes import Process
from worker.store import keys, projects
from worker.store.database import Database

OTHER_KEY: Final = "ck_other_0123456789abcdefghijklmnop"
FEW: Final = 10
SPARE_SLOTS: Final = 120  # of a worker, with a provider of 200 ms: a third of what a core can do
MOST_S: Final = 240.0


@dataclass(frozen=True, slots=True)
class Filed:
    """One batch from its POST to its files. CPU per line is of all that time.

    per_s     lines by total_s, from the POST of the batch to its final state
    upload_s  of the file before that        download_s  of the file of answers after it
    read_s, run_s, write_s  until the file was validated, until every line had ended, until the files were written
    busy, others            as in Run; `busy` while lines ran
    """

    name: str
    lines: int
    per_s: float
    upload_s: float
    read_s: float
    run_s: float
    write_s: float
    total_s: float
    download_s: float
    cpu_ms: float
    postgres_ms: float
    peak_pss_mb: float
    busy: float
    others: float

    def line(self) -> str:
        parts = f"read {self.read_s:.1f} s, run {self.run_s:.1f} s, written {self.write_s:.1f} s"
        return f"{self.name}: {self.per_s:,.0f} lines/s ({parts}), {self.cpu_ms:.2f} ms CPU per line"


def filed(ground: Ground, lines: int, processes: int, *, slots: int | None = None) -> Filed:
    """A file of so many lines, and so many worker processes, with so many slots each (None: as they come)."""
    more = {} if slots is None else {"SLOTS": str(slots)}
    with ground.fresh_database() as url, closing(Database(url)) as database:
        web, port = ground.web(url, COMPLETAR_API_KEY=KEY)
        workers = [ground.worker(url, **more) for _ in range(processes)]
        try:
            for worker in workers:
                worker.wait_for_line(r"\bready\.")
            client = BatchClient(port)
            ground.quiet()
            ground.mock.reset()
            with ground.watch(workers) as watch:
                begun_at = time.monotonic()
                file_id = client.upload(lines)
                posted_at = time.monotonic()
                batch_id = client.create(file_id)
                done = ended(database, batch_id, MOST_S, check=lambda: _all_run(workers))
                over_at = time.monotonic()
            served = ground.mock.served()
            assert done.status == "completed", done
            assert served.requests == served.answered == lines, f"{lines} lines and {served.requests} calls"
            assert done.output_file_id is not None
            _in_order(client, done.output_file_id, lines)
            downloaded_at = time.monotonic()
        finally:
            ground.end([web, *workers])
    assert done.began_s is not None
    assert done.finalizing_s is not None
    assert done.ended_s is not None
    cost = watch.cost_s(posted_at, over_at)
    return Filed(
        name=f"Completar, a batch of {lines:,} lines, {processes} process{'es' * (processes > 1)}"
        + (f", {slots} slots each" if slots is not None else ""),
        lines=lines,
        per_s=lines / (over_at - posted_at),
        upload_s=posted_at - begun_at,
        read_s=done.began_s,
        run_s=done.finalizing_s - done.began_s,
        write_s=done.ended_s - done.finalizing_s,
        total_s=over_at - posted_at,
        download_s=downloaded_at - over_at,
        cpu_ms=1000 * cost["worker"] / lines,
        postgres_ms=1000 * cost["postgres"] / lines,
        peak_pss_mb=watch.peak_pss_mb,
        busy=watch.busy(posted_at + done.began_s, posted_at + done.finalizing_s),
        others=watch.others(posted_at, over_at),
    )


def _all_run(workers: list[Process]) -> None:
    for worker in workers:
        assert worker.running, f"{worker.name} ended too early\n{worker.tail()}"


def _in_order(client: BatchClient, file_id: str, lines: int) -> None:
    """Each line of the input once, and in its order."""
    n = 0
    for text in client.lines_of(file_id):
        assert json.loads(text)["custom_id"] == custom_id(n), f"line {n + 1}: {text[:200]!r}"
        n += 1
    assert n == lines, f"{n} lines of {lines}"


# -- fairness ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fair:
    """How long a batch of ten lines takes: alone, and beside another project's large one. Medians, and the worst.

    waiting  lines of the large one that had not been started when the first and when the last of the small ones ended
    """

    alone_s: float
    beside_s: float
    worst_s: float
    waiting: tuple[int, int]

    @property
    def times(self) -> float:
        return self.beside_s / self.alone_s

    def line(self) -> str:
        return (
            f"a batch of {FEW} lines: alone {self.alone_s:.2f} s, beside another project's {self.beside_s:.2f} s "
            f"(at worst {self.worst_s:.2f} s), of which {self.waiting[0]:,} to {self.waiting[1]:,} lines were waiting"
        )


def fair(ground: Ground, lines: int, times: int) -> Fair:
    """Project A has `lines` to run, project B comes with ten, `times` times in turn; one worker process."""
    with ground.fresh_database() as url, closing(Database(url)) as database:
        with database.write() as conn:
            for name, secret in (("large", KEY), ("small", OTHER_KEY)):
                keys.create(conn, projects.ensure(conn, name), name, secret=secret)
        web, port = ground.web(url)
        worker = ground.worker(url)
        try:
            worker.wait_for_line(r"\bready\.")
            large, small = BatchClient(port, KEY), BatchClient(port, OTHER_KEY)
            few = small.upload(FEW)
            _timed(small, database, few)  # the first one warms up what is made once
            ground.quiet()
            alone = [_timed(small, database, few) for _ in range(times)]
            batch_id = large.create(large.upload(lines))
            before = ground.mock.served().answered
            worker.wait_for(lambda: ground.mock.served().answered - before > 1_000, "the large batch in full swing")
            beside, waiting = [], []
            for _ in range(times):
                beside.append(_timed(small, database, few))
                waiting.append(lines - (ground.mock.served().requests - before))
            assert seen(database, batch_id).status == "in_progress", "the large batch had ended before the small ones"
        finally:
            ground.end([web, worker])
    return Fair(statistics.median(alone), statistics.median(beside), max(beside), (waiting[0], waiting[-1]))


def _timed(client: BatchClient, database: Database, file_id: str) -> float:
    """Seconds from the POST of a batch to its end."""
    begun_at = time.monotonic()
    done = ended(database, client.create(file_id), MOST_S, every_s=0.01)
    assert done.status == "completed", done
    return time.monotonic() - begun_at


# -- finishing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """What it takes to write the files of a batch whose lines have all ended; microseconds are CPU of each line."""

    lines: int
    seconds: float
    worker_us: float
    postgres_us: float
    grown_mb: float

    @property
    def us(self) -> float:
        return self.worker_us + self.postgres_us

    def line(self) -> str:
        return (
            f"finishing {self.lines:,} lines: {self.seconds:.2f} s, {self.worker_us:.0f} µs of worker and "
            f"{self.postgres_us:.0f} µs of Postgres each, + {self.grown_mb:.0f} MB"
        )


def finishing(ground: Ground, lines: int) -> Finished:
    """A batch of one line runs; then its rows are copied, and a worker finds the whole not yet written."""
    with ground.fresh_database() as url, closing(Database(url)) as database:
        web, port = ground.web(url, COMPLETAR_API_KEY=KEY)
        worker = ground.worker(url)
        try:
            worker.wait_for_line(r"\bready\.")
            client = BatchClient(port)
            batch_id = client.create(client.upload(1))
            ended(database, batch_id, MOST_S)
            worker.stop()
            _multiply(database, batch_id, lines)
            worker = ground.worker(url)
            worker.wait_for_line(r"\bready\.")
            time.sleep(1.0)  # what a worker does once when it starts
            ground.quiet()
            server = pid_of(ground.postgres)
            cost, size = (cpu_s(worker.pid), cpu_s(server)), memory(worker.pid).pss_mb
            peak = size
            _to_be_written(database, batch_id, lines)
            begun_at = time.monotonic()

            def weigh() -> None:
                nonlocal peak
                peak = max(peak, memory(worker.pid).pss_mb)

            done = ended(database, batch_id, MOST_S, every_s=0.1 if lines > FEW else 0.02, check=weigh)
            seconds = time.monotonic() - begun_at
            spent = cpu_s(worker.pid) - cost[0], cpu_s(server) - cost[1]
            assert done.status == "completed", done
            assert done.output_file_id is not None
            _in_order(client, done.output_file_id, lines)
        finally:
            ground.end([web, worker])
    return Finished(lines, seconds, 1e6 * spent[0] / lines, 1e6 * spent[1] / lines, peak - size)


def _multiply(database: Database, batch_id: str, lines: int) -> None:
    """The one line of a batch becomes so many: its rows are copied, whatever columns they have."""
    with database.session() as conn, conn.begin():
        conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
        conn.exec_driver_sql("SET LOCAL session_replication_role = replica")  # what is copied happened to nobody
        first = conn.exec_driver_sql("SELECT job_id FROM batch_line WHERE batch_id = %s", (batch_id,)).scalar_one()
        conn.exec_driver_sql("UPDATE batch_line SET line = 0 WHERE batch_id = %s", (batch_id,))
        number = "lpad(n::text, 7, '0')"
        copies = {
            "job": ("id", {"id": f"'job_' || {number}"}),
            "job_input": ("job_id", {"job_id": f"'job_' || {number}"}),
            "job_result": ("job_id", {"job_id": f"'job_' || {number}"}),
            "batch_line": (
                "job_id",
                {
                    "job_id": f"'job_' || {number}",
                    "line": "n",
                    "custom_id": "'\"ticket-' || lpad((n - 1)::text, 7, '0') || '\"'",
                },
            ),
        }
        for table, (key, changed) in copies.items():
            names = list(
                conn.exec_driver_sql(
                    "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
                    " AND table_schema = current_schema()",
                    (table,),
                ).scalars()
            )
            picked = ", ".join(changed.get(name, f't."{name}"') for name in names)
            into = ", ".join(f'"{name}"' for name in names)
            conn.exec_driver_sql(
                f"INSERT INTO {table} ({into}) SELECT {picked} FROM {table} t, generate_series(1, %s) n"
                f" WHERE t.{key} = %s",
                (lines, first),
            )
        conn.exec_driver_sql("DELETE FROM batch_line WHERE batch_id = %s AND line = 0", (batch_id,))
    with database.session() as conn:
        conn.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("SET statement_timeout = 0")
        for table in copies:
            conn.exec_driver_sql(f"VACUUM ANALYZE {table}")


def _to_be_written(database: Database, batch_id: str, lines: int) -> None:
    zero = ("written_line", "output_parts", "output_bytes", "error_parts", "error_bytes", "completed", "failed")
    with database.write() as conn:
        conn.exec_driver_sql(
            "UPDATE batch SET status = 'finalizing', completed_at = NULL, output_file_id = NULL, error_file_id = NULL,"
            f" total = %s, taken = %s, taken_line = %s, {', '.join(f'{name} = 0' for name in zero)} WHERE id = %s",
            (lines, lines, lines, batch_id),
        )
