"""What happened, told by those to whom it happened: one file each, lines of JSON, only ever added to.

    client     submit-sent {prompt}, submit-ok {prompt, job}, submit-refused {prompt, status}
    provider   send {n, prompt, provider}, answer {n, text, input, output}, refusal {n, status}, gone {n}
    nemesis    kill, freeze, thaw, term, exit, redis-*, postgres-*, ... with what was open at that moment
    worker     its own log, as the product writes it

Every line has `at`, seconds since 1970 by this machine's clock: all of them run on the same machine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `who` is the kind of writer, `what` what happened, `of` all else that the line says."""

    who: str
    what: str
    at: float
    of: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.of[name]

    @classmethod
    def read(cls, who: str, line: str) -> Self:
        told = json.loads(line)
        return cls(who, told.pop("what"), told.pop("at"), told)


class Teller:
    """Adds to one file, from any thread. A line is on its way to the disk when `tell` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()

    def tell(self, what: str, **of: Any) -> None:
        line = json.dumps({"what": what, "at": time.time(), **of}) + "\n"
        with self._lock:
            self._file.write(line)

    def close(self) -> None:
        self._file.close()


def events(who: str, path: Path) -> Iterator[Event]:
    """A file's events in order. A last line cut short by a death is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield Event.read(who, line)


def logged(path: Path) -> Iterator[Event]:
    """A worker's log: its JSON lines; what Celery says in between is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("{"):
            continue
        try:
            told = json.loads(line)
        except ValueError:  # two processes of a group wrote at once, or one died in mid line
            continue
        if isinstance(told, dict) and "event" in told:
            yield Event("worker", told.pop("event"), 0.0, told | {"log": path.name})
