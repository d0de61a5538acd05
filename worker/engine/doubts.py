"""Claims that may have been committed although we were not told: this worker lives on, so no sweep would free them."""

from __future__ import annotations

from typing import Any, Final

from worker import clock, events
from worker.store import settling

LOOK_S: Final = 10.0  # a commit that was under way in a frozen server may come after our next statement


class Doubts:
    """Added to by any thread; looked for by those that claim."""

    def __init__(self) -> None:
        self._since_s: dict[str, float | None] = {}  # by claim: when it was first looked for, on the steady clock

    def add(self, claim_id: str) -> None:
        """The connection broke in the transaction that made this claim."""
        self._since_s[claim_id] = None

    def __bool__(self) -> bool:
        return bool(self._since_s)

    def resolve(self, conn: Any, worker_id: str) -> None:
        """Give back what such claims hold; for LOOK_S after the database is back."""
        freed = settling.disown(conn, worker_id, list(self._since_s))
        if freed:
            events.emit("claim.disowned", level="warning", jobs=freed)
        now_s = clock.monotonic_s()
        for claim_id, since_s in list(self._since_s.items()):
            if since_s is None:
                self._since_s[claim_id] = now_s
            elif now_s - since_s > LOOK_S:
                self._since_s.pop(claim_id, None)
