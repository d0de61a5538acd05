"""The wire format of OpenAI: chat completions and embeddings.

Also spoken by Groq, Moonshot (Kimi), the Hugging Face router, and by vLLM, SGLang, llama.cpp and TGI, each with its
own errors, usage fields and gaps. What differs between them is read leniently here; what one of them is known to
refuse is left out of its requests (`_Dialect`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Outcome
from worker.domain.failure import FailureKind
from worker.providers.classify import BY_STATUS
from worker.providers.error_body import read_error_body
from worker.providers.failures import failure_inside, read_failure
from worker.providers.format import USER_AGENT
from worker.providers.json_text import read_json
from worker.providers.openai_chat import read_chat
from worker.providers.openai_embeddings import read_embeddings
from worker.providers.openai_facts import facts_of
from worker.providers.openai_stream import BrokenStreamError, completion_of, is_event_stream

SCHEMA_NAME: Final = "answer"
_PATHS: Final = {"completion": "/chat/completions", "embedding": "/embeddings"}
_ENDPOINT: Final = ".endpoints.huggingface.cloud"

# A 404 that does not speak of a model is a wrong address. A sleeping endpoint of Hugging Face answers 503 (once 502).
_STATUSES: Final = MappingProxyType({**BY_STATUS, 404: FailureKind.BAD_REQUEST})
_ENDPOINT_STATUSES: Final = MappingProxyType({**_STATUSES, 502: FailureKind.LOADING, 503: FailureKind.LOADING})

_dumps: Final = json.JSONEncoder(separators=(",", ":")).encode  # ASCII: a lone surrogate cannot break it


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What one member of the family does not take, found by its host or by the model's name.

    drops          fields it answers with a 400
    renames        fields it knows by another name
    drops_of_turn  fields it refuses inside a message
    """

    drops: frozenset[str] = frozenset()
    renames: tuple[tuple[str, str], ...] = ()
    drops_of_turn: frozenset[str] = frozenset()


# Answers are stored whole: none is streamed.
_NEVER: Final = frozenset({"model", "stream", "stream_options"})
_ANY: Final = _Dialect(drops=_NEVER)
# `max_tokens` is deprecated, and a 400 with reasoning models.
_OPENAI: Final = _Dialect(drops=_NEVER, renames=(("max_tokens", "max_completion_tokens"),))
# Unknown properties are a 400, inside messages too, and clients send back the turns other providers gave them.
_GROQ: Final = _Dialect(
    drops=_NEVER | {"logprobs", "top_logprobs", "logit_bias", "store"},
    drops_of_turn=frozenset({"reasoning", "reasoning_content"}),
)
# Each model takes one value only, and which one varies: a caller cannot know it, least of all after a fallback.
_KIMI: Final = _Dialect(drops=_NEVER | {"temperature", "top_p", "n", "presence_penalty", "frequency_penalty"})


@lru_cache(maxsize=1024)
def _dialect(base_url: str, model: str) -> _Dialect:
    host = httpx.URL(base_url).host
    if host == "api.openai.com":
        return _OPENAI
    if host == "api.groq.com":
        return _GROQ
    return _KIMI if model.startswith("kimi-") else _ANY


@lru_cache(maxsize=1024)
def _address(base_url: str, path: str, key: str | None) -> tuple[httpx.URL, httpx.Headers]:
    """Where to, and all headers but the length. Hugging Face compares Content-Type and Accept as exact strings."""
    url = httpx.URL(base_url.rstrip("/") + path)
    headers = {
        "Host": url.netloc.decode("ascii"),
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": USER_AGENT,
    }
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return url, httpx.Headers(headers)


@dataclass(frozen=True, slots=True)
class OpenAIFormat:
    """`now` is asked only where a reply names a moment to wait for and shows no clock of its own."""

    now: Callable[[], datetime] = clock.now
    name: str = "openai"

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        url, headers = _address(call.base_url, _PATHS[call.kind], key)
        body = _dumps(_fields(call)).encode("ascii")
        request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))
        request.headers["Content-Length"] = str(len(body))  # of its own copy
        return request

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        if not 200 <= status < 300:
            by_status = _ENDPOINT_STATUSES if _ENDPOINT in call.base_url else _STATUSES
            return read_failure(status, headers, body, self.now(), by_status)
        try:
            streamed = is_event_stream(headers.get("content-type", ""), body)
            reply = completion_of(body) if streamed else read_json(body)
        except BrokenStreamError as broken:
            facts = facts_of(status, headers, broken.partial)
            if broken.error is not None:
                return failure_inside(facts, broken.error, self.now())
            return facts.failure(FailureKind.SERVER_ERROR, str(broken))
        except ValueError:
            told = read_error_body(body).message or "empty"
            return facts_of(status, headers, None).failure(FailureKind.SERVER_ERROR, f"a broken body: {told}")
        if isinstance(reply, dict) and (reply.get("error") or reply.get("object") == "error"):
            return failure_inside(facts_of(status, headers, reply), reply, self.now())
        if call.kind == "embedding":
            return read_embeddings(call, status, headers, reply)
        return read_chat(call, status, headers, reply)


def _fields(call: Call) -> dict[str, Any]:
    """The body: what the caller set, as this provider takes it, and `model`; a schema becomes a response format."""
    dialect = _dialect(call.base_url, call.model)
    taken = {name: value for name, value in call.input.items() if name not in dialect.drops}
    fields = {"model": call.model, **taken}
    for name, other in dialect.renames:
        if name in fields:
            value = fields.pop(name)
            fields.setdefault(other, value)
    if call.kind == "completion":
        _complete(fields, call, dialect)
    return fields


def _complete(fields: dict[str, Any], call: Call, dialect: _Dialect) -> None:
    prompt = fields.pop("prompt", None)
    if "messages" not in fields and prompt is not None:
        fields["messages"] = [{"role": "user", "content": prompt}]
    if dialect.drops_of_turn and isinstance(fields.get("messages"), list | tuple):
        fields["messages"] = [_turn(message, dialect.drops_of_turn) for message in fields["messages"]]
    if call.output_schema is not None:
        schema = {"name": SCHEMA_NAME, "schema": call.output_schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}


def _turn(message: Any, drops: frozenset[str]) -> Any:
    if not isinstance(message, Mapping) or drops.isdisjoint(message):
        return message
    return {name: value for name, value in message.items() if name not in drops}
