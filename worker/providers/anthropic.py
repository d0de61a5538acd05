"""The wire format of Anthropic: Messages. Also spoken by vLLM, SGLang and llama.cpp.

Portable fields it has no word for are left out, as Anthropic itself does behind its OpenAI-compatible address: `seed`,
`n`, penalties, `logprobs`, `user`, `reasoning_effort`, `response_format` without a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Outcome
from worker.providers.anthropic_fields import fields_of
from worker.providers.anthropic_message import facts_of, read_message
from worker.providers.anthropic_stream import message_of
from worker.providers.format import Unfit, refuse_task
from worker.providers.json_request import json_request
from worker.providers.reply import Shape, parsed

# 2026-10-21, the default of newer SDKs, refuses sampling parameters whatever the model.
VERSION: Final = "2023-06-01"


def _tells_error(reply: Any) -> bool:
    return isinstance(reply, dict) and bool(reply.get("type") == "error" or reply.get("error"))


_SHAPE: Final = Shape(facts_of, message_of, _tells_error)


@dataclass(frozen=True, slots=True)
class AnthropicFormat:
    """now  asked only where a reply names a moment to wait for and shows no clock of its own"""

    now: Callable[[], datetime] = clock.now
    name: str = "anthropic"

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        refuse_task(call, self.name)
        if call.kind == "embedding":
            raise Unfit(f"format {self.name} has no embeddings")
        credential = () if key is None else (("x-api-key", key),)
        url = call.base_url.rstrip("/") + "/messages"
        return json_request("POST", url, (*credential, ("anthropic-version", VERSION)), fields_of(call))

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        reply = parsed(_SHAPE, status, headers, body, self.now())
        return reply if isinstance(reply, Failure) else read_message(call, status, headers, reply)
