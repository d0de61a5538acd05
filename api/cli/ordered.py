"""Records in the order of the input, each as soon as all before it are there.

One that comes early waits in a file: what is held in memory is nine bytes a line, however long a line in front takes.
"""

from __future__ import annotations

import json
import tempfile
from array import array

from api.cli.output_file import Stream
from api.cli.results import Output, Record


class Ordered(Output):
    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._due = bytearray()  # by number of the line: 1 where a record is still to be written
        self._at = array("q")  # and where it waits; -1: it is not there yet
        self._next = 0
        self._told = False  # whether it is known which lines come; else all wait for the end
        self._waiting = tempfile.TemporaryFile()  # noqa: SIM115 - close closes it

    def expect(self, number: int) -> None:
        self._told = True
        if number >= len(self._due):
            self._hold(number)

    def write(self, record: Record) -> None:
        number = record["line"]
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if self._told and number == self._first():
            self._written(number, text)
            while (number := self._first()) < len(self._due) and self._at[number] >= 0:
                self._written(number)
            return
        self._hold(number)
        self._at[number] = self._waiting.seek(0, 2)
        self._waiting.write(text.encode(errors="surrogatepass") + b"\n")

    def end(self) -> None:
        self._next = 0
        while (number := self._first()) < len(self._due):
            self._written(number)
        super().end()

    def close(self) -> None:
        self._waiting.close()

    def _written(self, number: int, text: str | None = None) -> None:
        if text is None and self._at[number] >= 0:
            self._waiting.seek(self._at[number])
            text = self._waiting.readline()[:-1].decode(errors="surrogatepass")
        if text is not None:
            self.put(text)
        self._due[number] = 0

    def _first(self) -> int:
        """The first line whose record is not written yet."""
        found = self._due.find(1, self._next)
        self._next = len(self._due) if found < 0 else found
        return self._next

    def _hold(self, number: int) -> None:
        more = number + 1 - len(self._due)
        if more > 0:
            self._due.extend(bytes(more))
            self._at.extend([-1] * more)
        self._due[number] = 1
