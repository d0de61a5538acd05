"""What a batch came to: one record per line of the input, and the sums."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from api.cli.batch_content import named
from api.cli.fault import CliFault, Exit
from api.cli.lines import BrokenLine
from api.cli.output_file import Replacing, Stream
from api.cli.screen import harmless, money
from worker.domain.answer import Json
from worker.domain.state import JobStatus

Record = dict[str, Json]


def record_of(one: dict[str, Any]) -> Record:
    """The record of a result of a batch whose lines are jobs."""
    told, job = one["completar"], _job(one)
    return {
        "custom_id": named(one["custom_id"]),
        "line": told["line"],
        "id": told["job"],
        "status": told["status"],
        "model": told["model"],
        "provider": told["provider"],
        **(job["result"] or {"text": None}),
        "error": job["error"],
        "usage": told["usage"],
        "cost": told["cost"],
        "attempts": told["attempts"],
    }


def took_s(one: dict[str, Any]) -> float | None:
    """Seconds from the start of a result's job to its end."""
    job = _job(one)
    if job.get("started_at") is None or job.get("ended_at") is None:
        return None
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "ended_at"))
    return (ended - began).total_seconds()


def _job(one: dict[str, Any]) -> dict[str, Any]:
    if one["response"] is not None:
        job: dict[str, Any] = one["response"]["body"]
        return job
    kind = "deadline" if one["completar"]["status"] == JobStatus.EXPIRED else "cancelled"
    return {"result": None, "error": {"kind": kind, **one["error"], "provider": None, "retryable": False}}


def record_of_broken(line: BrokenLine) -> Record:
    """The record of a line that made no job: `status` is `rejected`."""
    return {
        "custom_id": line.custom_id,
        "line": line.number,
        "id": None,
        "status": "rejected",
        "model": None,
        "provider": None,
        "text": None,
        "error": {"kind": "bad_request", "code": None, "message": line.message, "provider": None, "retryable": False},
        "usage": None,
        "cost": None,
        "attempts": 0,
    }


@dataclass(slots=True)
class Sums:
    """Counted as records come. `calls` were made in all; `took` is of those that were followed, in seconds."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    cost_complete: bool = True
    calls: int = 0
    called: int = 0  # lines that were called for at all
    took: array[float] = field(default_factory=lambda: array("f"))

    def add(self, record: Record) -> None:
        self.statuses[record["status"]] += 1
        if record["status"] == JobStatus.COMPLETED:
            self.served["a panel" if "votes" in record else f"{record['provider']}/{record['model']}"] += 1
        else:
            error = record["error"] or {}
            self.failures[error.get("kind") or record["status"]] += 1
        cost = record["cost"]
        if cost is not None:
            self.cost += float(cost["amount"] or 0)
            self.cost_complete = self.cost_complete and cost["complete"]
        self.calls += record.get("attempts") or 0
        self.called += bool(record.get("attempts"))

    @property
    def ended(self) -> int:
        return self.statuses.total()

    @property
    def done(self) -> int:
        return self.statuses[JobStatus.COMPLETED]

    @property
    def failed(self) -> int:
        return self.ended - self.done

    @property
    def by_provider(self) -> str:
        """Who answered how many, the three that did most."""
        sums: Counter[str] = Counter()
        for target, count in self.served.items():
            sums[target.partition("/")[0]] += count
        return ", ".join(f"{provider} {count:,}" for provider, count in sums.most_common(3))

    @property
    def spent(self) -> str:
        return money(self.cost) + ("" if self.cost_complete else " and what is not known")

    def within_s(self, share: float) -> float | None:
        """The time in which this share of the lines was through; None: none was followed."""
        ordered = sorted(self.took)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


class Output:
    """Records as JSON lines, as they come. Flushed where `flush` says so: whoever reads along gets whole pages."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._watched = stream is sys.stdout and not isinstance(stream, Replacing) and stream.isatty()

    def begin(self) -> None:
        """There are answers: what was in the file before gives way."""
        if isinstance(self._stream, Replacing):
            self._stream.begin()

    def expect(self, number: int) -> None:
        """A line that is to come; told in the order of the lines."""

    def write(self, record: Record) -> None:
        self.put(json.dumps(record, ensure_ascii=False, separators=(",", ":")))

    def put(self, text: str) -> None:
        self._stream.write((harmless(text) if self._watched else text) + "\n")

    def flush(self) -> None:
        self._stream.flush()

    def keep(self) -> None:
        """What was written outlasts the machine's end, where it is a file."""
        self.flush()
        with contextlib.suppress(OSError):
            os.fsync(self._stream.fileno())

    def end(self) -> None:
        """Nothing more is to come. What was interrupted has no end: it goes on where it was."""
        self.flush()

    def close(self) -> None:
        """What is held is let go; the stream is another's."""


def restored(path: Path) -> Iterator[Record]:
    """The records an output has. A last one that was cut short is cut off. Raises CliFault."""
    with path.open("r+b") as file:
        good = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            good += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("line"), int) or "status" not in record:
                raise CliFault(
                    f"Line {number} of {path} is no record of a run.", "Give another -o, or put it right.", Exit.USAGE
                )
            yield {"cost": None, "error": None, "provider": None, "model": None, **record}
        file.truncate(good)
