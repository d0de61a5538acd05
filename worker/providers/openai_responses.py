"""The wire format of OpenAI's Responses, also spoken by vLLM, SGLang and llama.cpp; embeddings are those of `openai`.

Portable fields it has no word for are left out: `seed`, `n`, penalties, `logit_bias`, `logprobs`. `stop` it has none
for either: the answer is cut here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Outcome
from worker.providers.format import refuse_task
from worker.providers.json_request import bearer, json_request
from worker.providers.openai import STATUSES, OpenAIFormat
from worker.providers.openai_responses_fields import fields_of
from worker.providers.openai_responses_output import facts_of, read_output
from worker.providers.openai_responses_stream import response_of
from worker.providers.reply import Shape, parsed


def _tells_error(reply: Any) -> bool:
    """A response that failed has a good status and its error inside."""
    return isinstance(reply, dict) and bool(reply.get("error") or reply.get("object") == "error")


_SHAPE: Final = Shape(facts_of, response_of, _tells_error)


@dataclass(frozen=True, slots=True)
class OpenAIResponsesFormat:
    """now  asked only where a reply names a moment to wait for and shows no clock of its own"""

    now: Callable[[], datetime] = clock.now
    name: str = "openai-responses"

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        if call.kind == "embedding":
            return OpenAIFormat(self.now).build_request(call, key)
        refuse_task(call, self.name)
        return json_request("POST", call.base_url.rstrip("/") + "/responses", bearer(key), fields_of(call))

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        if call.kind == "embedding":
            return OpenAIFormat(self.now).read_response(call, status, headers, body)
        reply = parsed(_SHAPE, status, headers, body, self.now(), STATUSES)
        return reply if isinstance(reply, Failure) else read_output(call, status, headers, reply)
