"""`completar batch submit|list|status|wait|results|retry|cancel|pause|resume|estimate`: batches that a server keeps."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Final

import click

from api.cli import ids
from api.cli.batch_lines import converted
from api.cli.client import PATIENCE_S, WAIT_S, Client
from api.cli.command import Command, as_json
from api.cli.fault import CliFault, Exit
from api.cli.output_file import written
from api.cli.program import PROGRAM
from api.cli.progress import Progress
from api.cli.prompts import SHAPES, Shape, opened
from api.cli.results import Output, Sums
from api.cli.screen import Screen, money, seconds
from api.cli.server import server
from api.cli.shared_calls import shared, sharing
from worker import clock
from worker.domain.failure import Lane
from worker.domain.job import HIGHEST, LOWEST

FINAL: Final = frozenset({"completed", "failed", "expired", "cancelled"})
LOOK_S: Final = 1.0
PAGE: Final = 500

Batch = dict[str, Any]


def _known(_ctx: click.Context, _option: click.Parameter, encoding: str | None) -> str | None:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding or "utf-8")
    except LookupError:
        raise click.BadParameter("there is no such encoding of texts.") from None
    return encoding


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that read a file of requests."""
    for option in (
        click.option("--template", help="What a prompt is made of, such as 'Classify: {text}'; {{ and }} are braces."),
        click.option(
            "--format", "shape", type=click.Choice(SHAPES), help="What the file is; if not said, its name tells."
        ),
        click.option(
            "--encoding", callback=_known, help="Of the file, such as cp1252, where it is not UTF-8 nor UTF-16."
        ),
    ):
        command = option(command)
    return command


_SOURCE: Final = click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
_MODEL: Final = click.option("--model", "--route", "model", help="Route or target for every line, whatever it says.")


@click.command(cls=Command)
@_SOURCE
@_MODEL
@reading
@click.option("--window", default="24h", show_default=True, help="How long it may take, such as 1h or 7d.")
@click.option("--max-cost", type=click.FloatRange(0, min_open=True), help="US dollars that it may cost in all.")
@click.option("--priority", type=click.IntRange(LOWEST, HIGHEST), default=0, show_default=True)
@click.option("--metadata", "-m", multiple=True, metavar="NAME=VALUE", help="To find it again.")
@sharing
@as_json()
@click.pass_obj
def submit(
    screen: Screen,
    source: str,
    model: str | None,
    template: str | None,
    shape: Shape | None,
    encoding: str | None,
    window: str,
    max_cost: float | None,
    priority: int,
    metadata: tuple[str, ...],
    dedupe: bool,
    max_age: str | None,
    as_json: bool,
) -> None:
    """Hand a file of requests over; its id is printed. It runs on its own from there.

    A line is what `batch run` takes. Where all are lines of an OpenAI batch, they go as they are; otherwise each
    becomes a job, and what comes back is the job.

    For example:
      completar batch submit in.jsonl --max-cost 5
      completar batch submit reviews.csv --template "Positive or negative? {review}"
      completar batch submit in.jsonl --dedupe --cache 7d
      cat prompts.txt | completar batch submit - --format text
    """
    body: dict[str, Any] = {"completion_window": window, "priority": priority, "metadata": _pairs(metadata)}
    body |= shared(dedupe, max_age)
    if max_cost is not None:
        body["max_cost"] = max_cost
    with server(screen) as at:
        with opened(source, shape, template, encoding) as stream, converted(stream, model) as (content, endpoint):
            file_id = at.client.upload("/v1/files", content, "batch").json()["id"]
        response = at.client.post("/v1/batches", {"input_file_id": file_id, "endpoint": endpoint, **body})
        made = response.json()["id"]
        screen.data(response.text if as_json else made)
        reads = "Its file is read, and if it is good it runs"
        if not at.lasts:
            reads = f"It is stored; its file is read, and it runs, while a command waits for it or `{PROGRAM} up` runs"
        screen.say(f"{reads}: {PROGRAM} batch wait {made}")


