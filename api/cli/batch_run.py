"""Lines in, records out: hands the lines over as a batch, and follows its results until each has a record.

What has a record is done; what has none is handed over, as one batch after another. So whatever cuts a run off, the
same goes on with it, and a line is not asked twice. Whoever goes on reads the results from their beginning, whatever
became of the output meanwhile: a line that comes again is passed by.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from api.cli import batch_content
from api.cli.batch_content import Names, Seen
from api.cli.batch_note import Note
from api.cli.client import PATIENCE_S, Client, Refused
from api.cli.fault import CliFault, Exit
from api.cli.lines import BrokenLine, Line
from api.cli.progress import Progress
from api.cli.results import Output, Record, Sums, record_of, record_of_broken, took_s
from api.cli.screen import Screen, money
from api.cli.shared_calls import shared
from api.cli.standstill import paused, put_off
from worker import clock

PAGE: Final = 1000
WAIT_S: Final = 5  # the longest an answer is held back, so that what is seen is not older
BREATH_S: Final = 0.25  # between two pages that were not full: many small ones cost the server more than few large ones
FEW: Final = 500  # lines: their pages cost little however often they are asked for
SETTLE_S: Final = 1.0
TELL_S: Final = 10.0  # between two looks why nothing ends
FINAL: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_UNKNOWN: Final = re.compile(r"^The model '(.+?)' is no route")
_FAULTY: Final = frozenset({400, 413, 415, 422})  # what was asked for can never become a batch
_UNPRICED: Final = "This batch has a max_cost"

AnyLine = Line | BrokenLine


@dataclass(frozen=True, slots=True)
class Terms:
    """Of every batch a run makes. `max_cost` is of the run, in US dollars; None: no bound. `name` finds it again."""

    window: str = "24h"
    priority: int = 0
    max_cost: float | None = None
    name: str | None = None
    dedupe: bool = False
    max_age: str | None = None  # of stored answers that are taken, such as 12h; None: none is


class BatchRun:
    """One run over one input, by one thread.

    lines     the input from its beginning, the same lines at each call; blank ones left out
    note      where it is noted how far the run is; None: nowhere
    expected  about how many lines there are, for the progress; 0: not known
    """

    def __init__(
        self,
        client: Client,
        screen: Screen,
        output: Output,
        progress: Progress,
        lines: Callable[[], Iterable[AnyLine]],
        terms: Terms | None = None,
        note: Note | None = None,
        expected: int = 0,
    ) -> None:
        self.sums = Sums()
        self.batch_id: str | None = None if note is None else note.batch_id
        self.last_id: str | None = None
        self.left = 0  # lines that were not run, because they could have passed the bound
        self._client = client
        self._screen = screen
        self._output = output
        self._progress = progress
        self._lines = lines
        self._terms = Terms() if terms is None else terms
        self._note = note
        self._total = expected
        self._awaited: int | None = None  # ended, when all that is known to be handed over has its record
        self._seen = Seen()
        self._unknown: set[str] = set()  # names that are no models there
        self._strict = False  # more lines are faulty than the server names at once
        self._told: set[str] = set()  # why lines stand still
        self._tell_due_s = 0.0

    @property
    def open(self) -> int:
        return max(0, self._total - self.sums.ended)

    @property
    def total(self) -> int:
        return max(self._total, self.sums.ended)

    def had(self, records: Iterable[Record]) -> None:
        """Records of an earlier part of this run, which are in the output."""
        for record in records:
            if record["line"] not in self._seen:
                self._seen.add(record["line"])
                self.sums.add(record)
        self._progress.begin(self.sums.ended)

    def run(self, batch_id: str | None = None) -> None:
        """Until every line has a record, or the bound is reached. Raises CliFault; what was handed over goes on.

        batch_id  a batch of this run that is followed first
        """
        if batch_id is not None:
            self._resume(batch_id)
        if self.batch_id is not None or (self._note is not None and (self._note.open or self._note.earlier)):
            self._go_on(batch_id)
        while not self.left and (made := self._begun()) is not None:
            self._follow(made)
        if not self.left:
            self._begin_output()
            self._output.end()
        self._output.flush()
        self._show()

    def settle(self) -> None:
        """A server that ends with this command has a moment to end the batch too; another one would do it later."""
        until_s = clock.monotonic_s() + SETTLE_S
        while self.last_id is not None and clock.monotonic_s() < until_s:
            if self._client.get(f"/v1/batches/{self.last_id}").json()["status"] in FINAL:
                return
            time.sleep(BREATH_S / 5)

    # -- going on ----------------------------------------------------------------------------------------------------

    def _resume(self, batch_id: str) -> None:
        """The note forgets no batch for it: the lines of that one would be paid for again."""
        note = self._note
        if note is not None and batch_id != note.batch_id and batch_id not in note.earlier:
            if note.open:
                raise CliFault(
                    f"{note.path} is of another batch of this run, which is not over.",
                    f"Leave --resume out to go on with that one, or give another -o to read {batch_id}.",
                    Exit.USAGE,
                )
            self._note = note = note.save(batch_id=batch_id)
        self.batch_id = batch_id if note is None else note.batch_id

    def _go_on(self, resumed: str | None) -> None:
        """What was handed over has its records first."""
        note, first, awaited = self._note, 0, 0
        for line in self._expected(self._open_lines()):
            first = first or line.number
            awaited += 1
        if awaited:
            self._await(awaited)
        followed = self.batch_id
        if note is not None:
            lost = 0 < first <= note.through
            for earlier in note.earlier:
                if lost or earlier == resumed:
                    self._follow(earlier)
        if followed is not None:
            self._follow(followed)
        elif note is not None and note.open:
            self._follow(self._made())
        self.left = 0  # by the bound of then

    # -- handing over ------------------------------------------------------------------------------------------------

    def _begun(self) -> str | None:
        """A batch of the lines that have no record; None: there is none, or the bound allows none."""
        with tempfile.TemporaryFile() as kept:
            content = batch_content.write(kept, self._expected(self._open_lines()))
            self._await(content.lines, more=content.full)
            self._show()
            if content.lines == 0:
                return None
            if self._bound() == 0.0:
                self.left = self.open
                return None
            kept.seek(0)
            file_id = self._client.upload("/v1/files", kept, "batch").json()["id"]
        return self._made(self._asked(file_id))

    def _await(self, lines: int, *, more: bool = False) -> None:
        self._awaited = self.sums.ended + lines
        self._total = max(self._total, self._awaited) if more else self._awaited

    def _expected(self, lines: Iterable[Line]) -> Iterator[Line]:
        for line in lines:
            self._output.expect(line.number)
            yield line

    def _open_lines(self) -> Iterator[Line]:
        """Those that have no record. What is broken gets its own at once."""
        names = Names()
        for found in self._lines():
            if found.number in self._seen:
                continue
            line: AnyLine | None = found
            if self._strict and isinstance(found, Line):
                name = names.of(found)
                line = batch_content.reject(found, name, self._unknown) or found
                if line is found:
                    names.take(name)
            if isinstance(line, BrokenLine):
                self._output.expect(line.number)
                self._reject(line)
            elif isinstance(line, Line):
                yield line

    def _bound(self) -> float | None:
        """What is left of it; 0: nothing that could be asked for."""
        if self._terms.max_cost is None:
            return None
        left = round(self._terms.max_cost - self.sums.cost, 9)
        return max(left, 0.0)

    def _asked(self, file_id: str) -> dict[str, Any]:
        terms = self._terms
        body: dict[str, Any] = {"input_file_id": file_id, "endpoint": batch_content.ENDPOINT}
        body |= {"completion_window": terms.window, "priority": terms.priority}
        body |= shared(terms.dedupe, terms.max_age)
        if terms.name is not None:
            body["metadata"] = {"run": terms.name}
        if (bound := self._bound()) is not None:
            body["max_cost"] = bound
        return body

    def _made(self, asked: dict[str, Any] | None = None) -> str:
        """The batch; None: that which the note says was asked for, whether that was heard or not."""
        key = clock.new_id("run")
        if self._note is not None:
            if asked is not None:
                self._note = self._note.save(key=key, asked=asked, batch_id=None)
            key, asked = self._note.key or key, self._note.asked
        try:
            made: str = self._client.post("/v1/batches", asked, key=key, patience_s=PATIENCE_S).json()["id"]
        except Refused as refused:
            if refused.status in _FAULTY and self._note is not None:
                self._note = self._note.forget()
            raise
        if self._note is not None:
            self._note = self._note.save(batch_id=made)
        self.batch_id = made
        return made

    # -- following ---------------------------------------------------------------------------------------------------

    def _follow(self, batch_id: str) -> None:
        """Until every line of the batch has a record, or is known to have none."""
        path = f"/v1/batches/{batch_id}/results"
        cursor, told = "start", False
        while True:
            wanted = {"after": cursor, "limit": PAGE}
            page = self._client.get(path, wanted, wait_s=WAIT_S, patience_s=PATIENCE_S).json()
            for one in page["data"]:
                self._take(one)
            self._output.flush()
            cursor, told = page["next"], told or bool(page["data"])
            self._show()
            if page["over"] or (page["data"] and self._complete()):
                break
            if not page["data"]:
                self._tell(batch_id)
            if len(page["data"]) < PAGE:
                time.sleep(BREATH_S if self.open > FEW else BREATH_S / 5)
        self._over(batch_id, told=told)
        if page["status"] == "failed":  # nothing ran: whatever is wrong, the next try begins another batch
            self._refused(batch_id)
        elif not told and self._lacks():
            raise CliFault(
                f"Batch {batch_id} is over, and nothing is known of its lines.",
                "None of them ran. The same command without --resume hands them over anew.",
                Exit.FAILED,
            )

    def _over(self, batch_id: str, *, told: bool) -> None:
        """Nothing more is to come of it; `told` of its lines by it, not by why it was refused."""
        self.last_id = batch_id
        if batch_id == self.batch_id:
            self.batch_id = None
        if self._note is None:
            return
        self._output.keep()  # before the note says so
        if batch_id not in self._note.earlier:
            earlier = (*self._note.earlier, batch_id) if told else self._note.earlier
            through = self._seen.last
            self._note = self._note.save(key=None, asked=None, batch_id=None, earlier=earlier, through=through)

    def _complete(self) -> bool:
        """Whether all lines have a record: then nobody waits for the files of results to be written."""
        return self._awaited is not None and self.sums.ended >= self._awaited

    def _lacks(self) -> bool:
        return self._awaited is not None and self.sums.ended < self._awaited

    def _take(self, one: dict[str, Any]) -> None:
        number = one["completar"]["line"]
        if number in self._seen:
            return
        if one["response"] is None and (one["error"] or {}).get("code") == "max_cost_reached":
            self.left += 1
            return
        self._begin_output()
        self._record(record_of(one))
        if (took := took_s(one)) is not None:
            self.sums.took.append(took)

    def _refused(self, batch_id: str) -> None:
        """The file was faulty, and nothing ran: what is named gets its record, and the others are handed over anew."""
        batch = self._client.get(f"/v1/batches/{batch_id}", patience_s=PATIENCE_S).json()
        said: dict[int, str] = {}
        for error in (batch["errors"] or {"data": []})["data"]:
            if error["code"] == "more_errors":
                self._strict = True
                continue
            if error["line"] is None:
                raise CliFault(error["message"], None, Exit.USAGE)
            if error["message"].startswith(_UNPRICED):
                remedy = "Give its price in completar.toml, or leave --max-cost out."
                raise CliFault(f"line {error['line']}: {error['message']}", remedy, Exit.USAGE)
            if (name := _UNKNOWN.match(error["message"])) is not None:
                self._unknown.add(name[1])
            said.setdefault(error["line"], error["message"].removeprefix("body."))
        if not said:
            raise CliFault(f"Batch {batch_id} failed, and did not say why.", None, Exit.FAILED)
        with contextlib.suppress(Refused):  # it is of no use to anybody
            self._client.delete(f"/v1/files/{batch['input_file_id']}")
        custom_ids = {line.number: line.custom_id for line in self._lines() if line.number in said}
        for number, message in said.items():
            if number not in self._seen:
                self._reject(BrokenLine(number, custom_ids.get(number), message))

    # -- what comes of it --------------------------------------------------------------------------------------------

    def _begin_output(self) -> None:
        """No sooner than there is an answer: a run that is refused takes no records away."""
        self._output.begin()
        if self._note is not None and self._note.replaces:
            self._note = self._note.save(replaces=False)

    def _reject(self, line: BrokenLine) -> None:
        self._screen.warn(f"line {line.number}: {line.message}")
        self._record(record_of_broken(line))

    def _record(self, record: Record) -> None:
        self._seen.add(record["line"])
        self.sums.add(record)
        self._output.write(record)

    def _tell(self, batch_id: str) -> None:
        """Why lines stand still, each pause and each provider once."""
        if clock.monotonic_s() < self._tell_due_s:
            return
        self._tell_due_s = clock.monotonic_s() + TELL_S
        wanted = {"batch_id": batch_id, "status": "queued", "limit": 5}
        page = self._client.get("/v1/jobs", wanted, patience_s=PATIENCE_S).json()
        for job in page["data"]:
            pause = paused(job)
            of, said = (
                (pause, f"Lines wait for {pause}") if pause is not None else put_off(self._client, job) or ("", "")
            )
            if said and of not in self._told:
                self._told.add(of)
                self._screen.warn(said)

    def _show(self) -> None:
        self._progress.update(self.sums, self.total)


def bound_told(run: BatchRun, max_cost: float, again: str) -> str:
    """What is left where the bound was reached, and how to go on."""
    return (
        f"The bound of {money(max_cost)} is reached: {run.left:,} lines were not run. {run.sums.spent} is spent.\n"
        f"With more to spend they go on: {again}"
    )
