"""What a batch came to: one record per line of the input, and the sums."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TextIO

from api.cli.lines import BrokenLine, Line
from api.cli.screen import money
from worker.domain.answer import Json
from worker.domain.state import JobStatus

Record = dict[str, Json]


def record_of(line: Line, job: dict[str, Any]) -> Record:
    """The record of a job that has ended."""
    served = job["served_by"] or {}
    return {
        "custom_id": line.custom_id,
        "line": line.number,
        "id": job["id"],
        "status": job["status"],
        "model": served.get("model"),
        "provider": served.get("provider"),
        **(job["result"] or {"text": None}),
        "error": job["error"],
        "usage": job["usage"],
        "cost": job["cost"],
        "attempts": job["attempts"],
    }


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
    """Counted as records come."""

    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    cost_complete: bool = True

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


class Output:
    """Records as JSON lines, each flushed: as they come, or in the order of the input."""

    def __init__(self, stream: TextIO, *, ordered: bool) -> None:
        """Ordered, a record is held back until all lines before it have ended; `expect` says which lines there are."""
        self._stream = stream
        self._ordered = ordered
        self._expected: list[int] = []  # line numbers, in order
        self._next = 0
        self._held: list[tuple[int, str]] = []

    def expect(self, number: int) -> None:
        if self._ordered:
            self._expected.append(number)

    def write(self, record: Record) -> None:
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if not self._ordered:
            self._put(text)
            return
        heapq.heappush(self._held, (record["line"], text))
        while self._held and self._held[0][0] == self._expected[self._next]:
            self._put(heapq.heappop(self._held)[1])
            self._next += 1

    def _put(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
