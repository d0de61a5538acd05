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
from difflib import get_close_matches
from functools import cache
from io import BufferedReader
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from api.cli import lines
from api.cli.fault import CliFault, Exit
from worker.store.text import dumps

Shape = Literal["jsonl", "csv", "text"]
SHAPES: Final[tuple[Shape, ...]] = ("jsonl", "csv", "text")
_BY_SUFFIX: Final[Mapping[str, Shape]] = {".csv": "csv", ".txt": "text"}
_FIELD: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_NUMBERS: Final = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "seed"}
    | {"presence_penalty", "frequency_penalty", "repetition_penalty"}
)
# Of a CSV, whose other columns are data: shops have a `store` and a `user`.
COLUMNS: Final = _NUMBERS | {"model", "system", "reasoning_effort", "verbosity"}
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")
_FIELD_BYTES: Final = 16 * 1024 * 1024


@contextlib.contextmanager
def opened(
    source: str, shape: Shape | None, template: str | None, encoding: str | None = None
) -> Iterator[BufferedReader]:
    """The source as JSON lines, to be read again and again; `-` is stdin. Numbers of lines are those of its records.

    encoding  where it is neither UTF-8 nor UTF-16 as Windows writes it
    """
    if template is not None:
        _check(template)
    known: Shape = shape if shape is not None else _BY_SUFFIX.get(Path(source).suffix.lower(), "jsonl")
    with contextlib.ExitStack() as stack:
        given = cast("BufferedReader", sys.stdin.buffer)
        if source != "-":
            given = stack.enter_context(Path(source).open("rb"))
        as_it_is = known == "jsonl" and template is None and encoding is None
        if as_it_is and given.seekable():
            yield given
            return
        kept: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
        if as_it_is:
            shutil.copyfileobj(given, kept)
        else:
            with contextlib.closing(_lines(given, known, template, encoding)) as made:
                for line in made:
                    kept.write(line.encode() + b"\n")
        kept.seek(0)
        yield cast("BufferedReader", kept)


def _lines(stream: BufferedReader, shape: Shape, template: str | None, encoding: str | None) -> Generator[str]:
    """A JSON line for each record; blank ones stay blank, so that numbers stay."""
    text = _text(stream, encoding)
    try:
        said = _decoded(text)
        if shape == "jsonl" and template is None:
            yield from (line.rstrip("\r\n") for line in said)
            return
        for number, record in _records(said, shape):
            yield "" if record is None else dumps(_plain(number, record, shape, template))
    finally:
        text.detach()  # else it would close the stream, which is not ours


def _check(template: str) -> None:
    """Raises CliFault."""
    remedy = "A field stands in braces, such as {text}; a brace of the text itself is written twice: {{ and }}."
    if re.search("[{}]", _FIELD.sub("", template)):
        raise CliFault("The template has a brace without its other half.", remedy, Exit.USAGE)
    if not _fields_of(template):
        raise CliFault("The template names no field: each record would ask the same.", remedy, Exit.USAGE)


def _fields_of(template: str) -> set[str]:
    return {found[1] for found in _FIELD.finditer(template) if found[1] is not None}


def _plain(number: int, record: Mapping[str, Any], shape: Shape, template: str | None) -> dict[str, Any]:
    """A plain line. What the template takes is part of the text; what else is named like a field of a line is one."""
    custom_id = record.get("custom_id") or record.get("id") or f"line-{number}"
    made: dict[str, Any] = {"custom_id": str(custom_id), "prompt": _prompt(number, record, shape, template)}
    used = {"custom_id", "id"} | (set() if template is None else _fields_of(template))
    known = _known_fields() if shape == "jsonl" else COLUMNS
    for name, value in record.items():
        if name in used or value is None or value == "":
            continue
        if name in known:
            made[name] = _number(number, name, value) if shape == "csv" and name in _NUMBERS else value
        elif template is not None and (meant := _resembled(name, known)) is not None:
            raise CliFault(
                f"Record {number} has `{name}`, which is no parameter.",
                f"Did you mean `{meant}`? Rename it, or take it out.",
                Exit.USAGE,
            )
    return made


@cache
def _known_fields() -> frozenset[str]:
    """Of a plain line, beside what it asks."""
    from worker.services.openai.portable import Parameters  # noqa: PLC0415 - half a second, for such files only

    return frozenset({*lines.OF_THE_JOB, "system", *Parameters.model_fields})


@cache
def _resembled(name: str, known: frozenset[str]) -> str | None:
    """The field that somebody meant, where it is hardly another word."""
    bare = {re.sub("[^a-z]", "", each.casefold()): each for each in known if len(each) > 5}
    near = get_close_matches(re.sub("[^a-z]", "", name.casefold()), bare, n=1, cutoff=0.9)
    return bare[near[0]] if near else None


def _number(number: int, name: str, cell: str) -> int | float:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if isfinite(kind(cell)):
                return kind(cell)
    raise CliFault(f"Record {number} has no number in `{name}`.", "Write one, such as 0.2, or nothing.", Exit.USAGE)


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


def _records(given: Iterator[str], shape: Shape) -> Iterator[tuple[int, dict[str, Any] | None]]:
    if shape == "csv":
        yield from _rows(given)
        return
    for number, line in enumerate(given, 1):
        said = line.rstrip("\r\n")
        if not said.strip():
            yield number, None
        else:
            yield number, {"text": said} if shape == "text" else _object(number, said)


def _rows(given: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(_FIELD_BYTES)
    head = next(given, "")
    reader = csv.DictReader(chain([head], given), strict=True, delimiter=delimiter_of(head))
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise CliFault(f"Row {number} of the CSV has not as many cells as its head.", None, Exit.USAGE)
            yield number, dict(row)
    except csv.Error as fault:
        raise CliFault(f"The CSV cannot be read: {fault}.", "Quote cells that hold quotes.", Exit.USAGE) from None


def delimiter_of(head: str) -> str:
    """Of a CSV, by its first line: Excel writes semicolons where a comma stands in numbers, as in Spanish."""
    bare = re.sub('"[^"]*"', "", head)
    return max(",;\t", key=bare.count)  # the first of those that are there as often


def _object(number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as fault:
        raise CliFault(f"Line {number} is no valid JSON: {fault}.", None, Exit.USAGE) from None
    if not isinstance(value, dict):
        raise CliFault(f"Line {number} is no JSON object.", None, Exit.USAGE)
    return value


def _text(stream: BufferedReader, encoding: str | None) -> io.TextIOWrapper:
    """Bytes that are no text become lone surrogates."""
    if encoding is None:
        found = json.detect_encoding(stream.peek(4)[:4])
        encoding = found if found.startswith("utf-16") else "utf-8"
    wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    errors = "surrogatepass" if wide else "surrogateescape"
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")


def _decoded(text: io.TextIOWrapper) -> Iterator[str]:
    """Its lines, with their ends. A letter that was lost would be asked, and paid for: raises CliFault instead."""
    try:
        for number, line in enumerate(text, 1):
            if not line.isascii() and _NO_TEXT.search(line):
                raise _not_in(text, f"Line {number}")
            yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError:  # half a character
        raise _not_in(text, "The end of the file") from None


def _not_in(text: io.TextIOWrapper, what: str) -> CliFault:
    return CliFault(
        f"{what} is not {text.encoding.upper()}.",
        "Save the file as UTF-8 (Excel: `CSV UTF-8`), or say what it is, such as --encoding cp1252.",
        Exit.USAGE,
    )
