"""A run over a file, cut off at any page, goes on with what it has: no line is handed over twice."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import pytest

from api.cli import batch_content, batch_run
from api.cli.batch_note import Note
from api.cli.batch_run import BatchRun, Terms
from api.cli.client import Client
from api.cli.fault import CliFault
from api.cli.lines import Line
from api.cli.ordered import Ordered
from api.cli.progress import Progress
from api.cli.results import Output, restored
from api.cli.screen import Screen
from worker import clock
from worker.services.batches.lines import BadLine, read
from worker.services.batches.validate import ERRORS_MAX

LINES = 10


class Killed(BaseException):
    """The process is gone, between two pages."""


@dataclass
class Said:
    body: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return self.body


@dataclass
class Batch:
    lines: list[tuple[int, dict[str, Any]]]
    errors: list[dict[str, Any]] = field(default_factory=list)
    left: frozenset[int] = frozenset()
    cancelled: bool = False  # before a line of it ran

    @property
    def status(self) -> str:
        return "failed" if self.errors else "cancelled" if self.cancelled else "completed"


class Scripted:
    """A server whose lines end out of order, two a page, and which can be lost after so many pages."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.batches: dict[str, Batch] = {}
        self.keys: dict[str, str] = {}
        self.called: Counter[int] = Counter()
        self.read: list[str] = []  # batches, by each of their pages
        self.pages_left: int | None = None
        self.dear: frozenset[int] = frozenset()  # lines that pass the bound
        self.cancels = False
        self.fault: str | None = None  # of any file as a whole

    def upload(self, path: str, content: IO[bytes], purpose: str) -> Said:
        self.files.append(content.read())
        return Said({"id": str(len(self.files) - 1)})

    def post(self, path: str, asked: dict[str, Any], *, key: str, patience_s: float) -> Said:
        if key not in self.keys:
            file = self.files[int(asked["input_file_id"])]
            texts = [(number, text) for number, text in enumerate(file.split(b"\n"), 1) if text]
            self.keys[key] = f"batch_{len(self.batches)}"
            self.batches[self.keys[key]] = made = self._made(texts)
            if made.status == "completed":
                self.called.update(number for number, _ in made.lines if number not in made.left)
        return Said({"id": self.keys[key]})

    def _made(self, texts: list[tuple[int, bytes]]) -> Batch:
        errors: list[dict[str, Any]] = []
        if self.fault is not None:
            errors.append({"code": "too_many_tasks", "line": None, "message": self.fault})
        lines = []
        names: set[str] = set()
        for number, text in texts:
            try:
                name = read((number, text), batch_content.ENDPOINT, lambda _: None).custom_id
                assert name not in names
                names.add(name)
            except BadLine as exc:
                errors += [{"code": one.code, "line": number, "message": one.message} for one in exc.errors]
            lines.append((number, json.loads(text)))
        random.Random(1).shuffle(lines)
        if len(errors) > ERRORS_MAX:
            errors = [*errors[:ERRORS_MAX], {"code": "more_errors", "line": None, "message": ""}]
        return Batch(lines, errors, self.dear, self.cancels)

    def get(self, path: str, params: dict[str, Any] | None = None, **_: Any) -> Said:
        if path == "/v1/jobs":
            return Said({"data": []})
        batch_id = path.split("/")[3]
        batch = self.batches[batch_id]
        if not path.endswith("/results"):
            return Said({"errors": {"data": batch.errors}, "input_file_id": "0", "status": batch.status})
        if self.pages_left == 0:
            raise Killed
        if self.pages_left is not None:
            self.pages_left -= 1
        self.read.append(batch_id)
        after = (params or {})["after"]
        at = 0 if after == "start" else int(after)
        ended = batch.lines if batch.status == "completed" else []
        data = [_result(number, line, number in batch.left) for number, line in ended[at : at + 2]]
        return Said({"data": data, "next": str(at + len(data)), "over": not data, "status": batch.status})

    def delete(self, path: str) -> Said:
        return Said({})


def _result(number: int, line: dict[str, Any], left: bool) -> dict[str, Any]:
    told = {"line": number, "job": f"job{number}", "model": "m", "provider": "p", "usage": None, "attempts": 1}
    told |= {"status": "cancelled" if left else "completed", "cost": {"amount": 1.0, "complete": True}}
    job = {"result": {"text": "x"}, "error": None}
    return {
        "custom_id": line["custom_id"],
        "response": None if left else {"status_code": 200, "body": job},
        "error": {"code": "max_cost_reached", "message": ""} if left else None,
        "completar": told,
    }


