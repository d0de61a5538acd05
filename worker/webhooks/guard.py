"""Whether a user's URL may be stored: its spelling, and what its name stands for just now. Nobody is contacted.

A name that cannot be resolved yet is let through: the sender judges again at each connection, and that is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from worker.clock import monotonic_s
from worker.webhooks.address import Refused, Rules, parse, vet
from worker.webhooks.lookup import Lookups

WITHIN_S: Final = 2.0  # for all the names of one request
KNOWN_S: Final = 60.0  # a URL that was let through is not looked up again for so long
_MOST_KNOWN: Final = 10_000

Ask = Callable[[str, int], Future[Sequence[str]]]


class Guard:
    """One per process. Thread-safe."""

    def __init__(self, rules: Rules, ask: Ask | None = None) -> None:
        self._rules = rules
        self._ask = Lookups().ask if ask is None else ask
        self._known: dict[str, float] = {}

    def check(self, text: str) -> None:
        """Raises Refused with what is wrong with it."""
        for exc in self.refused([text]).values():
            raise exc

    def refused(self, texts: Iterable[str]) -> dict[str, Refused]:
        """Those that may not be called, and why."""
        begun_s = monotonic_s()
        found: dict[str, Refused] = {}
        asked = {}
        for text in dict.fromkeys(texts):
            if self._known.get(text, 0.0) > begun_s:
                continue
            try:
                url = parse(text, self._rules)
            except Refused as exc:
                found[text] = exc
                continue
            if url.literal is None:
                asked[text] = url, self._ask(url.look_up, url.port)
        for text, (url, answer) in asked.items():
            try:
                addresses = answer.result(max(0.0, begun_s + WITHIN_S - monotonic_s()))
                if addresses:
                    vet(url, addresses, self._rules)
                    self._know(text, begun_s)
            except (OSError, TimeoutError):
                continue
            except Refused as exc:
                found[text] = exc
        return found

    def _know(self, text: str, now_s: float) -> None:
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[text] = now_s + KNOWN_S
