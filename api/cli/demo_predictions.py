"""`completar demo --predictions`: fifty questions with known answers, and what each of five members is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from api.cli.client import Client
from api.cli.fault import Exit
from api.cli.lines import BrokenLine, Line
from api.cli.output_file import written
from api.cli.predictions import Kept, put, record, show_scores
from api.cli.program import PROGRAM
from api.cli.progress import Progress
from api.cli.questions import Questions
from api.cli.screen import Screen, seconds
from api.embedded import Embedded

QUESTIONS: Final = Path(__file__).resolve().parents[2] / "examples" / "questions.csv"
# One that is good, one that is fair, one that is sure of everything, one that is sure of nothing, and one that is down.
PANEL: Final = tuple(
    f"sandbox/{name}" for name in ("panelist-92", "panelist-78", "panelist-70-bold", "panelist-84-shy", "fail-503")
)


class _Named(Questions):
    """Each has a name, so that what the demo wrote is known for its own."""

    def lines(self) -> Iterator[Line | BrokenLine]:
        for line in super().lines():
            yield replace(line, custom_id=f"question-{line.number}")


def names() -> frozenset[str]:
    """Of its records."""
    return frozenset(str(line.custom_id) for line in _Named(QUESTIONS, {}).lines())


def run(screen: Screen, own: Embedded, target: Path) -> Exit:
    """Put them, record what is known, and show the scores."""
    screen.say("The sandbox answers, which is no real model: five members with dice of their own, one of them down.")
    questions = _Named(QUESTIONS, {"panel": list(PANEL), "consensus": {"early_stop": False}})
    client = Client(own.url, own.key, screen)
    try:
        with (
            written(target, more=False) as stream,
            closing(Kept(stream)) as output,
            Progress(screen) as progress,
        ):
            mine = put(client, screen, questions, output, progress)
            took_s = progress.elapsed_s
        known = record(client, questions, output)
        found = client.get("/v1/predictions/scores").json()
    finally:
        client.close()
    agreed = sum(bool(one["consensus"]) for one in output.done.values())
    screen.data(
        f"{mine.sums.ended} questions in {seconds(took_s)}: {agreed} with a consensus, "
        f"{mine.sums.done - agreed} without, {mine.sums.failed} failed; {known} outcomes recorded"
    )
    screen.data("")
    show_scores(screen, found)
    screen.data(f"\nEvery vote: {target}")
    screen.data(f"With keys: {PROGRAM} predictions run examples/questions.csv -m groq -m gemini -m openai --outcomes")
    return Exit.OK if mine.sums.done else Exit.FAILED
