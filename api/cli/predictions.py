"""`completar predictions ask|run|outcome|scores`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, Final, get_args

import click

from api.cli.batch import outcome as exit_of
from api.cli.batch_run import BatchRun
from api.cli.client import Client
from api.cli.command import Group, as_json
from api.cli.fault import CliFault, Exit
from api.cli.jobs import ended_as, not_done, took_s, waited_for
from api.cli.ordered import Ordered
from api.cli.output_file import Stream, check_free, overwriting, written
from api.cli.program import PROGRAM
from api.cli.progress import Progress
from api.cli.questions import Questions, value_of
from api.cli.results import Record
from api.cli.screen import Screen, money, seconds
from api.cli.server import server
from worker import clock
from worker.domain.calibration import Bin, Score
from worker.domain.consensus import Method, TieRule
from worker.domain.failure import Lane
from worker.domain.question import AnswerType
from worker.domain.reliability import reliability_svg
from worker.domain.state import JobStatus

_TYPES: Final = get_args(AnswerType)


_WHO: Final = ("panel", "members", "model", "n")
_HOW: Final = ("weights", "method", "min_agreement", "quorum", "judge", "tie")


def _asking(function: Any) -> Any:
    """Options that say who is asked, and how votes become an answer: as fields of a prediction, in `who`."""

    @wraps(function)
    def called(*args: Any, **given: Any) -> Any:
        who = {name: given.pop(name) for name in _WHO}
        how = {name: given.pop(name) for name in _HOW}
        return function(*args, who=_fields(**who, how=how), **given)

    for option in (
        click.option("--tie", type=click.Choice(get_args(TieRule)), help="What decides between equals."),
        click.option("--learned", "weights", flag_value="learned", help="Weigh members by their record."),
        click.option("--judge", help="Target that judges (method judge)."),
        click.option("--quorum", type=click.IntRange(1), help="Usable votes needed; at least half if not said."),
        click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of the votes an answer needs."),
        click.option("--method", type=click.Choice(get_args(Method)), help="How votes become an answer."),
        click.option("-n", "n", type=click.IntRange(1), help="Ask one model so often instead of a panel."),
        click.option("--model", "model", help="That one model, or a route."),
        click.option("--member", "-m", "members", multiple=True, help="Route or target; give it once for each seat."),
        click.option("--panel", help="A panel of completar.toml."),
    ):
        option(called)
    return called


def _fields(
    panel: str | None, members: tuple[str, ...], model: str | None, n: int | None, how: Mapping[str, Any]
) -> dict[str, Any]:
    if panel is not None and members:
        raise CliFault("--panel and --member cannot stand beside each other.", "Give one of the two.", Exit.USAGE)
    consensus = {name: value for name, value in how.items() if value is not None}
    seats = panel if panel is not None else list(members) or None
    fields = {"panel": seats, "model": model, "n": n, "consensus": consensus or None}
    return {name: value for name, value in fields.items() if value is not None}


@click.group(cls=Group)
def predictions() -> None:
    """Put questions to a panel of models, and see how good each of them is."""


# -- ask ----------------------------------------------------------------------------------------------------------


@predictions.command()
@click.argument("question")
@click.option("--type", "kind", type=click.Choice(_TYPES), default="boolean", show_default=True)
@click.option("--option", "options", multiple=True, help="Of a choice; give it once for each.")
@click.option("--unit", help="Of a number.")
@click.option(
    "--schema", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with the JSON Schema of json."
)
@click.option("--context", help="What there is to know; @FILE reads it from a file.")
@_asking
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), default=600.0, show_default=True, help="Seconds to wait."
)
@as_json("The whole job, as the API gives it.")
@click.pass_obj
def ask(
    screen: Screen,
    question: str,
    kind: str,
    options: tuple[str, ...],
    unit: str | None,
    schema: Path | None,
    context: str | None,
    timeout_s: float,
    as_json: bool,
    who: dict[str, Any],
) -> Exit:
    """Ask a panel, wait, and print its answer with the votes behind it.

    For example:
      completar predictions ask "Will it rain in Lima tomorrow?" -m groq -m gemini -m openai
      completar predictions ask "Who wins?" --type choice --option Peru --option Chile --panel football
      completar predictions ask "How likely is a delay?" --type probability --model default -n 5
    """
    answer: dict[str, Any] = {"type": kind}
    given = {"options": list(options) or None, "unit": unit, "schema": None if schema is None else _schema(schema)}
    answer |= {name: value for name, value in given.items() if value is not None}
    body: dict[str, Any] = {"question": question, "answer": answer, **who}
    if context is not None:
        body["context"] = Path(context[1:]).read_text(encoding="utf-8-sig") if context.startswith("@") else context
    until_s = clock.monotonic_s() + timeout_s
    with server(screen, works=frozenset({Lane.INTERACTIVE})) as at:
        made = at.client.post("/v1/predictions", body)
        job_id = made.json()["id"]
        try:
            done = waited_for(at.client, made, until_s)
        except KeyboardInterrupt:
            _leave(screen, at.client, job_id, lasts=at.lasts)
            raise
        if done is None:
            not_done(screen, at.client, job_id, timeout_s)
            _leave(screen, at.client, job_id, lasts=at.lasts)
            return Exit.TIMED_OUT
        job = done.json()
        if as_json:
            screen.data(done.text)
        elif job["status"] == JobStatus.COMPLETED:
            _show(screen, job)
        return ended_as(screen, job)


def _schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as fault:
        raise CliFault(f"{path} holds no JSON: {fault}.", "Write a JSON Schema into it.", Exit.USAGE) from None


def _leave(screen: Screen, client: Client, job_id: str, *, lasts: bool) -> None:
    """A server that lasts goes on with it; one of our own would spend money on it at some later day."""
    if lasts:
        screen.warn(f"The prediction goes on: {PROGRAM} jobs wait {job_id}")
        return
    screen.warn("Cancelling: calls in flight have up to 10 s to end, so that their cost is on record.")
    client.post(f"/v1/jobs/{job_id}/cancel")


def _show(screen: Screen, job: dict[str, Any]) -> None:
    result = job["result"]
    screen.data("no consensus" if not result["consensus"] else _said(result["answer"]))
    screen.table(
        ("member", "answer", "confidence", "in", "cost", "why not"),
        (
            (
                vote["member"],
                _said(vote["answer"]) if vote["usable"] else "-",
                vote["confidence"],
                seconds(vote["latency_s"]),
                money(vote["cost"]["amount"]),
                vote["reason"],
            )
            for vote in result["votes"]
        ),
    )
    sure = "" if result["confidence"] is None else f", confidence {result['confidence']:.2f}"
    screen.say(
        f"Agreement {result['agreement']:.2f}{sure}, {result['usable']} of {result['requested']} usable votes,"
        f" method {result['method']}, {money(result['cost']['amount'])} in {seconds(took_s(job))}. {result['reason']}"
    )
    screen.say(f"When you know how it came out: {PROGRAM} predictions outcome {job['id']} VALUE")


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- run ----------------------------------------------------------------------------------------------------------


class Kept(Ordered):
    """Records in the order of the questions, and of each completed prediction which one it was."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.done: dict[int, Record] = {}

    def write(self, record: Record) -> None:
        if record["status"] == JobStatus.COMPLETED:
            self.done[record["line"]] = record
        super().write(record)


