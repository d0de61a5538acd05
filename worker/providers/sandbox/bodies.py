"""The bodies of the sandbox's answers, in OpenAI's form."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import shake_128
from types import MappingProxyType
from typing import Final, Literal

from worker.domain.money import estimate_tokens
from worker.providers.sandbox.asking import Ask, Json, functions_of, last_text, prompt_tokens, schemas_of, to_embed
from worker.providers.sandbox.instance import instance

Ending = Literal["answer", "silence", "cut", "reset"]

NAME: Final = "[sandbox] "
CREATED: Final = 1_767_225_600  # 2026-01-01: the same request has the same answer, to the byte
_DIMENSIONS: Final = 8
_ERRORS: Final[Mapping[int, tuple[str, str | None, str]]] = {
    400: ("invalid_request_error", None, "The request is not to the model's taste."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("permission_error", "permission_denied", "This key may not use the model."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again in 1s."),
    503: ("service_unavailable_error", "server_is_overloaded", "The server is overloaded. Please try again later."),
}
_OTHER_ERRORS: Final[tuple[tuple[str, str | None, str], ...]] = (
    ("invalid_request_error", None, "The request was refused."),
    ("server_error", None, "The server had an error."),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What to send, and how.

    filler   this many bytes `x` stand between `body` and `rest`
    delay_s  before the first byte
    ending   cut: half of the body, then the end; reset: no byte at all
    """

    status: int = 200
    body: bytes = b""
    filler: int = 0
    rest: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    delay_s: float = 0.0
    ending: Ending = "answer"


def json_reply(value: Json) -> Reply:
    return Reply(body=json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))


def error(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> Reply:
    fault = {"message": NAME + message, "type": kind, "param": param, "code": code}
    return replace(json_reply({"error": fault}), status=status)


def error_of(status: int) -> Reply:
    """The error that usually comes with a status."""
    kind, code, text = _ERRORS.get(status, _OTHER_ERRORS[status >= 500])
    return error(status, text, kind, code=code)


def bad(message: str, param: str | None = None) -> Reply:
    return error(400, message, "invalid_request_error", param)


def not_allowed(method: str) -> Reply:
    refused = error(405, f"Only {method} is allowed here.", "invalid_request_error", code="method_not_supported")
    return replace(refused, headers=(("allow", method),))


def chat(ask: Ask, text: str | None, finish: str = "stop", more: Mapping[str, Json] = MappingProxyType({})) -> Reply:
    said = text if text is not None else json.dumps(dict(more))
    tokens_in, tokens_out = prompt_tokens(ask), estimate_tokens(len(said))
    message = {"role": "assistant", "content": text, "refusal": None, **more}
    return json_reply(
        {
            "id": f"chatcmpl-sandbox-{ask.digest.hex()}",
            "object": "chat.completion",
            "created": CREATED,
            "model": ask.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
            "system_fingerprint": "sandbox",
        }
    )


def as_json(ask: Ask) -> str:
    for field, schema in schemas_of(ask.body):
        if field == "response_format":
            return json.dumps(instance(schema, ask.digest), ensure_ascii=False)
    return json.dumps({"sandbox": True, "you_wrote": last_text(ask)}, ensure_ascii=False)


def tool_call(ask: Ask) -> Json:
    """A call of the tool that was asked for, else of the first; None where none fits or its result has come."""
    functions = functions_of(ask.body)
    choice = ask.body.get("tool_choice")
    if choice == "none" or ask.embedding or ask.body["messages"][-1].get("role") == "tool":
        return None
    if isinstance(choice, dict):
        named = choice.get("function")
        functions = [each for each in functions if isinstance(named, dict) and each.get("name") == named.get("name")]
    if not functions:
        return None
    arguments = instance(functions[0].get("parameters", {"type": "object"}), ask.digest)
    called = {"name": functions[0].get("name"), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_sandbox_{ask.digest.hex()[:16]}", "type": "function", "function": called}


def embeddings(ask: Ask) -> Json:
    items = to_embed(ask.body["input"]) or []
    asked = ask.body.get("dimensions")
    dimensions = asked if isinstance(asked, int) and 0 < asked <= 4096 else _DIMENSIONS
    packed = ask.body.get("encoding_format") == "base64"
    vectors = [_vector(item, dimensions) for item in items]
    data = [
        {"object": "embedding", "index": i, "embedding": _pack(vector) if packed else vector}
        for i, vector in enumerate(vectors)
    ]
    tokens = sum(estimate_tokens(len(item)) if isinstance(item, str) else len(item) for item in items)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": ask.model, "usage": usage}


def _vector(item: Json, dimensions: int) -> list[float]:
    """A unit vector that the item alone decides."""
    raw = shake_128(json.dumps(item).encode()).digest(2 * dimensions)
    numbers = [number + 0.5 for number in struct.unpack(f"<{dimensions}h", raw)]  # never all zero
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def _pack(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
