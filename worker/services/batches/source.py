"""The lines that a batch consists of: of its file, and of a retry only those that no run of the file has answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from worker.deps import Deps
from worker.domain.file import FileView
from worker.services import files as content_of
from worker.services.batches.raw import Raw, cut
from worker.store import batch_views
from worker.store import lines as stored
from worker.store.tending import Tended

_AT_ONCE: Final = 20_000


class Marks:
    """A set of line numbers, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, number: int) -> None:
        place = number >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1024 - len(self._bits)))
        bit = 1 << (number & 7)
        self.count += not self._bits[place] & bit
        self._bits[place] |= bit

    def __contains__(self, number: int) -> bool:
        place = number >> 3
        return place < len(self._bits) and bool(self._bits[place] & 1 << (number & 7))


def raw_lines(deps: Deps, file: FileView) -> Iterator[Raw]:
    """All lines of a file."""
    return cut(content_of.content(deps.database, file), deps.settings.max_body_bytes)


def lines_of(deps: Deps, batch: Tended, file: FileView) -> Iterator[Raw]:
    if batch.origin_id is None:
        return raw_lines(deps, file)
    done = answered(deps, batch.project_id, batch.origin_id, but=batch.id)
    return (raw for raw in raw_lines(deps, file) if raw[0] not in done)


def answered(deps: Deps, project_id: str, origin_id: str, *, but: str | None = None) -> Marks:
    """The lines of a file that a batch of the family has an answer to; `but`: without what this one did."""
    done = Marks()
    with deps.database.read() as conn:
        ids = [batch.id for batch in batch_views.family(conn, project_id, origin_id) if batch.id != but]
    for batch_id in ids:
        after: int | None = 0
        while after is not None:
            with deps.database.read() as conn:
                numbers, after = stored.completed(conn, batch_id, after, _AT_ONCE)
            for number in numbers:
                done.add(number)
    return done
