"""Text Embeddings Inference: `/embed`, and as tasks of a completion `/rerank`, `/predict` and `/similarity`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Json, Outcome
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.classify import ENDPOINT_STATUSES
from worker.providers.facts import Facts, header_count, request_id
from worker.providers.format import Unfit
from worker.providers.hf_output import embeddings_answer, is_scored, json_answer, no_stream, task_answer, tells_error
from worker.providers.hf_parameters import own_parameters
from worker.providers.hf_prompt import task_inputs, unfit_for
from worker.providers.json_request import bearer, json_request
from worker.providers.reply import Shape, parsed

_PATHS: Final = MappingProxyType(
    {
        "rerank": "/rerank",
        "predict": "/predict",
        "text-classification": "/predict",
        "sentence-similarity": "/similarity",
    }
)
_TOO_MANY: Final = re.compile(r"batch size \d+ > maximum")  # with a 422, or a 413 as the schema has it
_OTHER_MODEL: Final = re.compile(r"model is not an? [\w-]+ model", re.IGNORECASE)  # a 424, like a passing fault


@dataclass(frozen=True, slots=True)
class TEIFormat:
    now: Callable[[], datetime] = clock.now
    name: str = "tei"

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        with unfit_for(self.name):
            path, body = _embedded(call.input) if call.kind == "embedding" else _asked(call)
        return json_request("POST", call.base_url.rstrip("/") + path, bearer(key), body)

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        reply = parsed(_SHAPE, status, headers, body, self.now(), ENDPOINT_STATUSES)
        if isinstance(reply, Failure):
            return _mended(reply)
        facts = _facts(status, headers, reply)
        if call.kind == "embedding":
            return embeddings_answer(call, facts, reply)
        if _task(call) == "rerank":
            return _ranked(call, facts, reply)
        return task_answer(call, facts, reply)


def _task(call: Call) -> str:
    task = call.input.get("task", "rerank" if "query" in call.input else "")
    return task if isinstance(task, str) else ""


def _embedded(given: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    body = {"inputs": given.get("input")}
    return "/embed", body | ({"dimensions": given["dimensions"]} if "dimensions" in given else {})


def _asked(call: Call) -> tuple[str, dict[str, Json]]:
    """The path of a task and its body, in which parameters stand at the top. Raises Unfit."""
    task, given = _task(call), call.input
    if task not in _PATHS:
        raise Unfit("embeds, reranks and classifies, and generates no text")
    if task != "rerank":
        return _PATHS[task], {"inputs": task_inputs(call), **own_parameters(call)}
    if not {"query", "texts"} <= given.keys():
        raise Unfit("reranks texts by a query: it needs both")
    return _PATHS[task], {"query": given["query"], "texts": given["texts"], **own_parameters(call)}


def _ranked(call: Call, facts: Facts, value: Any) -> Outcome:
    """`[{index, score}]`, best first; `index` is the place among the texts."""
    if value == []:
        return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without ranks")
    texts = call.input.get("texts")
    places = range(len(texts)) if isinstance(texts, list | tuple) else range(0)
    if not isinstance(value, list) or not all(is_scored(one, "index", int) and one["index"] in places for one in value):
        return facts.failure(FailureKind.BAD_OUTPUT, "the reply is no ranking of the texts")
    return json_answer(facts, value)


def _facts(status: int, headers: Mapping[str, str], reply: Any) -> Facts:  # noqa: ARG001 - it names no model
    tokens = header_count(headers, "x-compute-tokens")
    usage = NO_USAGE if tokens is None else Usage(input_tokens=tokens, output_tokens=0)
    return Facts(status, usage, request_id=request_id(headers))


_SHAPE: Final = Shape(_facts, no_stream, tells_error)


def _mended(failure: Failure) -> Failure:
    if _TOO_MANY.search(failure.message):
        return replace(failure, kind=FailureKind.BAD_REQUEST)
    if _OTHER_MODEL.search(failure.message):
        return replace(failure, kind=FailureKind.MODEL_NOT_FOUND)
    return failure
