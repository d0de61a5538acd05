"""The models of the sandbox, and its answer to any request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

from worker.providers.sandbox.asking import Ask, Json, Request, fault_of, is_schema, schemas_of
from worker.providers.sandbox.behaviours import BEHAVIOURS, Seen, by_pattern
from worker.providers.sandbox.bodies import CREATED, Reply, bad, error, json_reply, not_allowed

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
        return json_reply(_models()) if request.method == "GET" else not_allowed("GET")
    if path not in ("/v1/chat/completions", "/v1/embeddings"):
        return error(404, f"There is nothing at {path[:100]}.", "invalid_request_error", code="unknown_url")
    if request.method != "POST":
        return not_allowed("POST")
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return bad("The body is not JSON.")
    if not isinstance(body, dict):
        return bad("The body must be a JSON object.")
    embedding = path == "/v1/embeddings"
    fault = fault_of(body, embedding=embedding)
    if fault is not None:
        return bad(f"Not a request the sandbox understands: {fault}.", fault.split()[0])
    model = body["model"]
    for field, schema in schemas_of(body):
        if not is_schema(schema):
            return bad("This is no JSON Schema.", field)
    behaviour = BEHAVIOURS.get(model) or by_pattern(model)
    if behaviour is None:
        message = f"The model `{model[:100]}` does not exist. There are: {', '.join(MODELS)}."
        return error(404, message, "invalid_request_error", "model", "model_not_found")
    job = request.headers.get("x-completar-job", digest.hex())
    return behaviour(Ask(embedding, model, body, digest, f"{model} {path} {job}"), seen)


def _models() -> Json:
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "sandbox"} for name in MODELS]
    return {"object": "list", "data": data}
