"""The wire format of OpenAI: chat completions and embeddings.

Also spoken by Groq, Moonshot (Kimi), the Hugging Face router, and by vLLM, SGLang, llama.cpp and TGI, each with its
own errors, usage fields and gaps. What differs between them is read leniently here; what one of them is known to
refuse is left out of its requests (`_Dialect`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Json, Outcome
from worker.domain.failure import FailureKind
from worker.providers.classify import BY_STATUS, ENDPOINT_STATUSES
from worker.providers.format import refuse_task
from worker.providers.json_request import bearer, json_request
from worker.providers.openai_chat import KIMI, MOONSHOT, read_chat
from worker.providers.openai_embeddings import read_embeddings
from worker.providers.openai_facts import facts_of
from worker.providers.openai_schema import named_schema
from worker.providers.openai_stream import completion_of
from worker.providers.portable import EXTRA
from worker.providers.reply import Shape, parsed

ONLY_MODEL: Final = "endpoint"  # stands for the one model of an endpoint whose name nobody told
_PATHS: Final = {"completion": "/chat/completions", "embedding": "/embeddings"}
_ENDPOINT: Final = ".endpoints.huggingface.cloud"

# A 404 that does not speak of a model is a wrong address.
STATUSES: Final = MappingProxyType({**BY_STATUS, 404: FailureKind.BAD_REQUEST})
_ENDPOINT_STATUSES: Final = MappingProxyType({**ENDPOINT_STATUSES, 404: FailureKind.BAD_REQUEST})


def _plain_turn(turn: Mapping[str, Json]) -> Mapping[str, Json]:
    return turn if EXTRA not in turn else {name: value for name, value in turn.items() if name != EXTRA}


# All that Groq knows of a message.
_GROQ_TURN: Final = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "function_call"})


def _groq_turn(turn: Mapping[str, Json]) -> Mapping[str, Json]:
    """Clients send back the turns that other providers gave them, and OpenAI's keeps fields that hold nothing."""
    if turn.keys() <= _GROQ_TURN and None not in turn.values():
        return turn
    return {
        name: value for name, value in turn.items() if name in _GROQ_TURN and (value is not None or name == "content")
    }


# Kimi refuses a turn that calls tools and says nothing of its thoughts, which another model's turn cannot.
_NO_THOUGHTS: Final = "."


def _kimi_turn(turn: Mapping[str, Json]) -> Mapping[str, Json]:
    plain = _plain_turn(turn)
    if not turn.get("tool_calls") or turn.get("reasoning_content"):
        return plain
    extra = turn.get(EXTRA)
    own = extra.get(MOONSHOT) if isinstance(extra, Mapping) else None
    thoughts = own.get("reasoning_content") if isinstance(own, Mapping) else None
    return {**plain, "reasoning_content": thoughts if isinstance(thoughts, str) and thoughts else _NO_THOUGHTS}


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What one member of the family does not take, found by its host or by the model's name.

    drops    fields it answers with a 400
    renames  fields it knows by another name
    turn     a message as it takes it
    """

    drops: frozenset[str] = frozenset()
    renames: tuple[tuple[str, str], ...] = ()
    turn: Callable[[Mapping[str, Json]], Mapping[str, Json]] = _plain_turn


# Answers are stored whole: none is streamed.
_NEVER: Final = frozenset({"model", "stream", "stream_options"})
_ANY: Final = _Dialect(drops=_NEVER)
# `max_tokens` is deprecated, and a 400 with reasoning models.
_OPENAI: Final = _Dialect(drops=_NEVER, renames=(("max_tokens", "max_completion_tokens"),))
# Unknown properties are a 400, inside messages too.
_GROQ: Final = _Dialect(drops=_NEVER | {"logprobs", "top_logprobs", "logit_bias", "store"}, turn=_groq_turn)
# Each model takes one value only, and which one varies: a caller cannot know it, least of all after a fallback.
_KIMI: Final = _Dialect(
    drops=_NEVER | {"temperature", "top_p", "n", "presence_penalty", "frequency_penalty"}, turn=_kimi_turn
)


@lru_cache(maxsize=1024)
def _dialect(base_url: str, model: str) -> _Dialect:
    host = httpx.URL(base_url).host
    if host == "api.openai.com":
        return _OPENAI
    if host == "api.groq.com":
        return _GROQ
    return _KIMI if model.startswith(KIMI) else _ANY


@dataclass(frozen=True, slots=True)
class OpenAIFormat:
    """now          asked only where a reply names a moment to wait for and shows no clock of its own
    is_endpoint  an Inference Endpoint, whatever its host is called: it sleeps, and serves one model, so that
                 ONLY_MODEL need not be named
    """

    now: Callable[[], datetime] = clock.now
    name: str = "openai"
    is_endpoint: bool = False

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        refuse_task(call, self.name)
        fields = _fields(call)
        if self.is_endpoint and call.model == ONLY_MODEL:
            del fields["model"]
        url = call.base_url.rstrip("/") + _PATHS[call.kind]
        return json_request("POST", url, bearer(key), fields)

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        by_status = _ENDPOINT_STATUSES if self.is_endpoint or _ENDPOINT in call.base_url else STATUSES
        reply = parsed(_SHAPE, status, headers, body, self.now(), by_status)
        if isinstance(reply, Failure):
            return reply
        if call.kind == "embedding":
            return read_embeddings(call, status, headers, reply)
        return read_chat(call, status, headers, reply)


def _tells_error(reply: Any) -> bool:
    return isinstance(reply, dict) and bool(reply.get("error") or reply.get("object") == "error")


_SHAPE: Final = Shape(facts_of, completion_of, _tells_error)


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
    if isinstance(fields.get("messages"), list | tuple):
        turn = dialect.turn
        fields["messages"] = [turn(each) if isinstance(each, Mapping) else each for each in fields["messages"]]
    if call.output_schema is not None:
        fields["response_format"] = {"type": "json_schema", "json_schema": named_schema(call.output_schema, call.input)}
