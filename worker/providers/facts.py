"""What a reply tells besides its answer: who served, under which id, for how many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.redaction import one_line

ID_CUT: Final = 200  # characters of a request id or a model name
_MOST_TOKENS: Final = 2**31 - 1  # more in one call is a provider's mistake, and no column holds it


@dataclass(frozen=True, slots=True)
class Facts:
    status: int
    usage: Usage = NO_USAGE
    model: str | None = None
    request_id: str | None = None

    def failure(self, kind: FailureKind, message: str) -> Failure:
        """The failure of a reply that had a good status."""
        return Failure(
            kind,
            one_line(message),
            http_status=self.status,
            usage=self.usage,
            model=self.model,
            request_id=self.request_id,
        )


def request_id(headers: Mapping[str, str], *others: Any) -> str | None:
    """The provider's id of this call, for its support: a header's, else the first of `others` that is one."""
    for value in (headers.get("x-request-id"), headers.get("request-id"), *others):
        if name := name_of(value):
            return name
    return None


def name_of(value: Any) -> str | None:
    """A short identifier out of a reply (a model, an id), or None if it is none."""
    if not isinstance(value, str) or not value:
        return None
    return value if len(value) <= ID_CUT and value.isprintable() else one_line(value, ID_CUT) or None


def token_count(value: Any) -> int | None:
    """A count as providers report it, or None where it can be none."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def header_count(headers: Mapping[str, str], name: str) -> int | None:
    """A count that a header tells."""
    digits = headers.get(name, "").strip()
    return token_count(int(digits)) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else None
