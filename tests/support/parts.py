"""Parts of the outside world that a machine may lack. A test that needs one skips, and the run ends by saying so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_REASON: Final = re.compile(r"MISSING PART (\S+): (.*)", re.DOTALL)


class PartMissing(Exception):
    """`part` cannot be had on this machine; `why` says what was looked for and how to get it."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"MISSING PART {part}: {why}")


def losses(skip_reasons: Iterable[str]) -> list[str]:
    """One line per missing part with the number of tests it cost, from the reasons of all skipped tests."""
    found = [match.groups() for reason in skip_reasons if (match := _REASON.search(reason))]
    return [f"{part}: {count} tests ({why})" for (part, why), count in sorted(Counter(found).items())]
