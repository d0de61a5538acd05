"""A file of questions, CSV or JSON lines, as predictions. A row that is broken spoils no other."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from api.cli.fault import CliFault, Exit
from api.cli.lines import BrokenLine, Line
from api.cli.prompts import delimiter_of
from worker.domain.answer import Json

_OPTIONS: Final = frozenset(
    {"lane", "metadata", "priority", "deadline_s", "max_attempts", "max_cost", "on_interruption"}
)
_NUMBERS: Final = ("min", "max")
_COLUMNS: Final = frozenset(
    {"custom_id", "question", "context", "language", "type", "options", "unit", "min", "max", "outcome"}
)


class Questions:
    """What a file asks, and, by line, what turned out to be true where it says so."""

    def __init__(self, path: Path, usual: Mapping[str, Json]) -> None:
        """`usual`: fields of a prediction that a row does not say itself. Raises CliFault."""
        self._rows = list(_rows(path))
        self._usual = dict(usual)
        self.outcomes: dict[int, Json] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def lines(self) -> Iterator[Line | BrokenLine]:
        for number, row in self._rows:
            if isinstance(row, str):
                yield BrokenLine(number, None, row)
                continue
            row = dict(row)  # noqa: PLW2901 - they are told more than once
            custom_id = row.pop("custom_id", None)
            if "outcome" in row:
                self.outcomes[number] = row.pop("outcome")
            job = {name: row.pop(name) for name in _OPTIONS & row.keys()}
            usual = {name: value for name, value in self._usual.items() if not _says_who(name, row)}
            body = {"kind": "prediction", **job, "input": {**usual, **row}}
            yield Line(number, None if custom_id is None else str(custom_id), body)


def _says_who(name: str, row: Mapping[str, Json]) -> bool:
    """A row that names its own panel, or model, is not given another."""
    return name in {"panel", "model", "n"} and bool({"panel", "model"} & row.keys())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows with their lines; a text says what is wrong with one."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise CliFault(
            f"{path} is not UTF-8 at byte {fault.start}.", "Save it as UTF-8 (Excel: `CSV UTF-8`).", Exit.USAGE
        ) from None
    if path.suffix.lower() == ".csv":
        yield from _of_csv(path, text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, _of_json(line)


def _of_json(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as fault:
        return f"is not valid JSON: {str(fault)[:100]}"
    return row if isinstance(row, dict) else "is not a JSON object"


def _of_csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter_of(text.partition("\n")[0]))
    unknown = [name for name in reader.fieldnames or () if name not in _COLUMNS]
    if unknown or "question" not in (reader.fieldnames or ()):
        what = f"has a column {unknown[0]!r}" if unknown else "has no column `question`"
        raise CliFault(f"{path} {what}.", f"Columns are {', '.join(sorted(_COLUMNS))}.", Exit.USAGE)
    for row in reader:
        yield reader.line_num, _from_cells({name: cell for name, cell in row.items() if cell})


def _from_cells(cells: Mapping[str, str]) -> dict[str, Any] | str:
    row: dict[str, Any] = {
        name: cells[name] for name in ("custom_id", "question", "context", "language") if name in cells
    }
    kind = cells.get("type", "boolean")
    answer: dict[str, Any] = {"type": kind}
    if "options" in cells:
        answer["options"] = [option.strip() for option in cells["options"].split("|")]
    if "unit" in cells:
        answer["unit"] = cells["unit"]
    for name in _NUMBERS:
        if name in cells:
            try:
                answer[name] = float(cells[name])
            except ValueError:
                return f"{name} is no number"
    row["answer"] = answer
    if "outcome" in cells:
        row["outcome"] = value_of(cells["outcome"], kind)
    return row


def value_of(text: str, kind: str | None = None) -> Json:
    """What a person wrote as the value of an outcome. Of a choice it is the text itself."""
    if kind == "choice":
        return text
    word = text.strip().casefold()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return json.loads(text)
    except ValueError:
        return text


_WORDS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "yes", "sí", "si", "verdadero"), True),
    **dict.fromkeys(("false", "no", "falso"), False),
}
