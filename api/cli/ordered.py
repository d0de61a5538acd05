"""Records in the order of the input, each as soon as all before it are there.

One that comes early waits in a file: what is held in memory is nine bytes a line, however long a line in front takes.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from typing import TextIO

from api.cli.results import Output, Record


class Ordered(Output):
    in_order = True

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._due = bytearray()  # by number of the line: 1 where a record is still to be written
        self._at = array("q")  # and where it waits; -1: it is not there yet
        self._next = 0
        self._waiting = tempfile.TemporaryFile()  # noqa: SIM115 - as long as there is this

    def expect(self, number: int) -> None:
        if number >= len(self._due):
            self._grow(number)
            self._due[number] = 1

    def write(self, record: Record) -> None:
        number = record["line"]
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if number >= len(self._due):  # nobody told that it would come: it goes last
            self._grow(number)
        elif number == self._first():
            self.put(text)
            self._next += 1
            self._advance()
            return
        self._due[number] = 1
        self._at[number] = self._waiting.seek(0, 2)
        self._waiting.write(text.encode(errors="surrogatepass") + b"\n")

    def end(self) -> None:
        while (number := self._first()) < len(self._due):
            self._written(number)
        super().end()

    def _advance(self) -> None:
        while (number := self._first()) < len(self._due) and self._at[number] >= 0:
            self._written(number)

    def _written(self, number: int) -> None:
        if self._at[number] >= 0:
            self._waiting.seek(self._at[number])
            self.put(self._waiting.readline()[:-1].decode(errors="surrogatepass"))
        self._next = number + 1

    def _first(self) -> int:
        """The first line whose record is not written yet."""
        found = self._due.find(1, self._next)
        self._next = len(self._due) if found < 0 else found
        return self._next

    def _grow(self, number: int) -> None:
        more = number + 1 - len(self._due)
        self._due.extend(bytes(more))
        self._at.extend([-1] * more)
