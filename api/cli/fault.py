"""How a command ends: its exit code, and what a person is told when it did not go well."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Scripts depend on these numbers; they never change."""

    OK = 0
    FAILED = 1
    USAGE = 2
    SOME_FAILED = 3
    CONFIG = 4  # settings, database or key: nothing a second try would mend
    TIMED_OUT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


class CliFault(Exception):
    """One sentence about what is wrong and one about the way out, for stderr."""

    def __init__(self, message: str, remedy: str | None = None, code: Exit = Exit.FAILED) -> None:
        self.message = message
        self.remedy = remedy
        self.code = code
        super().__init__(message)
