"""CSV as Excel writes it where a comma stands in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli.fault import CliFault, Exit
from api.cli.lines import Line
from api.cli.prompts import COLUMNS, delimiter_of, opened
from api.cli.questions import Questions
from tests.support.processes import ROOT


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


def _read(path: Path, template: str | None) -> list[dict[str, Any]]:
    with opened(str(path), None, template) as stream:
        return [json.loads(line) for line in stream]


def test_a_template_leaves_the_other_fields_of_a_line_as_they_are(tmp_path: Path) -> None:
    said = {"max_tokens": 5, "metadata": {"a": "b"}, "system": "Be brief.", "models": ["x"], "stop": ["."], "seed": 0}
    given = {"custom_id": "c", "review": "Nice", "stars": 5, "user": "Ana", "top_p": None, **said}
    (tmp_path / "in.jsonl").write_text(json.dumps(given), encoding="utf-8")
    (line,) = _read(tmp_path / "in.jsonl", "{user} says: {review}")
    assert line == {"custom_id": "c", "prompt": "Ana says: Nice", **said}


@pytest.mark.parametrize("head", ["prompt", "review"])
def test_columns_that_are_parameters_are_read(tmp_path: Path, head: str) -> None:
    """Others are data, whatever they are called."""
    content = f"id,{head},model,system,max_tokens,temperature,seed,store,user\na,Nice,m,Be brief.,5,0.2,,Lidl,Ana\n"
    (tmp_path / "in.csv").write_text(content, encoding="utf-8")
    (line,) = _read(tmp_path / "in.csv", None if head == "prompt" else "{review}")
    said = {"model": "m", "system": "Be brief.", "max_tokens": 5, "temperature": 0.2}
    assert line == {"custom_id": "a", "prompt": "Nice", **said}
    assert isinstance(line["max_tokens"], int)


def test_a_column_that_the_template_takes_is_no_parameter(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("make,model\nSeat,Ibiza\n", encoding="utf-8")
    assert _read(tmp_path / "in.csv", "{make} {model}") == [{"custom_id": "line-1", "prompt": "Seat Ibiza"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.csv", "q,max_token\nx,5\n", "Record 1 has `max_token`, which is no parameter."),
        ("in.jsonl", '{"q": "x", "maxTokens": 5}\n', "Record 1 has `maxTokens`, which is no parameter."),
        ("in.csv", "q,temperature\nx,nan\n", "Record 1 has no number in `temperature`."),
        ("in.csv", "q,max_tokens\nx,many\n", "Record 1 has no number in `max_tokens`."),
    ],
)
def test_a_parameter_that_would_be_lost_is_a_fault(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CliFault) as fault:
        _read(tmp_path / name, "{q}")
    assert (fault.value.message, fault.value.code) == (said, Exit.USAGE)


@pytest.mark.parametrize("template", ["Sin campo", "P: {q", "P: q}", "{q} {", "{{q}}", ""])
def test_a_template_that_asks_all_the_same_or_has_half_a_field_is_refused(tmp_path: Path, template: str) -> None:
    (tmp_path / "in.csv").write_text("q\nx\n", encoding="utf-8")
    with pytest.raises(CliFault, match="The template") as fault:
        _read(tmp_path / "in.csv", template)
    assert "{{ and }}" in str(fault.value.remedy)


@pytest.mark.parametrize("language", ["", "es/"])
def test_the_page_names_every_column_that_is_read(language: str) -> None:
    text = (ROOT / "docs" / language / "batches.md").read_text(encoding="utf-8")
    assert [name for name in sorted(COLUMNS) if f"`{name}`" not in text] == []
