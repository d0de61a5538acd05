"""What each model of the sandbox does with a request. Pure but for `Seen`, which counts tries."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b, shake_128
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import jsonschema_rs

from worker.domain.money import estimate_tokens
from worker.providers.sandbox import panelist
from worker.providers.sandbox.instance import instance

Json = Any
Ending = Literal["answer", "silence", "cut", "reset"]

MODELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "echo": "Answers at once with what you wrote.",
        "slow-2s": "Answers after two seconds. Any slow-<n>s or slow-<n>ms works.",
        "flaky-30": "30 of 100 requests fail once with 503, then answer. Any flaky-<percent> works.",
        "rate-limited": "Says 429 with retry-after: 1 twice, then answers.",
        "always-rate-limited": "Says 429 with retry-after: 1 every time.",
        "fail-503-twice": "Fails with 503 twice, then answers. Any fail-<status>, -once or -twice works.",
        "fail-500-once": "Fails with 500 once, then answers.",
        "fail-400": "Refuses every request as malformed.",
        "fail-401": "Refuses every key.",
        "quota": "Says that the account's money is spent (429 insufficient_quota).",
        "context-too-long": "Says that the prompt exceeds its context window.",
        "silent": "Takes the request and never says anything.",
        "cut": "Closes the connection in the middle of the body.",
        "reset": "Resets the connection before the first byte.",
        "empty": "Answers 200 with no text.",
        "html": "Answers 200 with a web page, as a proxy in the way would.",
        "nul": "Puts U+0000 into its text.",
        "invalid-utf8": "Answers bytes that are no UTF-8.",
        "big": "Answers a body of 50 MB.",
        "json": "Answers JSON; with a schema in response_format, a value that fits it.",
        "json-broken": "Answers JSON that stops half-way.",
        "tools": "Calls the first of the tools it is given.",
        "length": "Stops in mid-sentence with finish_reason length.",
        "refuse": "Declines to answer.",
        "filtered": "Has its answer withheld by a content filter.",
        "panelist-80": "Votes in predictions, right 80 times in 100. Any panelist-<percent>, -bold and -shy work.",
        "embed": "Embeddings: a unit vector of eight numbers for each input.",
    }
)

_NAME: Final = "[sandbox] "
_CREATED: Final = 1_767_225_600  # 2026-01-01: the same request has the same answer, to the byte
_BIG: Final = 50_000_000
_REMEMBERED: Final = 100_000
_DIMENSIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


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


class Seen:
    """How often each request was tried; the oldest are forgotten."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, int] = OrderedDict()

    def before(self, identity: str) -> int:
        """How often it came before this time."""
        times = self._times.pop(identity, 0)
        self._times[identity] = times + 1
        if len(self._times) > _REMEMBERED:
            self._times.popitem(last=False)
        return times


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request that was understood. `identity`: the same for every try of the same thing."""

    embedding: bool
    model: str
    body: Mapping[str, Json]
    digest: bytes
    identity: str


_Behaviour = Callable[[_Ask, Seen], Reply]


def reply(request: Request, seen: Seen, latency_s: tuple[float, float] = (0.0, 0.0)) -> Reply:
    """The answer to a request: a function of its body and of how often it was seen.

    latency_s  the range from which each request that is not answered later anyway gets its delay, by its hash
    """
    digest = blake2b(request.body, digest_size=16).digest()
    given = _reply(request, digest, seen)
    low, high = latency_s
    if high > 0 and not given.delay_s:
        given = replace(given, delay_s=low + (high - low) * digest[0] / 255)
    return replace(given, headers=(("x-request-id", f"req_sandbox_{digest.hex()}"), *given.headers))


def _reply(request: Request, digest: bytes, seen: Seen) -> Reply:
    path = request.path.partition("?")[0]
    if path == "/v1/models":
        return _json(_models()) if request.method == "GET" else _not_allowed("GET")
    if path not in ("/v1/chat/completions", "/v1/embeddings"):
        return _error(404, f"There is nothing at {path[:100]}.", "invalid_request_error", code="unknown_url")
    if request.method != "POST":
        return _not_allowed("POST")
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return _bad("The body is not JSON.")
    if not isinstance(body, dict):
        return _bad("The body must be a JSON object.")
    embedding = path == "/v1/embeddings"
    fault = _fault(body, embedding=embedding)
    if fault is not None:
        return _bad(f"Not a request the sandbox understands: {fault}.", fault.split()[0])
    model = body["model"]
    for field, schema in _schemas(body):
        if not _is_schema(schema):
            return _bad("This is no JSON Schema.", field)
    behaviour = _BEHAVIOURS.get(model) or _by_pattern(model)
    if behaviour is None:
        message = f"The model `{model[:100]}` does not exist. There are: {', '.join(MODELS)}."
        return _error(404, message, "invalid_request_error", "model", "model_not_found")
    job = request.headers.get("x-completar-job", digest.hex())
    return behaviour(_Ask(embedding, model, body, digest, f"{model} {path} {job}"), seen)


def _fault(body: Mapping[str, Json], *, embedding: bool) -> str | None:
    """What is wrong with a body, its first word being the field; None when nothing is."""
    if not isinstance(body.get("model"), str):
        return "model must be a string"
    if embedding:
        return "input must be text or tokens, one or a list" if _items(body.get("input")) is None else None
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        return "messages must be a list of objects, at least one"
    return "stream is not offered" if body.get("stream") else None


def _items(given: Json) -> list[Json] | None:
    """What is to be embedded, each a text or a text's tokens; None for what is neither."""
    items = [given] if isinstance(given, str) or _are_tokens(given) else given
    if isinstance(items, list) and items and all(isinstance(item, str) or _are_tokens(item) for item in items):
        return items
    return None


