"""Where workers are told to look: through the broker, through Postgres, within one process, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from worker.deps import HintsKind
from worker.domain.failure import Lane
from worker.store import notices
from worker.store.database import Database, Unavailable

if TYPE_CHECKING:
    from worker.engine.engine import Engine


GAP_S: Final = 0.01  # between two notices: each commit that carries one waits for every other


class LocalHints:
    """Within one process: the API and the engine share it, and no broker is needed.

    The API is made before the engine, so the engine is connected later; a hint before that is no loss.
    """

    kind: HintsKind = "local"

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def connect(self, engine: Engine) -> None:
        self._engine = engine

    def jobs(self, ids: Sequence[str]) -> None:
        if self._engine is not None:
            self._engine.hint(ids)

    def lane(self, lane: Lane) -> None:
        if self._engine is not None:
            self._engine.wake(lane)

    def alive(self) -> bool:
        return True


class SqlHints:
    """Through Postgres, by a thread that says it for many: who makes a job does not wait for it, nor pays a round trip.

    The database is one of its own, with a single connection.
    """

    kind: HintsKind = "sql"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._lanes: set[Lane] = set()
        self._asked = threading.Event()
        self._teller: threading.Thread | None = None

    def jobs(self, ids: Sequence[str]) -> None:
        if ids:
            self.lane(Lane.INTERACTIVE)

    def lane(self, lane: Lane) -> None:
        with self._lock:
            self._lanes.add(lane)
            if self._teller is None or not self._teller.is_alive():
                self._teller = threading.Thread(target=self._tell, name="completar-hints", daemon=True)
                self._teller.start()
        self._asked.set()

    def alive(self) -> bool:
        return True

    def _tell(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            with self._lock:
                lanes, self._lanes = self._lanes, set()
            try:
                with self._database.read() as conn:
                    for lane in lanes:
                        notices.send(conn, lane)
            except Unavailable:  # workers look by themselves, and the next job is told again
                pass
            time.sleep(GAP_S)


class NoHints:
    """Nobody is told; workers find the rows by themselves, each second."""

    kind: HintsKind = "sql"

    def jobs(self, ids: Sequence[str]) -> None:
        pass

    def lane(self, lane: Lane) -> None:
        pass

    def alive(self) -> bool:
        return True
