"""How far somebody has read the results of a batch while it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

_PAIR: Final = r"[0-9]{1,2}\.[0-9]{1,9}"
_UNRUN: Final = r"~[0-9]{1,9}\.[0-9]{1,9}"
PATTERN: Final = f"^(start|{_PAIR}(-{_PAIR}){{0,19}}({_UNRUN})?|{_UNRUN})$"
_SHAPE: Final = re.compile(PATTERN)


@dataclass(frozen=True, slots=True)
class Cursor:
    """slots: how many ended lines of each slot are known

    part, at  where reading of the lines that never ran goes on: a part of the error file, and bytes into it
    """

    slots: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    part: int = 0
    at: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises ValueError."""
        if _SHAPE.fullmatch(text) is None:
            raise ValueError("is no cursor")
        if text == "start":
            return cls()
        ended, _, unrun = text.partition("~")
        pairs = [one.split(".") for one in ended.split("-") if one]
        part, at = unrun.split(".") if unrun else ("0", "0")
        return cls(MappingProxyType({int(slot): int(n) for slot, n in pairs}), int(part), int(at))

    def __str__(self) -> str:
        ended = "-".join(f"{slot}.{n}" for slot, n in sorted(self.slots.items()))
        unrun = f"~{self.part}.{self.at}" if self.part or self.at else ""
        return ended + unrun or "start"