def _are_tokens(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(token, int) for token in value)


def _schemas(body: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """Every schema of a body, with the field it stands in."""
    form = body.get("response_format")
    asked = form.get("json_schema") if isinstance(form, dict) else None
    if isinstance(asked, dict) and "schema" in asked:
        yield "response_format", asked["schema"]
    for function in _functions(body):
        yield "tools", function.get("parameters", {})


def _functions(body: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    tools = body.get("tools")
    offered = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return [function for function in offered if isinstance(function, dict)]


def _is_schema(schema: Json) -> bool:
    if isinstance(schema, dict):  # a `$schema` that the library does not know, it would fetch
        schema = {name: value for name, value in schema.items() if name != "$schema"}
    return jsonschema_rs.meta.is_valid(schema)


# What models do


def _good(ask: _Ask, seen: Seen) -> Reply:  # noqa: ARG001 - every behaviour is called alike
    if ask.embedding:
        return _json(_embeddings(ask))
    form = ask.body.get("response_format")
    wants_json = isinstance(form, dict) and form.get("type") in ("json_schema", "json_object")
    text = _as_json(ask) if wants_json else f"{_NAME}No model was asked. You wrote: {_last_text(ask)}"
    most = ask.body.get("max_completion_tokens", ask.body.get("max_tokens"))
    if isinstance(most, int) and 0 < most < estimate_tokens(len(text)):
        return _chat(ask, text[: most * 4], "length")
    return _chat(ask, text)


def _after(delay_s: float, ask: _Ask, seen: Seen) -> Reply:
    return replace(_good(ask, seen), delay_s=delay_s)


def _failing(status: int, times: float, ask: _Ask, seen: Seen) -> Reply:
    """The error of a status the first `times` times, then an answer."""
    if seen.before(ask.identity) >= times:
        return _good(ask, seen)
    kind, code, text = _ERRORS.get(status, _OTHER_ERRORS[status >= 500])
    wait = (("retry-after", "1"), ("x-ratelimit-remaining-requests", "0")) if status == 429 else ()
    return replace(_error(status, text, kind, code=code), headers=wait)


def _flaky(percent: int, ask: _Ask, seen: Seen) -> Reply:
    chosen = int.from_bytes(blake2b(ask.identity.encode(errors="replace"), digest_size=4).digest()) % 100 < percent
    return _failing(503, 1, ask, seen) if chosen else _good(ask, seen)


def _quota(ask: _Ask, seen: Seen) -> Reply:  # noqa: ARG001
    text = "You exceeded your current quota, please check your plan and billing details."
    return _error(429, text, "insufficient_quota", code="insufficient_quota")


def _too_long(ask: _Ask, seen: Seen) -> Reply:  # noqa: ARG001
    text = f"This model's maximum context length is 16 tokens. Your messages came to {_prompt_tokens(ask) + 16}."
    return _error(400, text, "invalid_request_error", "messages", "context_length_exceeded")


def _ended(ending: Ending, ask: _Ask, seen: Seen) -> Reply:
    return replace(_good(ask, seen), ending=ending)


def _said(text: str, ask: _Ask, seen: Seen) -> Reply:
    return _good(ask, seen) if ask.embedding else _chat(ask, text)


def _html(ask: _Ask, seen: Seen) -> Reply:  # noqa: ARG001
    page = f"<!doctype html><title>{_NAME}</title><p>{_NAME}Please sign in to the network."
    return Reply(body=page.encode(), content_type="text/html; charset=utf-8")


def _no_utf8(ask: _Ask, seen: Seen) -> Reply:
    good = _said(f"{_NAME}caf?", ask, seen)
    return replace(good, body=good.body.replace(b"caf?", b"caf\xe9\xff") + b"\xff" * ask.embedding)


def _big(ask: _Ask, seen: Seen) -> Reply:
    before, rest = _good(ask, seen).body.removesuffix(b"}") + b',"padding":"', b'"}'
    return Reply(body=before, filler=_BIG - len(before) - len(rest), rest=rest)


def _json_text(ask: _Ask, seen: Seen) -> Reply:
    return _said(_as_json(ask), ask, seen)


def _broken_json(ask: _Ask, seen: Seen) -> Reply:
    text = _as_json(ask)
    return _said(text[: len(text) // 2 + 1].rstrip("}]"), ask, seen)


def _panelist(percent: int, manner: panelist.Manner, ask: _Ask, seen: Seen) -> Reply:
    for field, schema in _schemas(ask.body):
        said = panelist.vote(_last_text(ask), schema, percent, manner) if isinstance(schema, dict) else None
        if field == "response_format" and said is not None:
            return _said(said, ask, seen)
    return _good(ask, seen)


def _tools(ask: _Ask, seen: Seen) -> Reply:
    call = _tool_call(ask)
    if call is None:
        return _good(ask, seen)
    return _chat(ask, None, "tool_calls", {"tool_calls": [call]})


def _length(ask: _Ask, seen: Seen) -> Reply:
    if ask.embedding:
        return _good(ask, seen)
    text = f"{_NAME}You wrote: {_last_text(ask)}"
    return _chat(ask, text[: max(len(_NAME) + 4, len(text) // 2)], "length")


def _refuse(ask: _Ask, seen: Seen) -> Reply:
    return _good(ask, seen) if ask.embedding else _chat(ask, None, "stop", {"refusal": f"{_NAME}I'd rather not."})


def _filtered(ask: _Ask, seen: Seen) -> Reply:
    return _good(ask, seen) if ask.embedding else _chat(ask, "", "content_filter")


def _embed(ask: _Ask, seen: Seen) -> Reply:
    if ask.embedding:
        return _good(ask, seen)
    text = "This is not a chat model: ask /v1/embeddings."
    return _error(404, text, "invalid_request_error", "model", "model_not_found")


_BEHAVIOURS: Final[Mapping[str, _Behaviour]] = {
    "echo": _good,
    "rate-limited": partial(_failing, 429, 2),
    "always-rate-limited": partial(_failing, 429, math.inf),
    "quota": _quota,
    "context-too-long": _too_long,
    "silent": partial(_ended, "silence"),
    "cut": partial(_ended, "cut"),
    "reset": partial(_ended, "reset"),
    "empty": partial(_said, ""),
    "html": _html,
    "nul": partial(_said, f"{_NAME}before\0after"),
    "invalid-utf8": _no_utf8,
    "big": _big,
    "json": _json_text,
    "json-broken": _broken_json,
    "tools": _tools,
    "length": _length,
    "refuse": _refuse,
    "filtered": _filtered,
    "embed": _embed,
}
_PATTERN: Final = re.compile(
    r"slow-(?P<wait>\d{1,5}(?:\.\d{1,3})?)(?P<unit>m?s)"
    r"|flaky-(?P<percent>\d{1,2}|100)"
    r"|fail-(?P<status>[45]\d\d)(?P<times>-once|-twice)?"
)
_TIMES: Final = {None: math.inf, "-once": 1, "-twice": 2}


def _by_pattern(model: str) -> _Behaviour | None:
    member = panelist.NAME.fullmatch(model)
    if member is not None:
        return partial(_panelist, int(member["percent"]), cast("panelist.Manner", member["manner"] or ""))
    match = _PATTERN.fullmatch(model)
    if match is None:
        return None
    if match["wait"]:
        return partial(_after, float(match["wait"]) / (1000 if match["unit"] == "ms" else 1))
    if match["percent"]:
        return partial(_flaky, int(match["percent"]))
    return partial(_failing, int(match["status"]), _TIMES[match["times"]])


# Bodies

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


def _json(value: Json) -> Reply:
    return Reply(body=json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))


def _error(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> Reply:
    fault = {"message": _NAME + message, "type": kind, "param": param, "code": code}
    return replace(_json({"error": fault}), status=status)


def _bad(message: str, param: str | None = None) -> Reply:
    return _error(400, message, "invalid_request_error", param)


def _not_allowed(method: str) -> Reply:
    refused = _error(405, f"Only {method} is allowed here.", "invalid_request_error", code="method_not_supported")
    return replace(refused, headers=(("allow", method),))


def _models() -> Json:
    data = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "sandbox"} for name in MODELS]
    return {"object": "list", "data": data}


def _chat(ask: _Ask, text: str | None, finish: str = "stop", more: Mapping[str, Json] = MappingProxyType({})) -> Reply:
    said = text if text is not None else json.dumps(dict(more))
    tokens_in, tokens_out = _prompt_tokens(ask), estimate_tokens(len(said))
    message = {"role": "assistant", "content": text, "refusal": None, **more}
    return _json(
        {
            "id": f"chatcmpl-sandbox-{ask.digest.hex()}",
            "object": "chat.completion",
            "created": _CREATED,
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


def _as_json(ask: _Ask) -> str:
    for field, schema in _schemas(ask.body):
        if field == "response_format":
            return json.dumps(instance(schema, ask.digest), ensure_ascii=False)
    return json.dumps({"sandbox": True, "you_wrote": _last_text(ask)}, ensure_ascii=False)


def _tool_call(ask: _Ask) -> Json:
    """A call of the tool that was asked for, else of the first; None where none fits or its result has come."""
    functions = _functions(ask.body)
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


def _embeddings(ask: _Ask) -> Json:
    items = _items(ask.body["input"]) or []
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


def _last_text(ask: _Ask) -> str:
    users = [message for message in ask.body.get("messages", ()) if message.get("role") == "user"]
    return _text(users[-1]) if users else ""


def _text(message: Mapping[str, Json]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _prompt_tokens(ask: _Ask) -> int:
    return estimate_tokens(sum(len(_text(message)) for message in ask.body.get("messages", ())))
