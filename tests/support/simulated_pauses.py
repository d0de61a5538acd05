"""What `services/pauses` needs around it, made up: rows of pauses, parked jobs, and an engine that does as it is told.

The rows obey what the store's own tests prove: one row for a scope, and each move is guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from worker.domain.failure import Lane
from worker.domain.pause import Cause, Pause, PauseKind, Scope, ids_in

SHOWN_S: Final = 60.0
_SINCE: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Row:
    scope: Scope
    kind: PauseKind
    reason: str
    since: float
    until: float
    probes: int = 0
    closed: float | None = None
    leave: str | None = None  # the worker that may let one call through


class Parked(Protocol):
    """A job, as far as its park goes."""

    id: str
    lane: Lane
    parked_for: str | None
    run_at: float


class PauseRows:
    """In the place of the modules `store.pauses` and `store.parked`; `conn` is the worker that asks."""

    def __init__(self, now: Callable[[], float], waiting: Callable[[], Iterable[Parked]]) -> None:
        """`waiting`: the jobs that are queued."""
        self.rows: dict[Scope, Row] = {}
        self._now = now
        self._waiting = waiting
        self.claim: Callable[[Any, Any], None]  # a job for a worker

    # -- store.pauses ---------------------------------------------------------------------------------------------

    def begin(self, _conn: Any, cause: Cause) -> None:
        row = self.rows.get(cause.scope)
        if row is None or row.closed is not None:
            self.rows[cause.scope] = Row(cause.scope, cause.kind, cause.reason, self._now(), self._now() + cause.wait_s)
        elif cause.floor_s is not None:
            row.until = max(row.until, self._now() + cause.floor_s)

    def take_probe(self, conn: Any, seen: Pause, next_s: float) -> bool:
        row = self.rows[seen.scope]
        if row.closed is not None or row.probes != seen.probes or row.until > self._now():
            return False
        row.probes, row.until, row.leave = row.probes + 1, self._now() + next_s, conn.id
        return True

    def end(self, _conn: Any, scope: Scope) -> bool:
        row = self.rows.get(scope)
        if row is None or row.closed is not None:
            return False
        row.closed = self._now()
        return True

    def current(self, _conn: Any) -> list[Pause]:
        now = self._now()
        shown = [row for row in self.rows.values() if row.closed is None or now - row.closed < SHOWN_S]
        return [
            Pause(
                row.scope,
                row.kind,
                row.reason,
                _SINCE,
                _SINCE,
                row.probes,
                None,
                _SINCE if row.closed is not None else None,
                row.until - now,
                None if row.closed is None else now - row.closed,
            )
            for row in shown
        ]

    def holding(self, conn: Any) -> list[Pause]:
        return [pause for pause in self.current(conn) if pause.over_s is None]

    # -- store.parked ---------------------------------------------------------------------------------------------

    def marks(self, _conn: Any) -> list[tuple[str, Lane]]:
        return sorted({(job.parked_for, job.lane) for job in self._waiting() if job.parked_for is not None})

    def wake(self, _conn: Any, mark: str, lane: Lane, most: int) -> int:
        found = [job for job in self._waiting() if (job.parked_for, job.lane) == (mark, lane)][:most]
        for job in found:
            job.parked_for, job.run_at = None, self._now()
        return len(found)

    def claim_one(self, conn: Any, wanted: Iterable[str], lanes: Collection[Lane], **_ids: str) -> Any:
        marks = set(wanted)
        for job in self._waiting():
            if job.parked_for in marks and job.lane in lanes:
                job.parked_for, job.run_at = None, self._now()
                self.claim(conn, job)
                return job
        return None

    # -- store.attempts, the database -----------------------------------------------------------------------------

    def of_jobs(self, _conn: Any, ids: Iterable[str]) -> dict[str, Any]:
        return dict.fromkeys(ids, ())

    def holds(self, mark: str) -> bool:
        """Whether any pause of a mark still holds."""
        ids = set(ids_in(mark))
        return any(row.closed is None and row.scope.id in ids for row in self.rows.values())


@dataclass(frozen=True)
class Connections:
    """In the place of a database: a connection of it is the worker that asks."""

    worker: Any

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield self.worker

    @contextmanager
    def write(self) -> Iterator[Any]:
        yield self.worker
