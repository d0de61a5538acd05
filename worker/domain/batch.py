"""The life of a batch: a file of requests that become jobs, and two files that come of them.

    validating ──▶ in_progress ──▶ finalizing ──▶ completed | expired
      │    │            │              │
      │    └────────────┴──────────────┴──▶ cancelling ──▶ cancelled
      └──▶ failed

`validating`   its file is being read; no line is a job yet
`failed`       the file is faulty: no line ever ran
`in_progress`  lines are jobs, or become such
`finalizing`   every line has ended; the files are being written
`cancelling`   no further line starts; open calls may still answer, then the files are written
`completed`    every line has ended by itself, well or not
`expired`      the window passed before some lines ended        `cancelled`  stopped on request

A final state never changes, and the ids of the files are there with it. Only `store/batches.py` makes moves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from worker.domain.answer import Json
from worker.domain.money import NO_USAGE, Usage


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_S = BatchStatus

FINAL: Final = frozenset({_S.FAILED, _S.COMPLETED, _S.EXPIRED, _S.CANCELLED})
OPEN: Final = frozenset(_S) - FINAL

MOVES: Final[Mapping[BatchStatus, frozenset[BatchStatus]]] = MappingProxyType(
    {
        _S.VALIDATING: frozenset({_S.IN_PROGRESS, _S.FAILED, _S.CANCELLING}),
        _S.IN_PROGRESS: frozenset({_S.FINALIZING, _S.CANCELLING}),
        _S.FINALIZING: frozenset({_S.COMPLETED, _S.EXPIRED, _S.CANCELLING}),
        _S.CANCELLING: frozenset({_S.CANCELLED}),
        _S.COMPLETED: frozenset(),
        _S.EXPIRED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.FAILED: frozenset(),
    }
)

_WINDOW: Final = re.compile(r"([1-9][0-9]{0,2})([hd])")
LONGEST_WINDOW_S: Final = 7 * 86_400
_AGE: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")
OLDEST_S: Final = 365 * 86_400


def window_s(window: str) -> int | None:
    """Seconds of a window such as `24h` or `7d`; None for one that is none, or is longer than seven days."""
    return _seconds(_WINDOW.fullmatch(window), LONGEST_WINDOW_S)


def age_s(age: str) -> int | None:
    """Seconds of an age such as `30m`, `12h` or `7d`; None for one that is none, or is more than a year."""
    return _seconds(_AGE.fullmatch(age), OLDEST_S)


def _seconds(found: re.Match[str] | None, most: int) -> int | None:
    if found is None:
        return None
    seconds = int(found[1]) * {"m": 60, "h": 3600, "d": 86_400}[found[2]]
    return seconds if seconds <= most else None


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a batch's file. `param` is a path in the line; `line` counts from 1, None: the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def json(self) -> dict[str, Json]:
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True, slots=True)
class Counts:
    """Of lines. `completed` and `failed` are those that ended by themselves; `rest`: expired, cancelled.

    cost_nano  of those that have ended; `unpriced`: how many have calls whose cost is not known
    """

    total: int = 0
    completed: int = 0
    failed: int = 0
    rest: int = 0
    cost_nano: int = 0
    unpriced: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.rest


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch as it is stored. `output_expires_s` counts from the making of its files; None: as ever.

    max_cost_nano  what its lines may cost in all; None: no bound
    retry_of       the batch whose lines that were not answered run again; `origin_id`: the first of that family
    dedupe         lines that ask the same make one call
    cache_age      up to which age a stored answer to the same request is taken, such as `7d`; None: none is
    """

    id: str
    project_id: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    window: str
    window_s: int
    metadata: Mapping[str, str] | None = None
    output_expires_s: int | None = None
    priority: int = 0
    max_cost_nano: int | None = None
    retry_of: str | None = None
    origin_id: str | None = None
    dedupe: bool = False
    cache_age: str | None = None


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as people see it, all times aware UTC.

    model         of its lines, where all name the same
    total_errors  of its file; `errors` holds the first of them
    output_file_id, error_file_id  only of a final one
    paused_at    since when no line is started; it goes on when somebody says so
    stopped_for  why it was stopped where nobody asked for it: `max_cost`
    retry_of, origin_id  of a retry: the batch it repeats, and the first of that family
    taken_line   up to which line of its file lines became jobs; `forgotten`: what they came to is no longer kept
    dedupe, cache_age  as asked for; `twins`, `cached`: how many lines taken so far made no call because of them
    """

    id: str
    project_id: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    window: str
    metadata: Mapping[str, str] | None
    status: BatchStatus
    model: str | None
    errors: Sequence[Mapping[str, Json]] | None
    output_file_id: str | None
    error_file_id: str | None
    output_expires_s: int | None
    counts: Counts
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    expired_at: datetime | None = None
    cancelling_at: datetime | None = None
    cancelled_at: datetime | None = None
    usage: Usage = field(default=NO_USAGE)
    priority: int = 0
    max_cost_nano: int | None = None
    paused_at: datetime | None = None
    stopped_for: str | None = None
    retry_of: str | None = None
    origin_id: str | None = None
    taken_line: int = 0
    forgotten: bool = False
    dedupe: bool = False
    cache_age: str | None = None
    twins: int = 0
    cached: int = 0
