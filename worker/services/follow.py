"""Wait for jobs to change. All waiters of a process share one look at the database.

A waiter costs an entry in a dictionary, not a query loop: every few milliseconds one statement reads the versions of
all jobs that are waited for. The look-outs grow apart as the waiting goes on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

from worker import clock, events
from worker.domain.state import FINAL, JobStatus
from worker.store import views
from worker.store.database import Database, Unavailable

FASTEST_S: Final = 0.003
SLOWEST_S: Final = 0.1
FAULT_S: Final = 1.0  # after one of ours
_SHARE: Final = 0.01  # of the time waited so far: a job that took 2 s is seen at most 20 ms late


@dataclass(slots=True, eq=False)
class _Waiter:
    job_id: str
    version: int
    until_final: bool
    since_s: float
    changed: threading.Event = field(default_factory=threading.Event)


class Follower:
    """One per process. Thread-safe."""

    def __init__(self, database: Database, most: int) -> None:
        """`most` waiters at once: a thread each is held by the web server."""
        self._database = database
        self._room = threading.BoundedSemaphore(most)
        self._waiters: set[_Waiter] = set()
        self._some = threading.Condition()
        self._thread: threading.Thread | None = None

    def wait(self, job_id: str, version: int, seconds: float, *, until_final: bool = True) -> bool:
        """Wait until the job is final (or, with `until_final=False`, has another version than `version`).

        False at once when too many wait already, and when the time is over.
        """
        if not self._room.acquire(blocking=False):
            return False
        waiter = _Waiter(job_id, version, until_final, clock.monotonic_s())
        try:
            with self._some:
                self._waiters.add(waiter)
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._watch, name="completar-follower", daemon=True)
                    self._thread.start()
                self._some.notify()
            return waiter.changed.wait(seconds)
        finally:
            with self._some:
                self._waiters.discard(waiter)
            self._room.release()

    def _watch(self) -> None:
        while True:
            with self._some:
                while not self._waiters:
                    self._some.wait()
                waiters = list(self._waiters)
            try:
                with self._database.read() as conn:
                    seen = views.versions(conn, list({w.job_id for w in waiters}))
            except Unavailable:
                seen = {}
            except Exception as exc:  # noqa: BLE001 - a look-out that ends would let all later waits run to their end
                events.emit("follower.fault", level="error", **events.fault(exc))
                threading.Event().wait(FAULT_S)
                continue
            for waiter in waiters:
                found = seen.get(waiter.job_id)
                if found is not None and _over(waiter, *found):
                    waiter.changed.set()
                    with self._some:
                        self._waiters.discard(waiter)
            youngest = max(w.since_s for w in waiters)
            pause = (clock.monotonic_s() - youngest) * _SHARE
            threading.Event().wait(min(SLOWEST_S, max(FASTEST_S, pause)))


def _over(waiter: _Waiter, version: int, status: JobStatus) -> bool:
    return status in FINAL or (not waiter.until_final and version != waiter.version)
