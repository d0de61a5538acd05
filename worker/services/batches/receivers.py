"""Whether the webhooks of one file's lines may be called. A file may name a receiver in each of a million lines, and
whoever reads it reads the files of everybody else too: names are looked up once, and not for ever.
"""

from __future__ import annotations

from typing import Final

from worker import clock
from worker.webhooks.address import Refused, Rules, parse
from worker.webhooks.guard import Ask, Guard

PATIENCE_S: Final = 4.0  # of looking up names, over all of a file; the last look may take `guard.WITHIN_S` more
MOST_KNOWN: Final = 10_000


class Receivers:
    """One for each file. What was found of a name holds for the whole file, also that nothing was."""

    def __init__(self, rules: Rules, ask: Ask | None = None) -> None:
        self._rules = rules
        self._guard = Guard(rules, ask)
        self._known: dict[tuple[str, bool], Refused | None] = {}
        self._left_s = PATIENCE_S

    def refusal(self, text: str) -> Refused | None:
        """Why this URL may not be called. A name that cannot be resolved in time is let through, as `Guard` does."""
        try:
            url = parse(text, self._rules)
        except Refused as exc:
            return exc
        if url.literal is not None:
            return None
        name = url.host, url.private  # all of a URL that what its name stands for is judged by
        if name in self._known:
            return self._known[name]
        if self._left_s <= 0.0:
            return None
        begun_s = clock.monotonic_s()
        found = self._guard.refused([text]).get(text)
        self._left_s -= clock.monotonic_s() - begun_s
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[name] = found
        return found
