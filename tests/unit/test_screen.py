"""Tables, as a person with a narrow terminal sees them and as a program reads them."""

from __future__ import annotations

import io
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.cli.output_file import written
from api.cli.results import Output
from api.cli.screen import Screen
from worker import clock

COLUMNS = ("id", "status", "created", "took", "calls", "cost", "served by", "error")
ID = "job_01m827yzgr779ej5jtewfd97ag"
ROWS = [
    (ID, "in_progress", "2030-05-06T07:08:09.123Z", "1.2 s", 1, "$0.000012", "huggingface/openai/gpt-oss-120b", None),
    (ID, "cancelling", datetime(2030, 4, 6, 7, 8, 9, tzinfo=UTC), "", 0, "$0", None, None),
    (ID, "queued", "2029-04-06T07:08:09Z", "", 0, "$0", None, ""),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _printed(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[object, ...]], width: int = 80) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(clock, "now", lambda: datetime(2030, 5, 6, 12, tzinfo=UTC))
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    Screen(no_color=True).table(COLUMNS, rows)
    return re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_table_fits_the_terminal_and_breaks_no_status(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = _printed(monkeypatch, ROWS, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for whole in (ID, "in_progress", "cancelling", "queued", "07:08:09Z", "04-06 07:08Z", "2029-04-06", "$0.000012"):
        assert whole in text
    assert "error" not in text, "no row has one"


def test_a_row_that_is_too_wide_has_its_words_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _printed(monkeypatch, ROWS)[:3] == [
        ID,
        "  status in_progress  created 07:08:09Z  took 1.2 s  calls 1  cost $0.000012",
        "  served by huggingface/openai/gpt-oss-120b",
    ]


def test_an_empty_table_keeps_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _printed(monkeypatch, [])[0].split()[:3] == ["id", "status", "created"]


def test_a_program_reads_every_column_and_the_whole_time(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table(COLUMNS, ROWS)
    cells = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {len(row) for row in cells} == {len(COLUMNS)}
    assert [row[2] for row in cells] == ["2030-05-06T07:08:09.123Z", "2030-04-06 07:08:09Z", "2029-04-06T07:08:09Z"]


HOSTILE = "\x1b]0;owned\x07\x1b[2Jr\u00edo\x9b31m \x7f"  # a title, a cleared screen, a colour of eight bits


def test_what_a_terminal_would_obey_is_shown_to_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    screen = Screen(no_color=True, verbose=True)
    screen.data(f"one\n\ttwo\r\n{HOSTILE}")
    screen.document({"text": HOSTILE})
    screen.line({"text": HOSTILE})
    for told in (screen.say, screen.detail, screen.warn):
        told(HOSTILE)
    assert out.getvalue().startswith("one\n\ttwo\n\\x1b]0;owned\\x07\\x1b[2Jr\u00edo\\x9b31m \\x7f\n")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out.getvalue() + err.getvalue())
    shown = "\n".join(_printed(monkeypatch, [(ID, HOSTILE, None, "", 0, "", HOSTILE, "\x1b[8m")], 200))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_records_on_a_terminal_are_shown_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    with written("-", more=False) as stream:
        Output(stream).write({"text": HOSTILE})
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out.getvalue())


def test_records_in_a_file_are_what_they_are(tmp_path: Path) -> None:
    with written(path := tmp_path / "out.jsonl", more=False) as stream:
        Output(stream).write({"text": HOSTILE})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": HOSTILE}
