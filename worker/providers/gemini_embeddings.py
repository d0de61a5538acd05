"""Gemini's batchEmbedContents, for one input as for many (it takes up to 100)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.domain.answer import Answer, Call, Json, Outcome
from worker.domain.failure import FailureKind
from worker.providers.format import Unfit
from worker.providers.gemini_candidate import facts_of
from worker.providers.vectors import vectors_in


def embedding_fields(resource: str, request: Mapping[str, Json]) -> dict[str, Any]:
    """`resource` is the model as the API names it. Raises Unfit."""
    given = request.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise Unfit("format gemini embeds texts, not tokens")
    size = request.get("dimensions")
    more = {} if size is None else {"outputDimensionality": size}
    return {"requests": [{"model": resource, "content": {"parts": [{"text": text}]}, **more} for text in texts]}


def read_embeddings(call: Call, status: int, headers: Mapping[str, str], reply: Any) -> Outcome:
    """In the order of the inputs."""
    facts = facts_of(status, headers, reply)
    given = reply.get("embeddings") if isinstance(reply, dict) else None
    if given == []:
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without embeddings")
    try:
        vectors = vectors_in([one.get("values") for one in _objects(given)], call.input.get("input"))
    except (ValueError, OverflowError) as fault:
        return facts.failure(FailureKind.BAD_OUTPUT, f"the reply is no list of embeddings: {fault}")
    return Answer(usage=facts.usage, embeddings=vectors, model=facts.model, request_id=facts.request_id)


def _objects(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ValueError("no embeddings")
    return given