class Place:
    """An output, and the runs into it; each as a process of its own would be."""

    def __init__(self, folder: Path) -> None:
        self.server = Scripted()
        self.out = folder / "out.jsonl"
        self.lines = [Line(n, f"c{n}", {"input": {"prompt": str(n)}}) for n in range(1, LINES + 1)]

    def run(
        self, *, pages: int | None = None, ordered: bool = False, resume: str | None = None, bound: float | None = None
    ) -> bool:
        """Whether it came to its end, before so many pages were read."""
        note, goes_on = Note.at(self.out, "input")
        goes_on = goes_on and self.out.exists()
        self.server.pages_left = pages
        self.server.read.clear()
        screen = Screen(quiet=True)
        with (
            self.out.open("a" if goes_on else "w", encoding="utf-8") as stream,
            closing(Ordered(stream) if ordered else Output(stream)) as output,
        ):
            client, terms = cast("Client", self.server), Terms(max_cost=bound)
            mine = BatchRun(client, screen, output, Progress(screen), lambda: iter(self.lines), terms, note)
            if goes_on:
                mine.had(restored(self.out))
            try:
                mine.run(resume)
            except Killed:
                return False
            if not mine.left:
                note.remove()
            return not mine.left

    @property
    def numbers(self) -> list[int]:
        return [json.loads(line)["line"] for line in self.out.read_text(encoding="utf-8").splitlines()]

    def whole(self) -> None:
        """Each line has a record, and was paid for once."""
        assert sorted(self.numbers) == list(range(1, len(self.lines) + 1))
        assert self.server.called == dict.fromkeys(range(1, len(self.lines) + 1), 1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(batch_run, "BREATH_S", 0.0)
    return Place(tmp_path)


@pytest.mark.parametrize("pages", range(6))
@pytest.mark.parametrize("ordered", [(True, False), (False, True)])
def test_the_order_may_change_when_a_run_goes_on(place: Place, pages: int, ordered: tuple[bool, bool]) -> None:
    """What came early was in a file that is gone with the process, and what is read of a batch is no help with that."""
    assert place.run(pages=pages, ordered=ordered[0]) or place.run(ordered=ordered[1])
    place.whole()


@pytest.mark.parametrize("kept", [0, 2, None])
@pytest.mark.parametrize("most", [4, 100])
def test_an_output_that_was_moved_away_or_cut_short_is_written_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch, kept: int | None, most: int
) -> None:
    """Of batches that were over before, too."""
    monkeypatch.setattr(batch_content, "MOST_LINES", most)
    assert not place.run(pages=4)
    if kept is None:
        place.out.unlink()
    else:
        had = place.out.read_text(encoding="utf-8").splitlines(keepends=True)
        place.out.write_text("".join(had[len(had) - kept :]), encoding="utf-8")
    assert place.run()
    place.whole()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("cut", [[1, 1], [2, 2], [3, 3, 3], [2, 3, 2], [1, 2, 4, 1]])
def test_a_run_of_several_batches_goes_on_wherever_it_was_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch, ordered: bool, cut: list[int]
) -> None:
    """Between the last record of a batch and its being over, too: it is read again, and tells nothing new."""
    monkeypatch.setattr(batch_content, "MOST_LINES", 4)
    assert any(place.run(pages=pages, ordered=ordered) for pages in [*cut, None])
    place.whole()


def test_batches_that_are_over_are_not_read_again_where_the_output_has_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_content, "MOST_LINES", 4)
    assert not place.run(pages=3)
    assert place.run()
    assert set(place.server.read) == {"batch_1", "batch_2"}
    place.whole()


def test_what_waited_for_its_turn_when_the_bound_was_reached_is_not_paid_for_again(place: Place) -> None:
    """Lines behind one that was too dear were answered, and could not be written yet."""
    place.server.dear = frozenset({3, 5, 6, 8})
    assert not place.run(ordered=True, bound=100.0)
    assert place.numbers == [1, 2]
    place.server.dear = frozenset()
    for pages in (6, 7):  # the second batch is begun, and its first record is not there; then it is
        assert not place.run(pages=pages, ordered=True, bound=200.0)
    assert place.run(ordered=True, bound=200.0)
    assert place.numbers == list(range(1, LINES + 1))
    place.whole()


def test_going_on_with_an_older_batch_forgets_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_content, "MOST_LINES", 4)
    assert not place.run(pages=3)
    assert Note.at(place.out, None)[0].batch_id == "batch_1"
    assert not place.run(pages=1, resume="batch_0")
    assert Note.at(place.out, None)[0].batch_id == "batch_1"
    with pytest.raises(CliFault, match="is of another batch of this run, which is not over") as refused:
        place.run(resume="batch_of_elsewhere")
    assert "Leave --resume out" in str(refused.value.remedy)
    assert place.run()
    place.whole()


