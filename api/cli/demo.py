"""`completar demo`: two hundred requests through the real engine, on a database that is gone afterwards."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

import click

from api.cli import demo_predictions, lines
from api.cli.batch import by_kind
from api.cli.batch_run import BatchRun
from api.cli.calls import Calls
from api.cli.client import Client
from api.cli.command import Command
from api.cli.fault import CliFault, Exit
from api.cli.local import settings
from api.cli.output_file import check_free, overwriting, written
from api.cli.own import embedded
from api.cli.progress import Progress
from api.cli.results import Output, Record, Sums
from api.cli.screen import Screen, seconds
from api.embedded import Embedded
from worker.domain.failure import Lane
from worker.domain.state import JobStatus
from worker.store import attempts

PROMPTS: Final = Path(__file__).resolve().parents[2] / "examples" / "prompts.jsonl"


@click.command(cls=Command)
@click.option(
    "--output",
    "-o",
    "target",
    default="results.jsonl",
    show_default=True,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where the records go.",
)
@overwriting
@click.option("--predictions", "asks", is_flag=True, help="50 questions for a panel, and how good each member was.")
@click.pass_obj
def demo(screen: Screen, target: Path, overwrite: bool, asks: bool) -> Exit:
    """200 requests in English and Spanish, some told to fail, as a batch through the real engine.

    Needs no key: the sandbox answers. With a provider's key in the environment that provider answers; the lines
    that are told to fail stay with the sandbox.

    For example:
      completar demo
      GROQ_API_KEY=... completar demo -o answers.jsonl
      completar demo --predictions
    """
    needed = demo_predictions.QUESTIONS if asks else PROMPTS
    if not needed.is_file():
        raise CliFault(f"{needed} is not there.", "It is part of the repository, and of the wheel.")
    if not overwrite:
        check_free(target, _names() | demo_predictions.names())
    told = settings()
    with tempfile.TemporaryDirectory(prefix="completar-demo-", ignore_cleanup_errors=True) as folder:
        mine = told.model_copy(
            update={
                "data_dir": Path(folder),
                "database_url": None,
                "redis_url": None,
                "api_key": None,
                "host": "127.0.0.1",
                "port": 0,
                "lanes": frozenset(Lane),
                "sandbox": "on",  # for the lines that name it; `default` is still asked of the real providers
            }
        )
        with embedded(screen, mine) as own:
            if asks:
                return demo_predictions.run(screen, own, target)
            screen.say(_who(own))
            return _run(screen, own, target)


def _names() -> frozenset[str]:
    """Of its lines: records of these were made by a demo, and give way to those of the next."""
    with PROMPTS.open("rb") as file:
        return frozenset(str(line.custom_id) for line in lines.read(file, {}))


def _run(screen: Screen, own: Embedded, target: Path) -> Exit:
    client = Client(own.url, own.key, screen)
    try:
        with (
            written(target, more=False) as stream,
            PROMPTS.open("rb") as file,
            Progress(screen) as progress,
        ):
            mine = BatchRun(client, screen, Output(stream), progress, partial(lines.read_again, file, {}))
            mine.run()
            took_s = progress.elapsed_s
    finally:
        client.close()
    with own.deps.database.read() as conn:
        ids = [record["id"] for record in _records(target)]
        calls = Calls.of(attempts.of_jobs(conn, ids).values())
    _sum_up(screen, mine.sums, calls, took_s)
    _name_failed(screen, target)
    screen.data(f"\nEvery answer: {target}")
    if own.is_sandbox:
        screen.data(
            "The sandbox answered: no real model. With a key, such as GROQ_API_KEY, its provider answers instead."
        )
    return Exit.OK if mine.sums.done else Exit.FAILED


def _sum_up(screen: Screen, sums: Sums, calls: Calls, took_s: float) -> None:
    failed = f"{sums.failed} failed ({by_kind(sums)})" if sums.failed else "none failed"
    half, most = calls.within_s(0.5), calls.within_s(0.95)
    screen.data(f"{sums.ended} requests in {seconds(took_s)}: {sums.done} done, {failed}")
    for name, said in (
        ("served by", ", ".join(f"{by} {count}" for by, count in sums.served.most_common())),
        (
            "calls",
            f"{calls.made}: {calls.retries} retries, {calls.fallbacks} fallbacks, {calls.passed_over} passed over",
        ),
        ("cost", sums.spent),
        ("answer in", f"p50 {seconds(half)}, p95 {seconds(most)}, from a job's first call to the end of its last"),
    ):
        screen.data(f"  {name:10} {said}")


def _name_failed(screen: Screen, target: Path) -> None:
    failed = [record for record in _records(target) if record["status"] != JobStatus.COMPLETED]
    screen.data("\nThese failed. Most lines that do are told to, so that you see what happens:")
    for record in sorted(failed, key=lambda one: str(one["custom_id"])):
        error = record["error"]
        screen.data(f"  {record['custom_id']:10} {error['kind']:16} {error['message']}")


def _records(target: Path) -> list[Record]:
    with target.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _who(own: Embedded) -> str:
    """Said before anything is sent: it may cost money."""
    if own.is_sandbox:
        return "No provider has a key: the sandbox answers, which is no real model."
    return f"{', then '.join(own.labels)} will be asked, with your key; lines that are told to fail go to the sandbox."