@predictions.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output", "-o", "target", metavar="OUT.jsonl", type=click.Path(dir_okay=False), help="stdout if not said."
)
@overwriting
@click.option("--outcomes", is_flag=True, help="Record the outcomes that the file has.")
@_asking
@click.pass_obj
def run(screen: Screen, source: Path, target: str | None, overwrite: bool, outcomes: bool, who: dict[str, Any]) -> Exit:
    """Put every question of a file to a panel: a CSV, or one prediction a line as JSON.

    Columns of a CSV: question, type, options (with `|` between them), unit, min, max, context, language, custom_id,
    outcome.

    For example:
      completar predictions run questions.csv -m groq -m gemini -m openai -o answers.jsonl
      completar predictions run questions.csv --panel five --outcomes > answers.jsonl

    Exit code 0 when every question has a result, with or without a consensus.
    """
    if target is not None and not overwrite:
        check_free(Path(target))
    questions = Questions(source, who)
    with (
        server(screen, works=frozenset({Lane.BATCH})) as at,
        written(target or "-", more=False) as stream,
        closing(Kept(stream)) as output,
        Progress(screen) as progress,
    ):
        mine = put(at.client, screen, questions, output, progress)
        known = record(at.client, questions, output) if outcomes else 0
    agreed = sum(bool(one["consensus"]) for one in output.done.values())
    screen.say(f"{mine.sums.done} questions answered, {agreed} with a consensus, {mine.sums.failed} failed.")
    if outcomes:
        screen.say(f"{known} outcomes recorded: {PROGRAM} predictions scores")
    return exit_of(mine.sums)