@click.command(name="list", cls=Command)
@click.option("--after", metavar="ID", help="Those before this one: the last id of the page you have.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@as_json()
@click.pass_obj
def list_(screen: Screen, after: str | None, limit: int, as_json: bool) -> None:
    """The batches of the project, newest first.

    For example:
      completar batch list --limit 5
    """
    with server(screen) as at:
        response = at.client.get("/v1/batches", {"after": after, "limit": limit})
    if as_json:
        screen.data(response.text)
        return
    page = response.json()
    columns = ("id", "status", "created", "total", "done", "failed", "cost", "retry of")
    screen.table(columns, map(_row, page["data"]))
    if page["has_more"]:
        screen.say(f"There are more: --after {page['last_id']}")


def _row(batch: Batch) -> tuple[Any, ...]:
    counts, more = batch["request_counts"], batch["completar"]
    return (
        batch["id"],
        _state(batch),
        datetime.fromtimestamp(batch["created_at"], UTC),
        counts["total"],
        counts["completed"],
        counts["failed"],
        money(more["cost"]["amount"]),
        more["retry_of"],
    )


def _state(batch: Batch) -> str:
    more = batch["completar"]
    if more["stopped_for"] is not None:
        return f"{batch['status']} ({more['stopped_for']})"
    return f"{batch['status']} (paused)" if more["paused_at"] is not None else str(batch["status"])


@click.command(cls=Command)
@click.argument("batch_id")
@as_json()
@click.pass_obj
def status(screen: Screen, batch_id: str, as_json: bool) -> None:
    """One batch, as it stands.

    For example:
      completar batch status batch_01...
    """
    with server(screen) as at:
        response = at.client.get(f"/v1/batches/{checked(batch_id)}")
    if as_json:
        screen.data(response.text)
        return
    _shown(screen, response.json())


def _shown(screen: Screen, batch: Batch) -> None:
    counts, more = batch["request_counts"], batch["completar"]
    bound = "" if more["max_cost"] is None else f" of at most {money(more['max_cost'])}"
    told = {
        "id": batch["id"],
        "status": _state(batch),
        "lines": f"{counts['total']:,}: {counts['completed']:,} done, {counts['failed']:,} failed",
        "cost": money(more["cost"]["amount"]) + bound + ("" if more["cost"]["complete"] else ", and what is not known"),
        "no call": _no_call(more),
        "expires": datetime.fromtimestamp(batch["expires_at"], UTC).isoformat(),
        "output": batch["output_file_id"],
        "errors": batch["error_file_id"],
        "retry of": more["retry_of"],
    }
    for name, value in told.items():
        if value is not None:
            screen.data(f"{name + ':':10} {value}")
    _faults(screen, batch)


def _no_call(more: dict[str, Any]) -> str | None:
    """Lines that made none; servers of an older release do not tell."""
    twins, cached = more.get("twins", 0), more.get("cached", 0)
    return f"twins {twins:,}, cached {cached:,}" if twins or cached else None


def _faults(screen: Screen, batch: Batch) -> None:
    for error in (batch["errors"] or {"data": []})["data"]:
        where = "" if error["line"] is None else f"line {error['line']}: "
        screen.warn(f"{where}{error['message']} ({error['code']})")


@click.command(cls=Command)
@click.argument("batch_id")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), help="Seconds to wait; as long as it takes if not said."
)
@as_json()
@click.pass_obj
def wait(screen: Screen, batch_id: str, timeout_s: float | None, as_json: bool) -> Exit:
    """Wait for a batch to end. Exit code 0 when every line was answered, 3 when some were not, 1 when none was.

    For example:
      completar batch wait batch_01... --timeout 3600
    """
    path = f"/v1/batches/{checked(batch_id)}"
    until_s = None if timeout_s is None else clock.monotonic_s() + timeout_s
    with server(screen, works=frozenset({Lane.BATCH})) as at, Progress(screen) as progress:
        while True:
            try:
                response = at.client.get(path, patience_s=PATIENCE_S)
                batch = response.json()
                progress.update(_sums(batch), batch["request_counts"]["total"])
                if batch["status"] in FINAL:
                    break
                left_s = LOOK_S if until_s is None else until_s - clock.monotonic_s()
                if left_s <= 0:
                    screen.warn(f"{batch_id} has not ended within {timeout_s:g} s.")
                    return Exit.TIMED_OUT
                time.sleep(min(LOOK_S, left_s))
            except KeyboardInterrupt:
                screen.warn(f"\nIt goes on. To wait again: {PROGRAM} batch wait {batch_id}")
                raise
    if as_json:
        screen.data(response.text)
    else:
        _shown(screen, batch)
    return ended_as(batch)


