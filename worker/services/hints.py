"""Where workers are told to look: through the broker, within one process, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from worker.domain.failure import Lane

if TYPE_CHECKING:
    from worker.engine.engine import Engine


class LocalHints:
    """Within one process: the API and the engine share it, and no broker is needed.

    The API is made before the engine, so the engine is connected later; a hint before that is no loss.
    """

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


class NoHints:
    """Nobody is told; workers find the rows by themselves, each second."""

    def jobs(self, ids: Sequence[str]) -> None:
        pass

    def lane(self, lane: Lane) -> None:
        pass

    def alive(self) -> bool:
        return True
