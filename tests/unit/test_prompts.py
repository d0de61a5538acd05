"""CSV as Excel writes it where a comma stands in numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.cli.lines import Line
from api.cli.prompts import delimiter_of
from api.cli.questions import Questions


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        ("id,text", ","),
        ("id;text\r\n", ";"),
        ("id\ttext\n", "\t"),
        ("text", ","),
        ("", ","),
        ('"a;b;c",d', ","),
        ('"a,b,c";d', ";"),
        ('"""a,b"";";d', ";"),
    ],
)
def test_the_first_line_of_a_csv_tells_its_delimiter(head: str, delimiter: str) -> None:
    assert delimiter_of(head) == delimiter


def test_questions_may_have_semicolons(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('custom_id;question\na;"¿Sí, o no?"\n', encoding="utf-8-sig")
    (line,) = Questions(tmp_path / "in.csv", {}).lines()
    assert isinstance(line, Line)
    assert (line.custom_id, line.job["input"]["question"]) == ("a", "¿Sí, o no?")