def _sums(batch: Batch) -> Sums:
    counts, cost = batch["request_counts"], batch["completar"]["cost"]
    statuses = Counter(completed=counts["completed"], failed=counts["failed"])
    return Sums(statuses=statuses, cost=cost["amount"] or 0.0, cost_complete=cost["complete"])


def ended_as(batch: Batch) -> Exit:
    counts = batch["request_counts"]
    if batch["status"] != "failed" and counts["completed"] == counts["total"]:
        return Exit.OK
    return Exit.SOME_FAILED if counts["completed"] else Exit.FAILED


@click.command(cls=Command)
@click.argument("batch_id")
@click.option("--follow", "-f", is_flag=True, help="Until the batch has ended.")
@click.option("--after", metavar="CURSOR", help="Go on from there: what an interrupted command printed.")
@click.option("--output", "-o", "target", metavar="OUT.jsonl", default="-", help="Added to this file.")
@click.pass_obj
def results(screen: Screen, batch_id: str, follow: bool, after: str | None, target: str) -> Exit:
    """The results so far, one JSON object a line, each once, in the order in which lines ended.

    The body of a response is the job; where lines of an OpenAI batch were submitted, the answer in OpenAI's words.

    For example:
      completar batch results batch_01... --follow -o out.jsonl
      completar batch results batch_01... | jq -r .response.body.result.text
    """
    path = f"/v1/batches/{checked(batch_id)}/results"
    cursor = began = after if after is not None else "start"
    works = frozenset({Lane.BATCH}) if follow else frozenset[Lane]()
    with server(screen, works=works) as at, written(target, more=True) as stream:
        output = Output(stream)
        try:
            while True:
                page = _page(at.client, path, cursor, follow=follow)
                for one in page["data"]:
                    output.write(one)
                output.flush()
                cursor = page["next"]
                if page["over"] or (not follow and not page["data"]):
                    break
                if not page["data"]:  # at once, where too many wait there already
                    time.sleep(LOOK_S)
        except (KeyboardInterrupt, CliFault, OSError) as stopped:
            if cursor != began or isinstance(stopped, KeyboardInterrupt):
                screen.warn(f"\nThe rest: {PROGRAM} batch results {batch_id} --follow --after {cursor}")
            raise
        batch = at.client.get(f"/v1/batches/{batch_id}").json()
    if not page["over"]:
        screen.say(f"It is {batch['status']}. The rest: {PROGRAM} batch results {batch_id} --after {cursor}")
        return Exit.OK
    _faults(screen, batch)
    return ended_as(batch)


def _page(client: Client, path: str, cursor: str, *, follow: bool) -> dict[str, Any]:
    wanted = {"after": cursor, "limit": PAGE}
    return dict(client.get(path, wanted, wait_s=WAIT_S if follow else 0, patience_s=PATIENCE_S).json())


@click.command(cls=Command)
@click.argument("batch_id")
@click.option("--max-cost", type=click.FloatRange(0, min_open=True), help="US dollars; as before if not said.")
@as_json()
@click.pass_obj
def retry(screen: Screen, batch_id: str, max_cost: float | None, as_json: bool) -> None:
    """Run the lines again that nobody answered, as a new batch; its id is printed.

    For example:
      completar batch retry batch_01...
    """
    more = "" if max_cost is None else f"?max_cost={max_cost!r}"
    with server(screen) as at:
        response = at.client.post(f"/v1/batches/{checked(batch_id)}/retry{more}")
    screen.data(response.text if as_json else response.json()["id"])


