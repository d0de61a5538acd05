"""What a wire format is: two pure functions, from a call to a request and from a reply to an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import httpx

from worker.domain.answer import Call, Outcome

USER_AGENT: Final = "completar/0.1.0"  # the version of pyproject.toml; a test compares them


# A completion may name a task of Hugging Face instead of a conversation; only its own formats know what that is.
TASK_FIELDS: Final = frozenset({"task", "inputs", "parameters", "query", "texts"})


class Unfit(ValueError):
    """A target cannot take what is asked of it, and is passed over without a call.

    The message is a sentence for the record: "format tei generates no text".
    """


class Format(Protocol):
    """How one family of providers is spoken to. Neither method does I/O."""

    @property
    def name(self) -> str: ...

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        """The whole request: full URL, every header, body. `key` None sends no credential.

        Raises httpx.InvalidURL if `call.base_url` is no URL, and Unfit.
        """
        ...

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """What the reply means; `headers` have lower-case names. Never raises, whatever the bytes."""
        ...


def refuse_task(call: Call, format_name: str) -> None:
    """For formats that only converse. Raises Unfit."""
    asked = sorted(TASK_FIELDS & call.input.keys()) if call.kind == "completion" else []
    if asked:
        raise Unfit(f"format {format_name} takes a conversation, not {', '.join(asked)}")
