"""`completar batch run`, and the commands for batches that a server keeps."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from api.cli import lines
from api.cli.awake import awake
from api.cli.batch_run import BatchRun
from api.cli.batch_server import COMMANDS, estimated, reading
from api.cli.command import Group
from api.cli.fault import CliFault, Exit
from api.cli.progress import Progress
from api.cli.prompts import Shape, opened
from api.cli.results import Output, Sums
from api.cli.screen import Screen, seconds
from api.cli.server import Server, server
from worker import clock
from worker.domain.failure import Lane
from worker.providers.endpoints import API as ENDPOINTS_API
from worker.settings import SANDBOX


@click.group(cls=Group)
def batch() -> None:
    """Many requests from a file."""


for _command in COMMANDS:
    batch.add_command(_command)


@batch.command()
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--output", "-o", "target", metavar="OUT.jsonl", default="-", help="Where the records go; stdout if not said."
)
@click.option("--model", "--route", "model", help="Route or target for every line, whatever it says.")
@reading
@click.option("--dry-run", is_flag=True, help="Only say what it would come to: nothing is called.")
@click.option("--max-attempts", type=click.IntRange(1, 100), help="Calls per line at most.")
@click.option("--ordered", is_flag=True, help="Records in the order of the lines; otherwise as they end.")
@click.option("--resume", "name", metavar="RUN", help="Go on with a run of the last 24 hours; same file, same options.")
@click.option("--endpoint", metavar="NAMESPACE/NAME", help="Inference Endpoint to resume first, where it is paused.")
@click.option("--scale-to-zero", is_flag=True, help="Send that endpoint to sleep afterwards.")
@click.option("--api-url", default=ENDPOINTS_API, hidden=True)
@click.pass_obj
def run(
    screen: Screen,
    source: str,
    target: str,
    model: str | None,
    template: str | None,
    shape: Shape | None,
    dry_run: bool,
    max_attempts: int | None,
    ordered: bool,
    name: str | None,
    endpoint: str | None,
    scale_to_zero: bool,
    api_url: str,
) -> Exit:
    """Run every line of a file, and write a record for each.

    A line is a line of an OpenAI batch, or an object with `prompt`, `messages` or `input`, and `custom_id`, `model`
    and parameters where wanted. A line that is broken is reported and the others run. Of a CSV or a text file each
    record is a prompt, by --template.

    For example:
      completar batch run in.jsonl -o out.jsonl
      cat in.jsonl | completar batch run - --ordered > out.jsonl
      completar batch run reviews.csv -o out.jsonl --template "Positive or negative? {review}"
      completar batch run in.jsonl -o out.jsonl --model groq/openai/gpt-oss-20b
      completar batch run in.jsonl -o out.jsonl --endpoint ana/my-endpoint --scale-to-zero

    Exit code 0 when every line was answered, 3 when some were not, 1 when none was.
    """
    if target != "-" and source != "-" and Path(target).exists() and Path(target).samefile(source):
        raise CliFault("Input and output are the same file.", "Give another name to -o.", Exit.USAGE)
    if dry_run:
        with server(screen) as at:
            return estimated(screen, at.client, source, model, template, shape)
    overrides: dict[str, Any] = {"model": model, "max_attempts": max_attempts}
    given = {field: value for field, value in overrides.items() if value is not None}
    name = name if name is not None else clock.new_id("run")
    again = f"--resume {name}"
    with (
        awake(screen, endpoint, api_url, then_sleep=scale_to_zero),
        server(screen, works=frozenset({Lane.BATCH})) as at,
        _written(target) as stream,
        opened(source, shape, template) as file,
        Progress(screen) as progress,
    ):
        mine = BatchRun(at.client, screen, Output(stream, ordered=ordered), progress, name, _counted(source))
        screen.say(f"Should it be cut off, the same command with `{again}` goes on with it.")
        try:
            mine.run(lines.read(file, given))
        except KeyboardInterrupt:
            _left(screen, mine, at, " ".join(map(shlex.quote, sys.argv[1:])), again)
            raise
        except CliFault as fault:
            if fault.code is Exit.UNREACHABLE and mine.ids:
                fault.remedy = f"What was submitted goes on there. The same command with `{again}` goes on watching."
            raise
    _told(screen, mine.sums, progress.elapsed_s)
    return outcome(mine.sums)


def outcome(sums: Sums) -> Exit:
    if not sums.failed:
        return Exit.OK
    return Exit.SOME_FAILED if sums.done else Exit.FAILED


def by_kind(sums: Sums) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in sums.failures.most_common())


def _told(screen: Screen, sums: Sums, took_s: float) -> None:
    if not sums.ended:
        screen.say("There is no line in the input.")
        return
    failed = f", {sums.failed:,} failed ({by_kind(sums)})" if sums.failed else ""
    screen.say(f"{sums.done:,} done{failed} in {seconds(took_s)}, {sums.spent}.")
    screen.say(
        "Served by: " + (", ".join(f"{target} {count:,}" for target, count in sums.served.most_common()) or "nobody")
    )
    if any(target.startswith(f"{SANDBOX}/") for target in sums.served):
        screen.say("The sandbox is no real model: it answers so that you can try things out.")


def _left(screen: Screen, mine: BatchRun, at: Server, command: str, again: str) -> None:
    open_ = mine.read - mine.sums.ended
    who = "The server goes on with them" if at.lasts else "They are stored, and go on when a server runs here again"
    screen.warn(f"\nStopped watching with {open_:,} of {mine.read:,} lines open. {who}.")
    screen.warn(
        f"To have them: completar {command} {again}"
        if "--resume" not in command
        else f"To have them: completar {command}"
    )
    if not at.lasts:
        screen.warn("Letting calls in flight end; Ctrl-C again stops at once.")


def _counted(source: str) -> int:
    """Lines, as far as a quick look tells; 0 where looking would use them up."""
    if source == "-" or not Path(source).is_file():
        return 0
    with Path(source).open("rb") as file:
        return sum(1 for line in file if line.strip())


@contextlib.contextmanager
def _written(target: str) -> Iterator[TextIO]:
    """Lone surrogates, which JSON can hold and UTF-8 cannot, stay the escapes they were."""
    if target == "-":
        yield sys.stdout
        return
    with Path(target).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield file
