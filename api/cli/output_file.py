"""A file for records: what one holds already is not lost to a command that was given once too often, or that fails."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final, TextIO, TypedDict

import click

from api.cli.fault import CliFault, Exit


class _Text(TypedDict):
    encoding: str
    errors: str
    newline: str


# Lone surrogates, which JSON can hold and UTF-8 cannot, stay the escapes they were.
_TEXT: Final[_Text] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
overwriting: Final = click.option("--overwrite", is_flag=True, help="Replace what OUT.jsonl holds of a finished run.")


class Replacing:
    """A file that keeps what it holds until `begin`; what is written before waits."""

    def __init__(self, path: Path) -> None:
        with path.open("a"):  # whoever may not write there hears of it now
            pass
        self._path = path
        self._stream: Any = tempfile.TemporaryFile("w+", **_TEXT)  # noqa: SIM115 - close closes it
        self._begun = False

    def begin(self) -> None:
        if self._begun:
            return
        waiting, self._stream = self._stream, self._path.open("w", **_TEXT)
        self._begun = True
        with waiting:
            waiting.seek(0)
            shutil.copyfileobj(waiting, self._stream)

    def write(self, text: str) -> None:
        self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


Stream = TextIO | Replacing


@contextlib.contextmanager
def written(target: str | Path, *, more: bool) -> Iterator[Stream]:
    """A file for JSON lines, `more` of them or anew; `-` is stdout. What it holds stays until the first is answered."""
    if target == "-":
        yield sys.stdout
    elif more or not is_occupied(Path(target)):
        with Path(target).open("a" if more else "w", **_TEXT) as file:
            yield file
    else:
        with contextlib.closing(Replacing(Path(target))) as kept:
            yield kept


def is_occupied(path: Path) -> bool:
    """Whether it is a file that holds something."""
    return path.is_file() and path.stat().st_size > 0


def check_free(path: Path, own: AbstractSet[str] = frozenset()) -> None:
    """Raises CliFault where something would be lost: more than records of these names."""
    if not is_occupied(path):
        return
    held = _names_in(path)
    if held is not None and all(name in own for name in held):
        return
    what = "what is no record of a run"
    if held is not None:
        what = f"{len(held):,} record{'' if len(held) == 1 else 's'} of a finished run"
    raise CliFault(f"{path} holds {what}.", "Give another file to -o, or --overwrite to replace it.", Exit.USAGE)


def _names_in(path: Path) -> list[Any] | None:
    """The names (`custom_id`) of its records; None: it holds something else."""
    names = []
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return None
            if not isinstance(record, dict) or not {"line", "status"} <= record.keys():
                return None
            names.append(record.get("custom_id"))
    return names
