"""The bench measures what it says: a small slice of it through real parts, and its sums. No speeds."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import batch_client, batch_runs, jobs, naive, report
from tests.bench.batch_runs import Fair, Filed, Finished
from tests.bench.ground import Run
from tests.bench.hooks import Figure
from tests.bench.limits import Enforced
from tests.bench.mock import Mock, held_s
from tests.bench.report import Results
from tests.bench.waits import Wait
from tests.bench.watch import Watch
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.redis import Redis
from worker.domain.batch import NewBatch
from worker.domain.failure import Lane
from worker.store import batches, lines, projects
from worker.store.database import Database


@pytest.mark.postgres
@pytest.mark.redis
def test_every_job_is_done_once_and_the_provider_saw_it_once(
    postgres_url: str, redis_server: Redis, processes: Processes, tmp_path: Path
) -> None:
    mock = Mock(processes)
    env = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_server.url,
        "COMPLETAR_CONFIG": str(jobs.configured(tmp_path, mock.base_url)),
    }
    with closing(Database(postgres_url)) as database:
        ids = [*jobs.fill(database, Lane.BATCH, 500), *jobs.fill(database, Lane.INTERACTIVE, 50)]
        jobs.publish(redis_server.url, ids[500:])
        worker = processes.worker(env)
        with Watch({"worker": [worker.pid]}) as watch:
            worker.wait_for(lambda: jobs.unfinished(database) == 0, "the end of all jobs")
        assert jobs.by_status(database) == {"completed": 550}
        calls = jobs.answered_by(database, ids)

    served = mock.served()
    assert (served.requests, served.answered, served.hung_up, served.in_flight) == (550, 550, 0, 0)
    assert [len(of_job) for of_job in calls.values()] == [1] * 550
    held = [held_s(of_job[0]) for of_job in calls.values()]
    assert 0.1 <= min(held) < 0.15
    assert max(held) > 0.25
    assert served.first_at is not None
    assert served.last_at is not None
    assert watch.cost_s(served.first_at, served.last_at)["worker"] > 0.0


@pytest.mark.postgres
@pytest.mark.redis
def test_the_naive_peer_does_its_jobs(postgres: Postgres, redis_server: Redis, processes: Processes) -> None:
    mock = Mock(processes, "--none")
    url = postgres.empty()
    naive.fill(url, redis_server.url, [jobs.openai_request(number) for number in range(16)])
    assert naive.unfinished(url) == 16
    env = naive.environment(url, redis_server.url, mock.base_url)
    worker = processes.python("naive", *naive.COMMAND, env=env)
    worker.wait_for(lambda: naive.unfinished(url) == 0, "the end of all jobs")
    assert mock.served().answered == 16


def test_the_script_peer_answers_every_line(processes: Processes, tmp_path: Path) -> None:
    mock = Mock(processes, "--none")
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(jobs.openai_request(number)) + "\n" for number in range(20)))
    url = f"{mock.base_url}/chat/completions"
    script = processes.python("script", "-m", "tests.bench.script", str(source), str(target), url, "5")
    assert script.wait() == 0
    assert json.loads(script.output)["cpu_s"] > 0
    answered = [json.loads(line)["request"]["messages"][1]["content"] for line in target.read_text().splitlines()]
    assert sorted(answered) == sorted(jobs.request(number)["messages"][1]["content"] for number in range(20))
    assert mock.served().answered == 20


@pytest.mark.postgres
def test_the_one_line_of_a_batch_becomes_as_many_as_are_to_be_written(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        (job_id,) = jobs.fill(database, Lane.BATCH, 1)
        with database.write() as conn:
            project = projects.ensure(conn)
            batches.insert(conn, NewBatch("batch_1", project, None, "/v1/chat/completions", "file-1", "24h", 86_400))
            lines.insert(conn, "batch_1", [lines.Line(1, job_id, '"ticket-0000000"')])
        batch_runs._multiply(database, "batch_1", 30)
        batch_runs._to_be_written(database, "batch_1", 30)
        with database.read() as conn:
            found = lines.ended(conn, project, "batch_1", 0, 100, 1_000_000)
        assert batch_client.seen(database, "batch_1").status == "finalizing"
    assert [line.number for line, _ in found] == list(range(1, 31))
    assert [json.loads(line.custom_id) for line, _ in found] == [batch_client.custom_id(n) for n in range(30)]
    assert len({job.id for _, job in found}) == 30


def test_all_lines_of_a_file_are_of_one_length_and_none_is_like_another() -> None:
    lines = [batch_client.line(number) for number in (0, 7, 1_234_567)]
    assert len({len(line) for line in lines}) == 1
    assert [json.loads(line)["custom_id"] for line in lines] == ["ticket-0000000", "ticket-0000007", "ticket-1234567"]
    assert json.loads(lines[2])["body"]["messages"][1]["content"].startswith("Ticket 1234567: ")


RUN = Run("run", 1_000, 2_000.0, 0.5, 0.1, 0.01, 0.03, 120.0, 100.0, 990, 950.0, 0.5, 0.8, 0.0)
WAIT = Wait("wait", 300, 10.0, 40.0, 45.0, None, ran_dry=False, others=0.0)


FIGURES = {
    "deliveries": Figure("deliveries", 450.0, "a second", "", 0.0),
    "hanging": Figure("hanging", 6.0, "%", "", 0.0),
    "cancels": Figure("cancels", 1.0, "s", "", 0.0),
}


def _results() -> Results:
    runs = dict.fromkeys(("one", "skewed", "embedded", "panels"), RUN)
    runs |= {"naive": replace(RUN, per_s=25.0), "script": replace(RUN, per_s=400.0)}
    runs |= {"two": replace(RUN, per_s=3_100.0), "interactive": replace(RUN, per_s=1_000.0)}
    return Results(runs, {"idle": WAIT, "panel": WAIT, "beside": WAIT, "within": WAIT}, facts=dict(FIGURES))


def test_every_target_is_judged_by_its_own_figure() -> None:
    judged = {target.what: (target.measured, target.met) for target in report.targets(_results())}
    assert judged["many rows, 1 process, against naive Celery"] == (80.0, True)
    assert judged["many rows, 1 process, against the httpx script"] == (5.0, True)
    assert judged["2 processes against 1"] == (1.55, False)
    assert judged["slots used under log-normal latency"] == (95.0, True)
    assert judged["interactive, 1 process, against naive Celery"] == (40.0, True)
    assert judged["a waiting client, idle, p99"] == (40.0, True)
    assert judged["webhooks: deliveries, 1 process"] == (450.0, True)
    assert judged["webhooks: jobs lost when every receiver hangs"] == (6.0, False)
    assert len(judged) == 20


FILED = Filed("filed", 20_000, 1_500.0, 0.1, 0.5, 11.0, 1.5, 13.0, 0.2, 0.6, 0.2, 140.0, 0.9, 0.0)


def test_batches_are_judged_beside_their_peers_of_the_same_run() -> None:
    found = _results()
    found.batches.update(batch_one=FILED, batch_two=replace(FILED, per_s=2_700.0, others=0.3))
    found.batches.update(spare_one=replace(FILED, per_s=500.0), spare_two=replace(FILED, per_s=900.0))
    found.runs["gateway"] = replace(RUN, per_s=160.0)
    found.facts.update(
        fair=Fair(0.6, 1.5, 1.8, (48_000, 40_000)),
        enforced=Enforced(0.97, 0.94, 990, 10),
        finish_10k=Finished(10_000, 0.5, 40.0, 10.0, 10.0),
        finish_100k=Finished(100_000, 5.0, 40.0, 30.0, 12.0),
    )
    judged = {
        target.what: (target.measured, target.met, target.disturbed)
        for target in report.batch_targets(found, gateway=True)
    }
    assert judged["a batch, 1 process, create to files"] == (1_500.0, True, False)
    assert judged["the same, against the httpx script"] == (3.75, True, False)
    assert judged["the same, against the LiteLLM proxy, 2 workers"] == (9.375, False, False)
    like = judged["a batch, 2 processes, against the LiteLLM proxy, 2 workers"]
    assert like == (16.875, True, True)
    assert judged["a batch, 2 processes against 1"] == (1.8, True, True)
    assert judged["the same with cores to spare (120 slots each)"] == (1.8, True, False)
    assert judged["ten lines beside another project's large batch, against alone"] == (2.5, False, False)
    assert judged["600 requests a minute: used"] == (97.0, True, False)
    assert judged["60,000 tokens a minute: used"] == (94.0, False, False)
    assert judged["both: calls refused (429)"] == (1.0, True, False)
    assert judged["finishing 100,000 lines, each, against 10,000"] == (1.4, False, False)
    million = [target for target in report.batch_targets(found, many=True) if target.what.startswith(report.MILLION)]
    assert len(million) == 8
    assert {target.why for target in million} == {report.NOT_RUN}
    text = report.tables(json.loads(json.dumps(report.document(found, report.batch_targets(found), seconds=1.0))))
    assert "6 of 9 targets met" in text
    assert "finishing 100,000 lines: 5.00 s" in text


def test_what_could_not_be_measured_is_said_and_not_met() -> None:
    found = _results()
    del found.runs["naive"]
    found.failures["naive"] = "it would not start"
    found.waits["beside"] = replace(WAIT, ran_dry=True)
    found.runs["one"] = replace(RUN, name="the disturbed one", others=0.4)
    missing = [target for target in report.targets(found) if target.measured is None]
    assert [target.why for target in missing] == ["it would not start"] * 2 + [
        "the batch ended before its clients did"
    ] * 2
    assert not any(target.met for target in missing)
    text = report.tables(
        json.loads(
            json.dumps(
                report.document(found, report.targets(found), seconds=80.0, command="python3 run.py bench --quick")
            )
        )
    )
    assert "NOT MEASURED: it would not start" in text
    assert "40% (!)" in text
    assert [target.what for target in report.targets(found) if target.disturbed] == [
        "many rows, 1 process, against the httpx script",
        "worker CPU per job, many rows, 1 process",
        "2 processes against 1",
    ]
    assert "during: the disturbed one." in text
    assert "14 of 20 targets met. Again: `python3 run.py bench --quick`" in text
