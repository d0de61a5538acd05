"""The wire format of Gemini (Developer API, v1beta): generateContent and batchEmbedContents.

Unknown fields are a 400, so portable fields it has no word for are left out: `n`, penalties, `logprobs`, `user`,
`reasoning_effort`, `parallel_tool_calls`. The key goes into a header, never into the address, which reaches logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Outcome
from worker.providers.format import refuse_task
from worker.providers.gemini_candidate import facts_of, read_candidate
from worker.providers.gemini_embeddings import embedding_fields, read_embeddings
from worker.providers.gemini_fields import fields_of
from worker.providers.gemini_stream import response_of
from worker.providers.json_request import json_request
from worker.providers.reply import Shape, parsed

_COLLECTIONS: Final = ("models/", "tunedModels/")


def _tells_error(reply: Any) -> bool:
    """The error may be wrapped in an array."""
    first = reply[0] if isinstance(reply, list) and reply else reply
    return isinstance(first, dict) and bool(first.get("error"))


_SHAPE: Final = Shape(facts_of, response_of, _tells_error)


@dataclass(frozen=True, slots=True)
class GeminiFormat:
    """now  asked only where a reply names a moment to wait for and shows no clock of its own"""

    now: Callable[[], datetime] = clock.now
    name: str = "gemini"

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        refuse_task(call, self.name)
        collection, name = _resource(call.model)
        if call.kind == "embedding":
            method, fields = "batchEmbedContents", embedding_fields(collection + name, call.input)
        else:
            method, fields = "generateContent", fields_of(call)
        # The name may come from a request: quoted, it cannot lead to another address.
        url = f"{call.base_url.rstrip('/')}/{collection}{quote(name, safe='', errors='replace')}:{method}"
        return json_request("POST", url, () if key is None else (("x-goog-api-key", key),), fields)

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        reply = parsed(_SHAPE, status, headers, body, self.now())
        if isinstance(reply, Failure):
            return reply
        read = read_embeddings if call.kind == "embedding" else read_candidate
        return read(call, status, headers, reply)


def _resource(model: str) -> tuple[str, str]:
    """`gemini-x`, `models/gemini-x` and `tunedModels/x` as the API names them: what they are of, and the name."""
    collection = next((each for each in _COLLECTIONS if model.startswith(each)), "models/")
    return collection, model.removeprefix(collection)