def _verb(name: str, said: str) -> click.Command:
    @click.command(name=name, cls=Command, help=f"{said}\n\nFor example:\n  completar batch {name} batch_01...")
    @click.argument("batch_id")
    @as_json()
    @click.pass_obj
    def command(screen: Screen, batch_id: str, as_json: bool) -> None:
        with server(screen) as at:
            response = at.client.post(f"/v1/batches/{checked(batch_id)}/{name}")
        screen.data(response.text if as_json else f"{batch_id}\t{_state(response.json())}")

    return command


cancel = _verb("cancel", "Stop a batch: no further line is started, and what is done is kept.")
pause = _verb("pause", "Let a batch rest: no further line is started until it is resumed.")
resume = _verb("resume", "Go on with a batch that was paused.")


@click.command(cls=Command)
@_SOURCE
@_MODEL
@reading
@click.option("--dedupe", is_flag=True, help="As if lines that ask the same made one call.")
@as_json()
@click.pass_obj
def estimate(
    screen: Screen,
    source: str,
    model: str | None,
    template: str | None,
    shape: Shape | None,
    encoding: str | None,
    dedupe: bool,
    as_json: bool,
) -> Exit:
    """What a file would come to: lines, tokens, cost and time. Nothing is called, and nothing is kept.

    For example:
      completar batch estimate in.jsonl

    Exit code 2 where a line is faulty.
    """
    with (
        server(screen) as at,
        opened(source, shape, template, encoding) as stream,
        converted(stream, model) as (content, endpoint),
    ):
        return told_of(screen, at.client, content, endpoint, dedupe=dedupe, as_json=as_json)


def told_of(
    screen: Screen, client: Client, content: IO[bytes], endpoint: str, *, dedupe: bool = False, as_json: bool = False
) -> Exit:
    """What a content would come to. Exit code 2 where a line is faulty."""
    file_id = client.upload("/v1/files", content, "batch").json()["id"]
    try:
        asked = {"input_file_id": file_id, "endpoint": endpoint, **({"dedupe": True} if dedupe else {})}
        response = client.post("/v1/batches/estimate", asked)
    finally:
        client.delete(f"/v1/files/{file_id}")
    told = response.json()
    if as_json:
        screen.data(response.text)
    else:
        columns = ("model", "first target", "lines", "tokens in", "tokens out at most", "cost at most", "time")
        screen.table(columns, [(*_share(one),) for one in told["models"]])
        tokens = f"{told['input_tokens']:,} tokens in, at most {told['output_tokens']:,} out"
        twins = f" (twins {told['twins']:,})" if told.get("twins") else ""
        screen.say(f"{told['lines']:,} lines{twins}, {tokens}, at most {_most(told['cost'])}")
    _faults(screen, told)
    return Exit.USAGE if told["faulty"] else Exit.OK


def _share(one: dict[str, Any]) -> tuple[Any, ...]:
    time_ = seconds(one["seconds"]) or None
    return (
        one["model"],
        one["target"],
        one["lines"],
        one["input_tokens"],
        one["output_tokens"],
        _most(one["cost"]),
        time_,
    )


def _most(cost: dict[str, Any]) -> str:
    return money(cost["amount"]) + ("" if cost["complete"] or cost["amount"] is None else " and what is not known")


def _pairs(given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [one.partition("=") for one in given]
    if any(not name or not sign for name, sign, _ in pairs):
        raise CliFault("--metadata takes NAME=VALUE.", "Such as --metadata run=7.", Exit.USAGE)
    return {name: value for name, _, value in pairs} or None


def checked(batch_id: str) -> str:
    return ids.checked(batch_id, "id of a batch", "batch list")


COMMANDS: Final = (submit, list_, status, wait, results, retry, cancel, pause, resume, estimate)
