"""The tasks of Hugging Face's own provider behind its router: `POST {base}/models/{model}`.

A completion names its task and gives `inputs` and `parameters` in the task's own shape; without a task it is
text-generation, of a prompt. Embeddings are the task feature-extraction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Json, Outcome
from worker.domain.failure import FailureKind
from worker.providers.classify import BY_STATUS
from worker.providers.completion import Said, completion
from worker.providers.facts import Facts, request_id
from worker.providers.format import Unfit
from worker.providers.hf_output import embeddings_answer, json_answer, no_stream, task_answer, tells_error, texts_in
from worker.providers.hf_parameters import own_parameters, tgi_parameters
from worker.providers.hf_prompt import task_inputs, unfit_for
from worker.providers.json_request import bearer, json_request
from worker.providers.portable import cut_at, stops
from worker.providers.reply import Shape, parsed

# A model that is being loaded is told in words; what is left of 503 is the service itself.
_STATUSES: Final = MappingProxyType({**BY_STATUS, 503: FailureKind.SERVER_ERROR})
# The tasks a model can also be asked for that was not published for them.
_PIPELINES: Final = frozenset({"feature-extraction", "sentence-similarity"})
_GENERATING: Final = frozenset({"text-generation", "text2text-generation"})
# The model stands in the path, and its name comes from a request.
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


@dataclass(frozen=True, slots=True)
class HFInferenceFormat:
    now: Callable[[], datetime] = clock.now
    name: str = "hf-inference"

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        with unfit_for(self.name):
            if not _REPOSITORY.fullmatch(call.model):
                raise Unfit("takes the name of a repository as model")
            task = _task(call)
            body = _embedded(call.input) if call.kind == "embedding" else _body(call, task)
        url = f"{call.base_url.rstrip('/')}/models/{call.model}"
        return json_request("POST", f"{url}/pipeline/{task}" if task in _PIPELINES else url, bearer(key), body)

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        reply = parsed(_SHAPE, status, headers, body, self.now(), _STATUSES)
        if isinstance(reply, Failure):
            return reply
        facts = _facts(status, headers, reply)
        if call.kind == "embedding":
            return embeddings_answer(call, facts, reply)
        texts = texts_in(reply)
        if isinstance(texts, str):
            return completion(call, facts, Said(cut_at(texts, stops(call.input))))
        if texts is not None:
            return json_answer(facts, texts)
        if _task(call) in _GENERATING:
            return facts.failure(FailureKind.BAD_OUTPUT, "the reply holds no generated_text")
        return task_answer(call, facts, reply)


def _facts(status: int, headers: Mapping[str, str], reply: Any) -> Facts:  # noqa: ARG001 - it names no model
    return Facts(status, request_id=request_id(headers))


_SHAPE: Final = Shape(_facts, no_stream, tells_error)


def _task(call: Call) -> str:
    task = call.input.get("task") if call.kind == "completion" else "feature-extraction"
    return task if isinstance(task, str) else "text-generation"


def _body(call: Call, task: str) -> dict[str, Any]:
    parameters = tgi_parameters(call) if task in _GENERATING else {}
    if task == "text-generation":
        parameters["return_full_text"] = False
    parameters |= own_parameters(call)
    body = {"inputs": task_inputs(call)}
    return body | {"parameters": parameters} if parameters else body


def _embedded(given: Mapping[str, Json]) -> dict[str, Json]:
    inputs = given.get("input")
    several = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not all(isinstance(one, str) for one in several):
        raise Unfit("embeds texts, not tokens")
    return {"inputs": inputs} | ({"dimensions": given["dimensions"]} if "dimensions" in given else {})