def put(client: Client, screen: Screen, questions: Questions, output: Kept, progress: Progress) -> BatchRun:
    """Put every question, and wait for the last answer."""
    mine = BatchRun(client, screen, output, progress, questions.lines, expected=len(questions))
    mine.run()
    return mine


def record(client: Client, questions: Questions, output: Kept) -> int:
    """Tell what turned out to be true, where the file knows it; how often."""
    known = [(line, done["id"]) for line, done in sorted(output.done.items()) if line in questions.outcomes]
    for line, job_id in known:
        client.post(f"/v1/predictions/{job_id}/outcome", {"value": questions.outcomes[line]})
    return len(known)


# -- outcomes and scores ------------------------------------------------------------------------------------------


@predictions.command()
@click.argument("prediction")
@click.argument("value")
@click.option("--text", is_flag=True, help="The value is a text as it stands, such as an option named `yes`.")
@as_json()
@click.pass_obj
def outcome(screen: Screen, prediction: str, value: str, text: bool, as_json: bool) -> None:
    """Say what turned out to be true. Said again, it corrects what was said before.

    For example:
      completar predictions outcome job_01kaxyz... yes
      completar predictions outcome job_01kaxyz... 42.5
    """
    with server(screen) as at:
        said = value_of(value, "choice" if text else None)
        response = at.client.post(f"/v1/predictions/{prediction}/outcome", {"value": said})
    if as_json:
        screen.data(response.text)
        return
    found = response.json()
    how = "corrected" if found["corrected_at"] is not None else "recorded"
    screen.say(
        f"{how.capitalize()}: {_said(found['value'])}. `{PROGRAM} predictions scores` shows what follows from it."
    )


@predictions.command()
@click.option("--type", "kind", type=click.Choice(_TYPES), help="Only questions with this type of answer.")
@click.option("--since", metavar="TIME", help="RFC 3339; predictions that ended from then on.")
@click.option("--svg", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Draw the reliability too.")
@click.option("--language", type=click.Choice(("en", "es")), default="en", help="Of the drawing.")
@as_json()
@click.pass_obj
def scores(screen: Screen, kind: str | None, since: str | None, svg: Path | None, language: Any, as_json: bool) -> None:
    """How good each model was, of the predictions whose outcome is known.

    For example:
      completar predictions scores
      completar predictions scores --type boolean --svg reliability.svg
    """
    with server(screen) as at:
        response = at.client.get("/v1/predictions/scores", {"type": kind, "since": since})
    found = response.json()
    if svg is not None:
        svg.write_text(reliability_svg([score_of(one) for one in found["data"]], language), encoding="utf-8")
        screen.say(f"Drawn: {svg}")
    if as_json:
        screen.data(response.text)
        return
    show_scores(screen, found)


def show_scores(screen: Screen, found: dict[str, Any]) -> None:
    """The table of GET /v1/predictions/scores; the panel itself comes last."""
    panel = [] if found["panel"] is None else [found["panel"] | {"model": "the panel"}]
    if not found["data"]:
        screen.say(f"No outcome is known yet: {PROGRAM} predictions outcome ID VALUE")
        return
    screen.table(
        ("model", "answered", "right", "accuracy", "Brier", "log loss", "calibration error", "weight"),
        (
            (
                one["model"],
                one["answered"],
                f"{one['right']} of {one['judged']}",
                _rounded(one["accuracy"]),
                _rounded(one["brier"]),
                _rounded(one["log_loss"]),
                _rounded(one["calibration_error"]),
                _rounded(one["weight"]),
            )
            for one in [*found["data"], *panel]
        ),
    )
    screen.say("Brier score and log loss: 0 is perfect; always saying one half gets 0.25 and 0.69.")


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def score_of(found: dict[str, Any]) -> Score:
    """From its JSON."""
    bins = tuple(Bin(**one) for one in found["bins"])
    same = {name: found[name] for name in ("answered", "judged", "right", "accuracy", "brier", "log_loss", "weight")}
    return Score(member=found["model"], error=found["calibration_error"], bins=bins, **same)
