"""The bugs that can be planted, as `bugs.toml` lists them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Bug:
    """`edits` are (text that occurs once in `file`, what takes its place); `test` is pytest's name of the test."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    test: str

    def planted(self, source: str) -> str:
        """The source with the bug. Raises ValueError where a text is not there, or more than once."""
        for old, new in self.edits:
            if source.count(old) != 1:
                raise ValueError(
                    f"bug {self.name!r}: its text occurs {source.count(old)} times in {self.file}: {old!r}"
                )
            source = source.replace(old, new)
        return source


def bugs() -> list[Bug]:
    listed = tomllib.loads((Path(__file__).parent / "bugs.toml").read_text(encoding="utf-8"))["bug"]
    return [Bug(b["name"], b["file"], tuple((old, new) for old, new in b["edits"]), b["test"]) for b in listed]
