"""Answers on disk: what a worker has paid for and cannot write while the database is away.

One file per write, complete or not there at all, readable by its owner only. The lines are the exact entries of the
writer; nothing secret is in them but the answers themselves. Whoever replays a file renames it first, so that two
processes do not; should they, the claim and the attempt's state refuse the second (`writer.store`, `again`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from worker import clock, events
from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.job import AttemptRow, Ending, Return, Served
from worker.domain.money import Usage
from worker.domain.state import AttemptState, JobStatus
from worker.engine.entry import Entry
from worker.store.settling import Settle

MAX_BYTES: Final = 512 * 1024 * 1024
FILE_BYTES: Final = 8 * 1024 * 1024  # about as much is in memory twice while it is written
TAKEN_S: Final = 60.0  # a file taken longer ago belongs to a process that died over it
_VERSION: Final = 1


class Full(OSError):
    """There is no room left in the spool."""


class Spool:
    """Safe for many threads and processes on one folder, which is made when something is first kept."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def keep(self, entries: Sequence[Entry]) -> None:
        """Store entries; when this returns they are on the disk. Raises OSError, Full among them."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines: list[bytes] = []
        for entry in entries:
            lines.append(_line(entry))
            if sum(map(len, lines)) > FILE_BYTES:
                self._keep(lines)
                lines = []
        if lines:
            self._keep(lines)

    def _keep(self, lines: Sequence[bytes]) -> None:
        body = b"".join(lines)
        used = sum(_size(path) for path in self._folder.iterdir())
        if used + len(body) > self._max_bytes:
            raise Full(f"the spool holds {used} bytes of {self._max_bytes}")
        head = {"completar_spool": _VERSION, "sha256": hashlib.sha256(body).hexdigest()}
        self._write(clock.new_id("spool"), json.dumps(head).encode() + b"\n" + body)

    def take(self) -> Iterator[tuple[Path, list[Entry]]]:
        """Each file that waits, oldest first, ours from now on: then `remove` it or `put_back`.

        One that cannot be read is set aside, and said.
        """
        for path in self._waiting():
            taken = path.with_name(f"{path.name.partition('.')[0]}.{clock.new_id('by')}.taken")
            try:
                os.utime(path)  # first: a file is dead for as long as nobody has touched it
                path.rename(taken)
                text = taken.read_bytes()
            except OSError:  # another process was first
                continue
            try:
                entries = _entries(text)
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                self._set_aside(taken, f"not as it was written ({type(exc).__name__})")
                continue
            yield taken, entries

    def remove(self, taken: Path) -> None:
        taken.unlink(missing_ok=True)

    def put_back(self, taken: Path) -> None:
        with suppress(OSError):
            taken.rename(taken.with_name(f"{taken.name.partition('.')[0]}.jsonl"))

    def set_aside(self, entries: Sequence[Entry]) -> None:
        """Keep what the database refuses for people to look at. Raises OSError."""
        name = clock.new_id("spool")
        self._write(name, b"".join(_line(entry) for entry in entries), ".bad")
        events.emit("spool.bad", level="error", file=f"{name}.bad", why="refused by the database")

    def _waiting(self) -> list[Path]:
        try:
            found = sorted(self._folder.iterdir())
        except OSError:  # nothing was ever kept
            return []
        stale = clock.now().timestamp() - TAKEN_S
        waiting = []
        for path in found:
            if path.suffix == ".jsonl":
                waiting.append(path)
            elif path.suffix in {".taken", ".tmp"} and _touched(path) < stale:
                if path.suffix == ".taken":
                    waiting.append(path)
                else:
                    self._set_aside(path, "cut off while it was written")
        return waiting

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(f"{path.name.partition('.')[0]}.bad")
        with suppress(OSError):
            path.rename(aside)
            events.emit("spool.bad", level="error", file=aside.name, why=why)

    def _write(self, name: str, content: bytes, suffix: str = ".jsonl") -> None:
        fresh = self._folder / f"{name}.tmp"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(fresh.with_suffix(suffix))
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        if hasattr(os, "O_DIRECTORY"):  # not on Windows, which needs none
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return float("inf")


def _line(entry: Entry) -> bytes:
    return json.dumps(asdict(entry), ensure_ascii=True).encode() + b"\n"


def _entries(text: bytes) -> list[Entry]:
    head, _, body = text.partition(b"\n")
    said = json.loads(head)
    if said["completar_spool"] != _VERSION or said["sha256"] != hashlib.sha256(body).hexdigest():
        raise ValueError("not as it was written")
    return [_entry(json.loads(line)) for line in body.splitlines()]


def _entry(raw: Mapping[str, Any]) -> Entry:
    settle = raw["settle"]
    return Entry(
        raw["job_id"],
        raw["claim_id"],
        begin=tuple(_row(row) for row in raw["begin"]),
        close=tuple(_row(row) for row in raw["close"]),
        settle=None
        if settle is None
        else Settle(**{**settle, "to": _to(settle["to"]), "usage": Usage(**settle["usage"])}),
        budget_key=raw["budget_key"],
    )


def _row(raw: Mapping[str, Any]) -> AttemptRow:
    kind = FailureKind(raw["kind"]) if raw["kind"] is not None else None
    return AttemptRow(**{**raw, "state": AttemptState(raw["state"]), "kind": kind, "usage": Usage(**raw["usage"])})


def _to(raw: Mapping[str, Any]) -> Ending | Return:
    if "wait_s" in raw:
        return Return(raw["wait_s"], raw.get("parked_for"))  # older files have no mark
    error, served = raw["error"], raw["served"]
    return Ending(
        JobStatus(raw["status"]),  # type: ignore[arg-type]
        result=raw["result"],
        error=None
        if error is None
        else Failure(**{**error, "kind": FailureKind(error["kind"]), "usage": Usage(**error["usage"])}),
        provider=raw["provider"],
        served=None if served is None else Served(**served),
    )
