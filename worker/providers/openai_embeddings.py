"""Embeddings of the OpenAI family, parsed, read into vectors in the order of the inputs."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worker.domain.answer import Answer, Call, Outcome
from worker.domain.failure import FailureKind
from worker.providers.openai_facts import facts_of
from worker.providers.vectors import inputs_in, vector_of


def read_embeddings(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    """Floats or base64 (little-endian float32), sorted by `index`; fewer vectors than inputs are no answer."""
    facts = facts_of(status, headers, reply)
    data = reply.get("data") if isinstance(reply, dict) else None
    if data == []:
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without embeddings")
    try:
        vectors = [_vector(item) for item in _in_order(data)]
    except (ValueError, OverflowError) as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"the reply is no list of embeddings: {fault}")
    asked = inputs_in(call.input.get("input"))
    if len(vectors) < asked:
        return facts.failure(FailureKind.BAD_OUTPUT, f"{len(vectors)} embeddings for {asked} inputs")
    usage = facts.usage
    if usage.input_tokens is not None and usage.output_tokens is None:
        usage = replace(usage, output_tokens=0)  # nothing is generated
    return Answer(usage=usage, embeddings=vectors, model=facts.model, request_id=facts.request_id)


def _in_order(data: Any) -> list[dict[str, Any]]:
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise ValueError("no data")
    places = [item.get("index") for item in data]
    if set(map(type, places)) != {int}:
        return data
    if len(set(places)) != len(places):
        raise ValueError("two of one index")
    return sorted(data, key=lambda item: item["index"])


def _vector(item: Mapping[str, Any]) -> list[float]:
    numbers = item.get("embedding")
    if isinstance(numbers, str):
        vector = array("f", base64.b64decode(numbers, validate=True))
        if sys.byteorder == "big":
            vector.byteswap()
        numbers = vector.tolist()
    return vector_of(numbers)
