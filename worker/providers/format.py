"""What a wire format is: two pure functions, from a call to a request and from a reply to an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import httpx

from worker.domain.answer import Call, Outcome

USER_AGENT: Final = "completar/0.1.0"  # the version of pyproject.toml; a test compares them


class Format(Protocol):
    """How one family of providers is spoken to. Neither method does I/O."""

    @property
    def name(self) -> str: ...

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        """The whole request: full URL, every header, body. `key` None sends no credential.

        Raises httpx.InvalidURL if `call.base_url` is no URL.
        """
        ...

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """What the reply means; `headers` have lower-case names. Never raises, whatever the bytes."""
        ...
