"""Files: streamed in and out in compressed parts, so that neither side ever holds one in memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from worker import clock
from worker.deps import Deps
from worker.domain.file import PART_BYTES, FileView
from worker.store import files
from worker.store.database import Database
from worker.store.text import clean

LEVEL: Final = 1  # what is saved beyond that is little, and a web process has better things to do


class TooLong(ValueError):
    """More bytes came than are taken."""


class Gone(Exception):
    """The file was deleted while it was read."""


class Unfinished(Exception):
    """The file was given up before it was whole: it came for too long."""


def new_id() -> str:
    return clock.new_id("file").replace("_", "-", 1)


def compressed(data: bytes | bytearray | memoryview) -> bytes:
    return zlib.compress(data, LEVEL)


class Intake:
    """A file that is coming. `write` as it comes, then `finish` or `discard`.

    Not to be seen before it is finished. A process that dies leaves parts that the sweep finds.
    """

    def __init__(self, database: Database, owner_id: str, most: int) -> None:
        """`owner_id`: whose parts they are; `most`: bytes that are taken."""
        self._database = database
        self._most = most
        self._buffer = bytearray()
        self.owner_id: Final = owner_id
        self.bytes = 0
        self.parts = 0

    def write(self, data: bytes) -> int:
        """Raises TooLong, and Unavailable (database away)."""
        self.bytes += len(data)
        if self.bytes > self._most:
            raise TooLong(f"is larger than {self._most} bytes")
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            with memoryview(self._buffer) as whole:
                body = compressed(whole[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            self._keep(body)
        return len(data)

    def flush(self) -> None:
        if self._buffer:
            body = compressed(self._buffer)
            self._buffer.clear()
            self._keep(body)

    def discard(self) -> None:
        with self._database.write() as conn:
            files.drop(conn, self.owner_id)

    def _keep(self, body: bytes) -> None:
        with self._database.write() as conn:
            files.add_parts(conn, self.owner_id, self.parts, [body])
        self.parts += 1


def begin(deps: Deps, project_id: str) -> Intake:
    file_id = new_id()
    with deps.database.write() as conn:
        files.begin(conn, project_id, file_id, filename="", purpose="")
    return Intake(deps.database, file_id, deps.settings.max_file_bytes)


def finish(
    deps: Deps, project_id: str, intake: Intake, *, filename: str, purpose: str, expires_s: float | None
) -> FileView:
    """The file is there, for everybody. Raises Unfinished."""
    intake.flush()
    with deps.database.write() as conn:
        whole = files.ready(
            conn,
            intake.owner_id,
            filename=clean(filename, 255) or "file",
            purpose=purpose,
            n_bytes=intake.bytes,
            parts=intake.parts,
            expires_s=expires_s,
        )
        found = files.get(conn, project_id, intake.owner_id) if whole else None
    if found is None:
        raise Unfinished
    return found


def content(database: Database, file: FileView) -> Iterator[bytes]:
    """The bytes of a file, part by part; no connection is held between two. Raises Gone, and Unavailable."""
    for number in range(file.parts):
        with database.read() as conn:
            body = files.part(conn, file.id, number)
        if body is None:  # a file that merely ended early would be taken for a whole one
            raise Gone(f"part {number} of {file.id} is no longer kept")
        yield zlib.decompress(body)
