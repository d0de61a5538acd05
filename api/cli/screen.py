"""What a command prints, and where: data to stdout, everything else to stderr.

Answers of models and words of servers are strangers' text: what a terminal would obey is shown to a person instead.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import floor, log10
from typing import Any, Final

import click

from worker import clock

_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all controls but line feed and tab
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_WHOLE: Final = 24  # so wide a column is not folded: a status, a time or a number that is broken is another
_FOLDED: Final = 16  # the least that a wider one is folded to


@dataclass(slots=True)
class Screen:
    """One per run of the command line; its options set it up before a command begins."""

    quiet: bool = False
    no_color: bool = False
    verbose: bool = False

    def data(self, text: str) -> None:
        """What was asked for. Flushed, so that a pipe gets each line when there is one."""
        click.echo(harmless(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def document(self, value: Any) -> None:
        """One JSON document."""
        self.data(json.dumps(value, ensure_ascii=False, indent=2))

    def line(self, value: Any) -> None:
        """One JSON object of many, on a line of its own."""
        self.data(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def say(self, text: str) -> None:
        """How things go; not with --quiet."""
        if not self.quiet:
            click.echo(harmless(text), err=True)

    def detail(self, text: str) -> None:
        """Only with --verbose."""
        if self.verbose:
            click.echo(harmless(text), err=True)

    def warn(self, text: str) -> None:
        click.echo(harmless(text), err=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """For a person columns, those without a word left out, or where these are too wide a few lines per row; for a
        program one line per row, cells apart by tabs, nothing cut.
        """
        given = [list(row) for row in rows]
        if not sys.stdout.isatty():
            for row in given:
                self.data("\t".join(map(shown, row)))
            return
        now = clock.now()
        cells = [[_brief(cell, now) for cell in row] for row in given]
        kept = [n for n in range(len(columns)) if not cells or any(row[n] for row in cells)]
        from rich.console import Console  # noqa: PLC0415 - a pipe does not pay for it
        from rich.table import Table  # noqa: PLC0415

        console = Console(no_color=self.no_color or None, highlight=False, markup=False)
        widest = [max(len(column), *(len(row[n]) for row in cells), 0) for n, column in enumerate(columns)]
        whole = [n == 0 or widest[n] <= _WHOLE for n in range(len(columns))]
        if sum(widest[n] if whole[n] else _FOLDED for n in kept) + 2 * (len(kept) - 1) > console.width:
            for row in cells:
                self.data(row[0])
                for line in _packed([f"{columns[n]} {row[n]}" for n in kept[1:] if row[n]], console.width):
                    self.data(line)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for n in kept:
            table.add_column(columns[n], overflow="fold", no_wrap=whole[n])
        for row in cells:
            table.add_row(*(row[n] for n in kept))
        console.print(table)


def harmless(text: str) -> str:
    r"""Controls as `\x1b`, so that none moves a cursor, names a window or answers for the person at the keyboard."""
    return _OBEYED.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


def _packed(words: Iterable[str], width: int) -> Iterator[str]:
    """As many in a line as it holds, none broken."""
    line = ""
    for word in words:
        if line and len(line) + 2 + len(word) > width:
            yield line
            line = ""
        line += f"  {word}"
    if line:
        yield line


def _brief(value: Any, now: datetime) -> str:
    """A cell where room is scarce: of a time, in UTC, what tells it from now."""
    at = value
    if isinstance(value, str) and _TIME.fullmatch(value):
        at = datetime.fromisoformat(value)
    if not isinstance(at, datetime):
        return harmless(shown(value))
    if at.date() == now.date():
        return at.strftime("%H:%M:%SZ")
    return at.strftime("%m-%d %H:%MZ" if at.year == now.year else "%Y-%m-%d")


def shown(value: Any) -> str:
    """A cell: nothing for what is not known, no line break, times to the second."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def money(amount: float | None) -> str:
    """US dollars; of small sums the first three digits."""
    if amount is None:
        return "unknown"
    if amount == 0:
        return "$0"
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.{2 - floor(log10(amount))}f}"


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"
