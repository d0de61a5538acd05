"""`completar batch run`, and the commands for batches that a server keeps."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import click

from api.cli import batch_content, lines
from api.cli.awake import awake
from api.cli.batch_note import Note, digest
from api.cli.batch_run import BatchRun, Terms, bound_told
from api.cli.batch_server import COMMANDS, checked, reading, told_of
from api.cli.client import Client, Refused
from api.cli.command import Group
from api.cli.fault import CliFault, Exit
from api.cli.lines import BrokenLine, Line
from api.cli.ordered import Ordered
from api.cli.output_file import check_free, is_occupied, overwriting, written
from api.cli.program import PROGRAM, words
from api.cli.progress import Progress
from api.cli.prompts import Shape, opened
from api.cli.results import Output, Sums, restored
from api.cli.screen import Screen, seconds
from api.cli.server import Server, server
from api.cli.shared_calls import sharing
from worker.domain.failure import Lane
from worker.domain.job import HIGHEST, LOWEST
from worker.providers.endpoints import API as ENDPOINTS_API
from worker.settings import SANDBOX


@click.group(cls=Group)
def batch() -> None:
    """Many requests from a file."""


for _each in COMMANDS:
    batch.add_command(_each)


@batch.command()
@click.argument("source", metavar="FILE", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--output", "-o", "target", metavar="OUT.jsonl", default="-", help="Where the records go; stdout if not said."
)
@overwriting
@click.option("--model", "--route", "model", help="Route or target for every line, whatever it says.")
@reading
@click.option("--dry-run", is_flag=True, help="Only say what it would come to: nothing is called.")
@click.option("--max-cost", type=click.FloatRange(0, min_open=True), help="US dollars that the run may cost in all.")
@click.option("--priority", type=click.IntRange(LOWEST, HIGHEST), default=0, show_default=True)
@click.option("--window", default="24h", show_default=True, help="How long it may take, such as 1h or 7d.")
@click.option("--max-attempts", type=click.IntRange(1, 100), help="Calls per line at most.")
@sharing
@click.option("--ordered", is_flag=True, help="Records in the order of the lines; otherwise as they end.")
@click.option("--resume", "resumed", metavar="ID", help="Go on with a run, by its batch; FILE may be left out.")
@click.option("--endpoint", metavar="NAMESPACE/NAME", help="Inference Endpoint to resume first, where it is paused.")
@click.option("--scale-to-zero", is_flag=True, help="Send that endpoint to sleep afterwards.")
@click.option("--api-url", default=ENDPOINTS_API, hidden=True)
@click.pass_obj
def run(
    screen: Screen,
    source: str | None,
    target: str,
    overwrite: bool,
    model: str | None,
    template: str | None,
    shape: Shape | None,
    encoding: str | None,
    dry_run: bool,
    max_cost: float | None,
    priority: int,
    window: str,
    max_attempts: int | None,
    dedupe: bool,
    max_age: str | None,
    ordered: bool,
    resumed: str | None,
    endpoint: str | None,
    scale_to_zero: bool,
    api_url: str,
) -> Exit:
    """Run every line of a file as a batch, and write a record for each as it comes.

    A line is a line of an OpenAI batch, or an object with `prompt`, `messages` or `input`, and `custom_id`, `model`
    and parameters where wanted. A line that is broken is reported and the others run. Of a CSV or a text file each
    record is a prompt, by --template. Beside it a CSV may have the columns custom_id (or id), model, system and those
    of numbers, such as temperature and max_tokens; of JSON lines every field of a line counts that it does not use.

    Ctrl-C stops watching, and the batch goes on. The same command with the same -o goes on with it, after whatever
    cut it off: no line is asked twice, and each has one record. OUT.jsonl.run notes how far it is, until it is over.
    From then on the file is replaced only with --overwrite, once the first line of the new run is answered.

    For example:
      completar batch run in.jsonl -o out.jsonl --max-cost 5
      cat in.jsonl | completar batch run - --ordered > out.jsonl
      completar batch run reviews.csv -o out.jsonl --template "Positive or negative? {review}"
      completar batch run in.jsonl -o out.jsonl --model groq/openai/gpt-oss-20b
      completar batch run in.jsonl -o out.jsonl --endpoint ana/my-endpoint --scale-to-zero

    Exit code 0 when every line was answered, 3 when some were not, 1 when none was.
    """
    _check_paths(source, target, resumed)
    asked: dict[str, Any] = {"model": model, "max_attempts": max_attempts}
    given = {field: value for field, value in asked.items() if value is not None}
    with contextlib.ExitStack() as stack:
        file = None if source is None else stack.enter_context(opened(source, shape, template, encoding))
        if dry_run:
            return _would_be(screen, file, given, dedupe=dedupe)
        what = None if file is None else digest(file, given)
        terms = {"window": window, "priority": priority, "dedupe": dedupe, "cache": max_age}
        said = {name: value for name, value in terms.items() if value != _USUAL[name]}
        noted = what if file is None or not said else digest(file, given | said)
        note, goes_on = _noted(target, noted, resumed, overwrite=overwrite)
        stack.enter_context(awake(screen, endpoint, api_url, then_sleep=scale_to_zero))
        at = stack.enter_context(server(screen, works=frozenset({Lane.BATCH})))
        if resumed is not None:
            _same(at.client, resumed, what)
        stream = stack.enter_context(written(target, more=goes_on))
        output = stack.enter_context(closing(Ordered(stream) if ordered else Output(stream)))
        progress = Progress(screen)
        mine = BatchRun(
            at.client,
            screen,
            output,
            progress,
            (lambda: iter(())) if file is None else partial(lines.read_again, file, given),
            Terms(window, priority, max_cost, None if what is None else what[:32], dedupe, max_age),
            note,
            _counted(source),
        )
        if goes_on:
            mine.had(restored(Path(target)))
            screen.say(f"{target} has {mine.sums.ended:,} records: going on with the others.")
        try:
            with progress:
                mine.run(resumed)
        except KeyboardInterrupt:
            _left(screen, mine, at, target, source)
            raise
        except CliFault as fault:
            fault.remedy = _remedy(fault, mine, note) or fault.remedy
            raise
        if note is not None and not mine.left:
            output.keep()
            note.remove()
        _told(screen, mine, progress.elapsed_s, max_cost, noted=note is not None)
        if not at.lasts:
            mine.settle()
    return outcome(mine.sums, mine.left)


# What is noted of a run names only what differs: notes of a release that knew of no such options stay good.
_USUAL: Final = {"window": "24h", "priority": 0, "dedupe": False, "cache": None}


def _check_paths(source: str | None, target: str, resumed: str | None) -> None:
    """Raises CliFault."""
    if source is None and resumed is None:
        raise CliFault("FILE is missing.", "Name a file, or `-` for stdin.", Exit.USAGE)
    if target != "-" and source not in {None, "-"} and Path(target).exists() and Path(target).samefile(str(source)):
        raise CliFault("Input and output are the same file.", "Give another name to -o.", Exit.USAGE)


def _remedy(fault: CliFault, mine: BatchRun, note: Note | None) -> str | None:
    """How to go on after it, where that is peculiar to a run."""
    if fault.code is Exit.UNREACHABLE and mine.batch_id is not None:
        again = "" if note is not None else f" with --resume {mine.batch_id}"
        return f"What was handed over goes on there. The same command{again} goes on watching."
    if isinstance(fault, Refused) and fault.status in {404, 410} and note is not None:
        return f"Name the server of then in COMPLETAR_URL, or delete {note.path} to begin anew."
    return None


def outcome(sums: Sums, left: int = 0) -> Exit:
    """`left`: lines that were not run."""
    if not sums.failed and not left:
        return Exit.OK
    return Exit.SOME_FAILED if sums.done else Exit.FAILED


def by_kind(sums: Sums) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in sums.failures.most_common())


def _noted(target: str, what: str | None, resumed: str | None, *, overwrite: bool) -> tuple[Note | None, bool]:
    """The note beside a file for records, and whether the run goes on after the records that the file has.

    Without an input there is a note only where it is of the batch that is gone on with. Raises CliFault where the file
    has what nobody said to replace.
    """
    if target == "-":
        return None, False
    output, note, found = Path(target), None, False
    if output.parent.is_dir() and (output.is_file() or not output.exists()):
        note, found = Note.at(output, what)
        if what is None and note.batch_id != resumed:
            note, found = None, False
    if note is not None and note.replaces:
        return note, False
    if (found or resumed is not None) and output.is_file():
        return note, True
    if not overwrite:
        check_free(output)
    elif note is not None:
        note = replace(note, replaces=is_occupied(output))
    return note, False


def _same(client: Client, batch_id: str, what: str | None) -> None:
    """Raises CliFault where a batch is of another input."""
    found = client.get(f"/v1/batches/{checked(batch_id)}").json()
    if found["endpoint"] != batch_content.ENDPOINT:
        raise CliFault(f"{batch_id} is not of a run.", f"`{PROGRAM} batch results {batch_id}` has it.", Exit.USAGE)
    if what is not None and (found["metadata"] or {}).get("run") != what[:32]:
        raise CliFault(
            f"Batch {batch_id} had other lines.",
            "Give the same file and options as the first time, or leave FILE out.",
            Exit.USAGE,
        )


def _would_be(screen: Screen, file: BufferedReader | None, given: dict[str, Any], *, dedupe: bool) -> Exit:
    """What the good lines would come to. Exit code 2 where one is faulty."""
    broken = 0

    def good() -> Iterator[Line]:
        nonlocal broken
        for line in [] if file is None else lines.read_again(file, given):
            if isinstance(line, BrokenLine):
                broken += 1
                screen.warn(f"line {line.number}: {line.message}")
            else:
                yield line

    with server(screen) as at, tempfile.TemporaryFile() as content:
        if not batch_content.write(content, good()).lines:
            screen.say("There is no line in the input.")
            return Exit.USAGE if broken else Exit.OK
        content.seek(0)
        found = told_of(screen, at.client, content, batch_content.ENDPOINT, dedupe=dedupe)
    return Exit.USAGE if broken else found


def _told(screen: Screen, mine: BatchRun, took_s: float, max_cost: float | None, *, noted: bool) -> None:
    """What came of it, and how to go on where the bound was reached; `noted`: the same command does."""
    if mine.sums.ended:
        _summed_up(screen, mine.sums, took_s)
    elif not mine.left:
        screen.say("There is no line in the input.")
    if mine.left and max_cost is not None:
        again = _typed("--max-cost", "--resume") if noted else f"{PROGRAM} batch retry {mine.last_id}"
        screen.warn(bound_told(mine, max_cost, f"{again} --max-cost MORE"))


def _summed_up(screen: Screen, sums: Sums, took_s: float) -> None:
    failed = f", {sums.failed:,} failed ({by_kind(sums)})" if sums.failed else ""
    screen.say(f"{sums.done:,} done{failed} in {seconds(took_s)}, {sums.spent}.")
    screen.say(
        "Served by: " + (", ".join(f"{target} {count:,}" for target, count in sums.served.most_common()) or "nobody")
    )
    if sums.took:
        calls = f"{sums.calls:,} calls for {sums.called:,} lines"
        screen.say(f"{calls}; a line took p50 {seconds(sums.within_s(0.5))}, p95 {seconds(sums.within_s(0.95))}.")
    if any(target.startswith(f"{SANDBOX}/") for target in sums.served):
        screen.say("The sandbox is no real model: it answers so that you can try things out.")


def _left(screen: Screen, mine: BatchRun, at: Server, target: str, source: str | None) -> None:
    """Where it stands, and how to go on, for whoever stops watching."""
    who = "The server goes on with them" if at.lasts else "They are stored, and go on when a server runs here again"
    if mine.batch_id is None:
        screen.warn(f"\nStopped with {mine.open:,} of {mine.total:,} lines not handed over.")
    else:
        screen.warn(f"\nStopped watching with {mine.open:,} of {mine.total:,} lines open. {who}.")
    again = _typed("--resume")
    if mine.batch_id is not None and source in {None, "-"}:
        into = "" if target == "-" else f" -o {words([target])}"
        again = f"{PROGRAM} batch run --resume {mine.batch_id}{into}"
    elif mine.batch_id is not None and target == "-":
        again += f" --resume {mine.batch_id}"
    screen.warn(f"To have them: {again}")
    if not at.lasts:
        screen.warn("Letting calls in flight end; Ctrl-C again stops at once.")


def _typed(*without: str) -> str:
    """What was typed, without these options and their values."""
    kept: list[str] = []
    rest = iter(sys.argv[1:])
    for word in rest:
        if word in without:
            next(rest, None)
        elif not word.startswith(tuple(f"{option}=" for option in without)):
            kept.append(word)
    return f"{PROGRAM} {words(kept)}"


def _counted(source: str | None) -> int:
    """Lines, as far as a quick look tells; 0 where looking would use them up."""
    if source is None or source == "-" or not Path(source).is_file():
        return 0
    with Path(source).open("rb") as file:
        return sum(1 for line in file if line.strip())