def test_a_batch_that_was_stopped_before_a_line_of_it_ran_is_told_once(place: Place) -> None:
    place.server.cancels = True
    with pytest.raises(CliFault, match="nothing is known of its lines"):
        place.run()
    place.server.cancels = False
    assert place.run()
    place.whole()


def test_a_line_that_was_refused_before_the_process_ended_has_one_record(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on with the refused batch by its id is told of that line again."""
    place.lines[3:5] = [Line(n, None, {"input": {"prompt": "x", "temperature": 9}}) for n in (4, 5)]
    rejected = BatchRun._reject
    monkeypatch.setattr(BatchRun, "_reject", lambda self, line: (rejected(self, line), _lost())[0])
    assert not place.run()
    assert place.numbers == [4]
    monkeypatch.setattr(BatchRun, "_reject", rejected)
    assert place.run(resume="batch_0")
    assert sorted(place.numbers) == list(range(1, LINES + 1))


def test_what_was_wrong_with_a_whole_file_may_be_mended_and_the_run_goes_on(place: Place) -> None:
    """A bound without a price, too many lines for that server: nothing ran, and the next try is another batch."""
    place.server.fault = "The file has more than 5 requests."
    with pytest.raises(CliFault, match="more than 5 requests"):
        place.run()
    place.server.fault = None
    assert place.run()
    place.whole()


def test_a_refused_batch_whose_lines_all_have_their_records_does_not_stop_a_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.lines[3] = Line(4, None, {"input": {"prompt": "x", "temperature": 9}})
    rejected = BatchRun._reject
    monkeypatch.setattr(BatchRun, "_reject", lambda self, line: (rejected(self, line), _lost())[0])
    assert not place.run()
    monkeypatch.setattr(BatchRun, "_reject", rejected)
    assert place.run()
    assert sorted(place.numbers) == list(range(1, LINES + 1))


def test_who_asks_to_wait_is_named_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: now)
    job = {"id": "job1", "status": "queued", "waiting_for": None, "run_at": "2030-01-01T00:00:20Z"}
    soon = job | {"id": "job2", "run_at": "2030-01-01T00:00:00Z"}
    pause = job | {"id": "job3", "waiting_for": {"of": "kimi", "reason": "no money"}}
    call = {"provider": "groq", "kind": "rate_limit", "retry_after_s": 20.0}
    told = {"/v1/jobs": [soon, job, job, pause], "/v1/jobs/job1/attempts": [call]}
    monkeypatch.setattr(place.server, "get", lambda path, *_, **__: Said({"data": told[path]}))
    screen = Screen()
    mine = BatchRun(cast("Client", place.server), screen, Output(io.StringIO()), Progress(screen), lambda: iter(()))
    for _ in range(2):
        mine._tell_due_s = 0.0
        mine._tell("batch_0")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "groq asks to wait 20 s."
    assert said[1].startswith("Lines wait for kimi: no money.")
    assert len(said) == 2


def _lost() -> None:
    raise Killed


def test_records_outlast_the_machine_before_the_note_says_that_their_batch_is_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    keep, save = Output.keep, Note.save

    def kept(output: Output) -> None:
        told.append("kept")
        keep(output)

    def saved(note: Note, **changes: Any) -> Note:
        told.append("over" if changes.get("key", "") is None else "noted")
        return save(note, **changes)

    monkeypatch.setattr(Output, "keep", kept)
    monkeypatch.setattr(Note, "save", saved)
    assert place.run()
    assert told[-2:] == ["kept", "over"]


@pytest.mark.parametrize("kind", ["completion", "prediction"])
def test_names_that_are_too_long_are_found_here_once_there_are_more_than_the_server_names(
    place: Place, kind: str
) -> None:
    """By the name that is sent: that of a line whose name was used before is longer than its own."""
    question = {"question": "Is it?", "answer": {"type": "boolean"}, "panel": ["m"]}
    job: dict[str, Any] = {"kind": kind, "input": question if kind == "prediction" else {"prompt": "x"}}
    long = [Line(n, f"{n}".ljust(513, "x"), job) for n in range(1, 301)]
    twice = [Line(n, "y" * 510, job) for n in range(301, 304)]
    place.lines = [*long, *twice]
    assert place.run()
    assert len(place.server.files) <= 3
    assert place.server.called == {301: 1}
    assert sorted(place.numbers) == list(range(1, 304))
