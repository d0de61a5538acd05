"""Lines in, records out: submits in pages to the batch lane and follows the jobs until each has ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from api.cli.client import Client, Refused
from api.cli.fault import CliFault, Exit
from api.cli.follow import PATIENCE_S, Schedule, look
from api.cli.lines import BrokenLine, Line
from api.cli.progress import Progress
from api.cli.results import Output, Record, Sums, record_of, record_of_broken
from api.cli.screen import Screen
from worker import clock
from worker.store.text import dumps

PAGE_LINES: Final = 1000  # the most the API takes at once
PAGE_CHARACTERS: Final = 4_000_000  # well under the size a server takes unless it was told otherwise


class BatchRun:
    """One run over one input, by one thread.

    name      keys the pages: the same lines submitted again under the same name within a day are the same jobs
    expected  about how many lines there are, for the progress; 0: not known
    """

    def __init__(
        self, client: Client, screen: Screen, output: Output, progress: Progress, name: str, expected: int = 0
    ) -> None:
        self.name = name
        self.sums = Sums()
        self.read = 0
        self.ids: list[str] = []  # of every job, in the order of the lines
        self._client = client
        self._screen = screen
        self._output = output
        self._progress = progress
        self._expected = expected
        self._schedule = Schedule()
        self._told: set[str] = set()  # why lines waited
        self._lines: dict[str, Line] = {}  # of jobs that have not ended, by id

    def run(self, lines: Iterable[Line | BrokenLine]) -> None:
        """Until the last line has ended. Raises CliFault; what was submitted goes on without us."""
        for page in self._pages(lines):
            self._submit(page)
            self._look()
        self._expected = self.read
        while (due_s := self._schedule.next_s()) is not None:
            time.sleep(max(0.0, due_s - clock.monotonic_s()))
            self._look()

    def _pages(self, lines: Iterable[Line | BrokenLine]) -> Iterator[list[Line]]:
        page: list[Line] = []
        size = 0
        for line in lines:
            self.read += 1
            self._output.expect(line.number)
            if isinstance(line, BrokenLine):
                self._reject(line)
                continue
            if page and (len(page) == PAGE_LINES or size + line.size > PAGE_CHARACTERS):
                yield page
                page, size = [], 0
            page.append(line)
            size += line.size
        if page:
            yield page

    def _submit(self, page: list[Line], again: int = 0) -> None:
        """The server takes a page or none of it: lines it finds fault with are left out, and the rest is sent again.

        again  how often it was cut smaller already
        """
        while page:
            try:
                made = self._post(page, again)
            except Refused as refused:
                again += 1
                page = self._without_refused(page, refused, again)
                continue
            self.ids += made
            self._lines.update(zip(made, page, strict=True))
            self._schedule.add(made, clock.monotonic_s())
            self._show()
            return

    def _post(self, page: list[Line], again: int) -> list[str]:
        response = self._client.post_lines(
            "/v1/jobs/bulk",
            "\n".join(dumps(line.job) for line in page),
            f"{self.name}:{page[0].number}:{again}",
            patience_s=PATIENCE_S,
        )
        return [job["id"] for job in response.json()["data"]]

    def _without_refused(self, page: list[Line], refused: Refused, again: int) -> list[Line]:
        errors: list[dict[str, Any]] = refused.problem.get("errors", [])
        if refused.status == 413:
            if len(page) == 1:
                self._reject(BrokenLine(page[0].number, page[0].custom_id, "is larger than the server takes"))
                return []
            half = len(page) // 2
            self._submit(page[:half], again)
            return page[half:]
        if any(error.get("field") == "Idempotency-Key" for error in errors):
            raise CliFault(
                f"Run {self.name} had other lines.",
                "Give the same file and options as the first time, or leave --resume out.",
                Exit.USAGE,
            )
        said: dict[int, str] = {}
        for error in errors:
            if "line" in error:
                said.setdefault(error["line"], f"{error['field']} {error['message']}. {error['remedy']}")
        if not said:
            raise refused
        for place, message in said.items():
            self._reject(BrokenLine(page[place - 1].number, page[place - 1].custom_id, message))
        return [line for place, line in enumerate(page, 1) if place not in said]

    def _look(self) -> None:
        for stretch in self._schedule.due(clock.monotonic_s()):
            ended = look(self._client, stretch)
            self._tell(stretch.waits)
            self._schedule.looked(stretch, len(ended), clock.monotonic_s())
            for job in ended:
                self._take(record_of(self._lines.pop(job["id"]), job))
        self._show()

    def _tell(self, waits: set[str]) -> None:
        """Why lines stand still, each reason once."""
        for reason in sorted(waits - self._told):
            self._screen.warn(f"Lines wait for {reason}. `completar providers pauses` says when it is looked at again.")
        self._told |= waits

    def _show(self) -> None:
        self._progress.update(self.sums, max(self.read, self._expected))

    def _reject(self, line: BrokenLine) -> None:
        self._screen.warn(f"line {line.number}: {line.message}")
        self._take(record_of_broken(line))

    def _take(self, record: Record) -> None:
        self.sums.add(record)
        self._output.write(record)
