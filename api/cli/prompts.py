"""Files of prompts that are no JSON lines yet: CSV, and plain text with a prompt a line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from api.cli.fault import CliFault, Exit
from worker.store.text import dumps

Shape = Literal["jsonl", "csv", "text"]
SHAPES: Final[tuple[Shape, ...]] = ("jsonl", "csv", "text")
_BY_SUFFIX: Final[Mapping[str, Shape]] = {".csv": "csv", ".txt": "text"}
_FIELD: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_FIELD_BYTES: Final = 16 * 1024 * 1024


@contextlib.contextmanager
def opened(source: str, shape: Shape | None, template: str | None) -> Iterator[BufferedReader]:
    """The source as JSON lines, to be read again and again; `-` is stdin. Numbers of lines are those of its records."""
    known: Shape = shape if shape is not None else _BY_SUFFIX.get(Path(source).suffix.lower(), "jsonl")
    with contextlib.ExitStack() as stack:
        given = cast("BufferedReader", sys.stdin.buffer)
        if source != "-":
            given = stack.enter_context(Path(source).open("rb"))
        as_it_is = known == "jsonl" and template is None
        if as_it_is and given.seekable():
            yield given
            return
        kept: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
        if as_it_is:
            shutil.copyfileobj(given, kept)
        else:
            with contextlib.closing(_lines(given, known, template)) as lines:
                for line in lines:
                    kept.write(line.encode() + b"\n")
        kept.seek(0)
        yield cast("BufferedReader", kept)


def _lines(stream: BufferedReader, shape: Shape, template: str | None) -> Generator[str]:
    """A JSON line for each record; blank ones stay blank, so that numbers stay."""
    with contextlib.closing(_records(stream, shape)) as records:
        for number, record in records:
            yield "" if record is None else dumps(_plain(number, record, shape, template))


def _plain(number: int, record: Mapping[str, Any], shape: Shape, template: str | None) -> dict[str, Any]:
    custom_id = record.get("custom_id") or record.get("id") or f"line-{number}"
    made = {"custom_id": str(custom_id), "prompt": _prompt(number, record, shape, template)}
    return {**made, "model": record["model"]} if record.get("model") else made


def _prompt(number: int, record: Mapping[str, Any], shape: Shape, template: str | None) -> str:
    if template is not None:
        return filled(template, record, number)
    for name in ("prompt", "text"):
        if isinstance(record.get(name), str):
            return str(record[name])
    what = "column" if shape == "csv" else "field"
    raise CliFault(
        f"Record {number} has no {what} `prompt` or `text`.",
        f"Say how prompts are made, such as --template 'Classify: {{{next(iter(record), 'text')}}}'.",
        Exit.USAGE,
    )


def filled(template: str, record: Mapping[str, Any], number: int) -> str:
    """The template with the record's fields in it; `{{` and `}}` are braces. Raises CliFault."""

    def value(found: re.Match[str]) -> str:
        if found[0] in {"{{", "}}"}:
            return found[0][0]
        if found[1] not in record:
            there = ", ".join(map(str, list(record)[:20]))
            raise CliFault(f"Record {number} has no field `{found[1]}`.", f"It has: {there}.", Exit.USAGE)
        given = record[found[1]]
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)

    return _FIELD.sub(value, template)


def _records(stream: BufferedReader, shape: Shape) -> Generator[tuple[int, dict[str, Any] | None]]:
    text = _text(stream)
    try:
        if shape == "csv":
            yield from _rows(text)
            return
        for number, line in enumerate(text, 1):
            said = line.rstrip("\r\n")
            if not said.strip():
                yield number, None
            else:
                yield number, {"text": said} if shape == "text" else _object(number, said)
    finally:
        text.detach()  # else it would close the stream, which is not ours


def _rows(text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_FIELD_BYTES)
    try:
        for number, row in enumerate(csv.DictReader(text, strict=True), 1):
            if None in row or None in row.values():
                raise CliFault(f"Row {number} of the CSV has not as many cells as its head.", None, Exit.USAGE)
            yield number, dict(row)
    except csv.Error as fault:
        raise CliFault(f"The CSV cannot be read: {fault}.", "Quote cells that hold quotes.", Exit.USAGE) from None


def _object(number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as fault:
        raise CliFault(f"Line {number} is no valid JSON: {fault}.", None, Exit.USAGE) from None
    if not isinstance(value, dict):
        raise CliFault(f"Line {number} is no JSON object.", None, Exit.USAGE)
    return value


def _text(stream: BufferedReader) -> io.TextIOWrapper:
    """UTF-8, or UTF-16 as Windows writes it."""
    start = stream.peek(4)[:4]
    utf16 = start[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
    return io.TextIOWrapper(stream, encoding="utf-16" if utf16 else "utf-8-sig", errors="replace", newline="")
