"""How a batch goes: a live bar for a person who watches, a line every ten seconds for a log."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from api.cli.results import Sums
from api.cli.screen import Screen, seconds
from worker import clock

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_EVERY_S: Final = 10.0


class Progress:
    """On stderr; nothing with --quiet."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bar: Bar | None = None
        self._began_s = clock.monotonic_s()
        self._line_due_s = self._began_s + LINE_EVERY_S
        self._before = 0

    @property
    def elapsed_s(self) -> float:
        return clock.monotonic_s() - self._began_s

    def begin(self, ended: int) -> None:
        """So many had ended before: they tell nothing of the speed."""
        self._before = ended

    def update(self, sums: Sums, total: int) -> None:
        """Of `total` lines, as far as is known."""
        rate = (sums.ended - self._before) / max(self.elapsed_s, 0.001)
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                total=total,
                completed=sums.ended,
                failed=f"{sums.failed:,} failed" if sums.failed else "",
                rate=f"{rate:,.0f}/s",
                spent=sums.spent if sums.ended else "",
                by=sums.by_provider,
            )
        elif clock.monotonic_s() >= self._line_due_s:
            self._line_due_s += LINE_EVERY_S
            left = f", {seconds((total - sums.ended) / rate)} left" if rate else ""
            counts = f"{sums.done:,} done, {sums.failed:,} failed"
            by = f"; {sums.by_provider}" if sums.served else ""
            self._screen.say(f"{sums.ended:,} of {total:,}: {counts}, {rate:.0f}/s{left}, {sums.spent}{by}")

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self._screen.quiet:
            self._bar = self._drawn()
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _drawn(self) -> Bar:
        from rich.console import Console  # noqa: PLC0415 - only where somebody watches
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415

        bar = Bar(
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[spent]}"),
            TextColumn("{task.fields[by]}"),
            console=Console(stderr=True, no_color=self._screen.no_color or None),
        )
        bar.add_task("", total=None, failed="", rate="", spent="", by="")
        return bar
