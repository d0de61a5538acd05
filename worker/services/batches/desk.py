"""What every step of a batch works with, and how it tells whoever drives it when to come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.deps import Deps
from worker.store import tending
from worker.store.tending import Tended

# A step yields seconds to rest until its next turn; 0: it has more to do. Between two turns nothing is held.
Turns = Iterator[float]


class Lost(Exception):
    """The batch is no longer ours, or no longer in the state that was seen: whoever drives looks at it anew."""


@dataclass(frozen=True, slots=True)
class Desk:
    """`owner` is who tends; `wake` tells the engine of this process that there are new rows."""

    deps: Deps
    owner: str
    wake: Callable[[], None]

    def look(self, batch_id: str) -> Tended:
        """Raises Lost."""
        with self.deps.database.read() as conn:
            found = tending.tended(conn, batch_id, self.owner)
        if found is None:
            raise Lost
        return found
