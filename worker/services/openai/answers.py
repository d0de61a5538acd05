"""Completed jobs in OpenAI's words, whether somebody waited for them or they are lines of a batch."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from worker.domain.answer import Json
from worker.domain.job import JobView

# Finish reasons of ours that OpenAI's clients have no word for become `stop`.
_FINISH: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})


def chat_completion(job: JobView) -> dict[str, Json]:
    """Of a completed job of kind `completion`."""
    result = job.result
    finish = result["finish_reason"]
    choice = {
        "index": 0,
        "message": result["message"] or {"role": "assistant", "content": result["text"]},
        "finish_reason": finish if finish in _FINISH else "stop",
        "logprobs": None,
    }
    return {
        "id": f"chatcmpl-{job.id.removeprefix('job_')}",
        "object": "chat.completion",
        "created": int(job.created_at.timestamp()),
        "model": _model(job),
        "choices": [choice],
        "usage": _chat_usage(job),
        "completar": _served_by(job),
    }


def text_completion(job: JobView) -> dict[str, Json]:
    """The same, as OpenAI's older completions are answered."""
    finish = job.result["finish_reason"]
    choice = {
        "index": 0,
        "text": job.result["text"] or "",
        "finish_reason": finish if finish in {"length", "content_filter"} else "stop",
        "logprobs": None,
    }
    return chat_completion(job) | {
        "id": f"cmpl-{job.id.removeprefix('job_')}",
        "object": "text_completion",
        "choices": [choice],
    }


def embedding_list(job: JobView, encoding: str | None) -> dict[str, Json]:
    """Of a completed job of kind `embedding`; `encoding`: `base64`, or numbers."""
    shape = _base64 if encoding == "base64" else list
    usage = job.usage.input_tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": shape(vector)}
            for index, vector in enumerate(job.result["embeddings"])
        ],
        "model": _model(job),
        "usage": None if usage is None else {"prompt_tokens": usage, "total_tokens": usage},
        "completar": _served_by(job),
    }


def response(job: JobView) -> dict[str, Json]:
    """The same, as OpenAI's Responses are answered. What the request said is not repeated: the client's types demand
    `tools`, `tool_choice` and `parallel_tool_calls`, and those here are OpenAI's defaults.
    """
    name = job.id.removeprefix("job_")
    finish = job.result["finish_reason"]
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish)
    status = "completed" if reason is None else "incomplete"
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": int(job.created_at.timestamp()),
        "completed_at": None if reason is not None or job.ended_at is None else int(job.ended_at.timestamp()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "instructions": None,
        "metadata": dict(job.metadata),
        "model": _model(job),
        "output": list(_items(job, name, status)),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "tool_choice": "auto",
        "tools": [],
        "usage": _response_usage(job),
        "completar": _served_by(job),
    }


def _items(job: JobView, name: str, status: str) -> Iterator[Json]:
    message = job.result["message"] or {}
    calls = message.get("tool_calls") or []
    if job.result["text"] or not calls:
        text: Json = {"type": "output_text", "text": job.result["text"] or "", "annotations": [], "logprobs": []}
        yield {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": status, "content": [text]}
    for n, call in enumerate(calls):
        said = {"call_id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        yield {"type": "function_call", "id": f"fc_{name}_{n}", **said, "status": status}


def _model(job: JobView) -> str:
    return job.served.model if job.served is not None else job.models[0]


def _served_by(job: JobView) -> Json:
    return {"job": job.id, "provider": job.served.provider if job.served is not None else None}


def _chat_usage(job: JobView) -> Json:
    usage = job.usage
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
    }


def _response_usage(job: JobView) -> Json:
    usage = job.usage
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _base64(vector: Sequence[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode("ascii")
