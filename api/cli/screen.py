"""What a command prints, and where: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import floor, log10
from typing import Any

import click


@dataclass(slots=True)
class Screen:
    """One per run of the command line; its options set it up before a command begins."""

    quiet: bool = False
    no_color: bool = False
    verbose: bool = False

    def data(self, text: str) -> None:
        """What was asked for. Flushed, so that a pipe gets each line when there is one."""
        click.echo(text)
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
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Only with --verbose."""
        if self.verbose:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        click.echo(text, err=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Columns for a person; for a program one line per row, cells apart by tabs, nothing cut."""
        cells = [[shown(cell) for cell in row] for row in rows]
        if not sys.stdout.isatty():
            for row in cells:
                self.data("\t".join(row))
            return
        from rich.console import Console  # noqa: PLC0415 - a pipe does not pay for it
        from rich.table import Table  # noqa: PLC0415

        table = Table(box=None, pad_edge=False, header_style="bold")
        for n, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=n == 0)
        for row in cells:
            table.add_row(*row)
        Console(no_color=self.no_color or None, highlight=False, markup=False).print(table)


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
