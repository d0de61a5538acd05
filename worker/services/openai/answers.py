"""Completed jobs in OpenAI's words, whether somebody waited for them or they are lines of a batch."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
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


def _base64(vector: Sequence[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode("ascii")
