"""`{"inputs", "parameters"}`: the default handler of Inference Endpoints (`POST {url}/`), and TGI's `/generate`.

A base URL that ends in `/generate` is TGI's. The handler's own task decides what it takes: text2text-generation knows
neither conversations nor `return_full_text`, text-generation echoes its prompt without the latter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import httpx

from worker import clock
from worker.domain.answer import Call, Failure, Json, Outcome
from worker.domain.failure import FailureKind
from worker.domain.money import NO_USAGE, Usage
from worker.providers.classify import ENDPOINT_STATUSES
from worker.providers.completion import Said, completion, raw_word
from worker.providers.facts import Facts, header_count, request_id, token_count
from worker.providers.format import Unfit
from worker.providers.hf_output import json_answer, no_stream, task_answer, tells_error, texts_in
from worker.providers.hf_parameters import handler_parameters, own_parameters, tgi_parameters
from worker.providers.hf_prompt import chat_of, task_inputs, unfit_for
from worker.providers.json_request import bearer, json_request
from worker.providers.openai_chat import FINISH
from worker.providers.portable import cut_at, stops
from worker.providers.reply import Shape, parsed

GENERATE: Final = "text-generation"
TEXT2TEXT: Final = "text2text-generation"
_TGI: Final = "/generate"

# The toolkit answers every exception with a 400, its own troubles included.
_OURS_NOT_THE_CALLERS: Final = re.compile(
    r"out of memory|allocate memory|\bCUDA\b|\bcu(?:BLAS|DNN)|No space left on device", re.IGNORECASE
)
_TOO_LONG: Final = re.compile(
    r"index out of range in self|input length of input_ids is \d+, but|size of tensor a \(\d+\) must match",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HFTextGenerationFormat:
    """`task` of the handler; None: nobody told, so that it is asked in the way both take, and an echo is cut off."""

    now: Callable[[], datetime] = clock.now
    name: str = "hf-text-generation"
    task: str | None = GENERATE

    def build_request(self, call: Call, key: str | None) -> httpx.Request:
        with unfit_for(self.name):
            if call.kind != "completion":
                raise Unfit("has no embeddings")
            body = self._body(call)
        url = call.base_url.rstrip("/")
        return json_request("POST", url if _is_tgi(call) else url + "/", bearer(key), body)

    def read_response(self, call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        reply = parsed(_SHAPE, status, headers, body, self.now(), ENDPOINT_STATUSES)
        if isinstance(reply, Failure):
            return _mended(reply)
        facts = _facts(status, headers, reply)
        texts = texts_in(reply)
        if texts is None:
            return self._untold(call, facts, reply)
        ends = stops(call.input)
        if isinstance(texts, list):
            return _several(call, facts, [cut_at(text, ends) for text in texts])
        raw = raw_word(_details(reply).get("finish_reason"))
        finish = None if raw is None else FINISH.get(raw, "stop")
        return completion(call, facts, Said(cut_at(self._answered(call, texts), ends), finish, raw))

    def _body(self, call: Call) -> dict[str, Json]:
        own, task, tgi = own_parameters(call), self._task(call), _is_tgi(call)
        parameters: dict[str, Json] = {}
        if task not in (GENERATE, TEXT2TEXT, None):
            inputs = task_inputs(call)
        elif tgi:
            inputs = task_inputs(call)
            parameters = {**tgi_parameters(call), "details": True}  # without it no reply says why it ended
        else:
            inputs = _inputs(call, task)
            parameters = handler_parameters(call)
            if task == GENERATE and not _is_chat(inputs):
                parameters["return_full_text"] = False
        parameters |= own
        return {"inputs": inputs, "parameters": parameters} if parameters else {"inputs": inputs}

    def _task(self, call: Call) -> str | None:
        task = call.input.get("task")
        return task if isinstance(task, str) else self.task

    def _untold(self, call: Call, facts: Facts, value: Any) -> Outcome:
        """Without a generated text: another task's output, or whatever a handler of somebody's own returns."""
        if self._task(call) in (GENERATE, TEXT2TEXT, None):
            if not value:
                return facts.failure(FailureKind.EMPTY_OUTPUT, "a reply without output")
            if _is_tgi(call):
                return facts.failure(FailureKind.BAD_OUTPUT, "the reply holds no generated_text")
        return task_answer(call, facts, value)

    def _answered(self, call: Call, text: str) -> str:
        """The text without the prompt before it, where the handler may have put it there."""
        if self._task(call) is not None or _is_tgi(call):
            return text
        try:
            prompt = task_inputs(call)
            if not isinstance(prompt, str) or "return_full_text" in own_parameters(call):
                return text
        except Unfit:
            return text
        rest = text.removeprefix(prompt)
        return rest if rest.strip() else text


def _is_tgi(call: Call) -> bool:
    return call.base_url.rstrip("/").endswith(_TGI)


def _inputs(call: Call, task: str | None) -> Json:
    """A conversation only where it is known to be taken, or where nothing less would hold it."""
    if task == GENERATE and call.input.keys().isdisjoint({"inputs", "prompt"}):
        return chat_of(call)
    try:
        return task_inputs(call)
    except Unfit:
        if task is not None:
            raise
        return chat_of(call)


def _is_chat(inputs: Json) -> bool:
    """One conversation, or a list of them."""
    first = inputs[0] if isinstance(inputs, list | tuple) and inputs else None
    return isinstance(first, Mapping) or (isinstance(first, list | tuple) and _is_chat(first))


def _several(call: Call, facts: Facts, texts: list[str]) -> Outcome:
    inputs = call.input.get("inputs")
    asked = 1 if not isinstance(inputs, list | tuple) or isinstance(next(iter(inputs), None), Mapping) else len(inputs)
    if len(texts) < asked:
        return facts.failure(FailureKind.BAD_OUTPUT, f"{len(texts)} texts for {asked} inputs")
    return json_answer(facts, texts)


def _facts(status: int, headers: Mapping[str, str], reply: Any) -> Facts:
    """TGI counts in its headers, and exactly in its details; the default handler counts nothing."""
    made = token_count(_details(reply).get("generated_tokens"))
    if made is None:
        made = header_count(headers, "x-generated-tokens")
    sent = header_count(headers, "x-prompt-tokens")
    usage = NO_USAGE if sent is None and made is None else Usage(sent, made)
    return Facts(status, usage, request_id=request_id(headers))


def _details(reply: Any) -> Mapping[str, Any]:
    first = reply[0] if isinstance(reply, list) and reply else reply
    details = first.get("details") if isinstance(first, dict) else None
    return details if isinstance(details, dict) else {}


_SHAPE: Final = Shape(_facts, no_stream, tells_error)


def _mended(failure: Failure) -> Failure:
    if failure.http_status != 400 or failure.kind is not FailureKind.BAD_REQUEST:
        return failure
    if _OURS_NOT_THE_CALLERS.search(failure.message):
        return replace(failure, kind=FailureKind.SERVER_ERROR)
    if _TOO_LONG.search(failure.message):
        return replace(failure, kind=FailureKind.CONTEXT_LENGTH)
    return failure
