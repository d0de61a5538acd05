"""The documentation as data: pages, their headings, links and code blocks, with the marks that stand before a block.

A mark is an HTML comment on the line above a block; readers never see it.

    <!-- not run: WHY -->   the block is not run, and why
    <!-- serves -->         the block starts a server that stays until the page ends
    <!-- refused -->        the block runs, and the server refuses its request
    <!-- prints -->         the block shows what the one before printed
    <!-- answers -->        the block is JSON: a part of what the one before printed
    <!-- file: NAME -->     the block is the content of a file that later ones use
    <!-- receiver: NAME --> the block receives webhooks; tests/e2e/test_receivers.py runs it
    <!-- twin: NAME -->     blocks of one name say the same in two languages of shells
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from tests.support.processes import ROOT

Language = Literal["en", "es"]

# Pages that people who run or use Completar read; the rest of docs/ is for those who change it.
_NAMES: Final = (
    "api",
    "batches",
    "predictions",
    "providers",
    "errors",
    "webhooks",
    "cli",
    "deploy-railway",
    "guarantees",
)
PAGES: Final = ("README.md", *(f"docs/{name}.md" for name in _NAMES))

_FENCE: Final = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK: Final = re.compile(r"<!-- (.*?) -->\n\Z")
_HEADING: Final = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_COMMENT: Final = {
    language: re.compile(r"(?m)(^|[ \t]+)# .*$") for language in ("sh", "python", "powershell", "toml", "ini")
} | {"js": re.compile(r"(?m)(^|[ \t]+)// .*$")}


@dataclass(frozen=True)
class Block:
    """One fenced block; `mark` is the word before the colon, `said` what comes after it."""

    page: Page
    language: str
    text: str
    line: int
    mark: str
    said: str

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def bare(self) -> str:
        """Without comments, which are prose and are translated."""
        pattern = _COMMENT.get(self.language)
        return self.text if pattern is None else pattern.sub("", self.text)


@dataclass(frozen=True)
class Link:
    text: str
    target: str
    is_image: bool


@dataclass(frozen=True)
class Page:
    path: Path
    language: Language

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """Without its blocks."""
        return _FENCE.sub("", self.text)

    @property
    def headings(self) -> list[tuple[int, str]]:
        """Level and text."""
        return [(len(marks), text.strip()) for marks, text in _HEADING.findall(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """As GitHub makes them."""
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in self.headings}

    @property
    def links(self) -> list[Link]:
        return [Link(text, target, bool(mark)) for mark, text, target in _LINK.findall(self.prose)]

    @cached_property
    def blocks(self) -> list[Block]:
        return list(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        for found in _FENCE.finditer(self.text):
            before = self.text[: found.start()]
            mark = _MARK.search(before)
            word, _, said = (mark[1] if mark else "").partition(": ")
            yield Block(self, found[1], found[2], before.count("\n") + 1, word, said)

    def section(self, title: str) -> str:
        """What stands under a heading, up to the next one. Raises ValueError where there is no such heading."""
        lines = self.prose.splitlines()
        starts = [n for n, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(title)}", line)]
        if not starts:
            raise ValueError(f"{self.name} has no heading {title!r}")
        rest = lines[starts[0] + 1 :]
        end = next((n for n, line in enumerate(rest) if line.startswith("#")), len(rest))
        return "\n".join(rest[:end]).strip()

    def rows(self, table: int = 0) -> list[list[str]]:
        """The cells of a table of the prose, without its head."""
        tables = re.findall(r"(?:^\|.*\n)+", self.prose + "\n", re.MULTILINE)
        lines = tables[table].splitlines()[2:]
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def page(name: str) -> Page:
    """`name` is the English page's, or a Spanish one's."""
    return Page(ROOT / name, "es" if name.endswith(".es.md") or "/es/" in name else "en")


def twin(name: str) -> str:
    """The Spanish page of an English one."""
    return "README.es.md" if name == "README.md" else name.replace("docs/", "docs/es/", 1)


def every() -> list[Page]:
    return [page(each) for name in PAGES for each in (name, twin(name))]
