"""What a failed job is to OpenAI's clients, whether somebody waits for it or it is a line of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from worker.domain.failure import FailureKind

Wire = tuple[int, str, str | None]  # status, `type`, `code`

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"
_UPSTREAM: Final[Wire] = (502, _SERVER, "upstream_error")
_K: Final = FailureKind

WIRE: Final[Mapping[FailureKind, Wire]] = MappingProxyType(
    {
        **dict.fromkeys(FailureKind, _UPSTREAM),
        _K.RATE_LIMIT: (429, "requests", "rate_limit_exceeded"),
        _K.QUOTA: (429, "insufficient_quota", "insufficient_quota"),
        _K.BUDGET: (429, "insufficient_quota", "insufficient_quota"),
        _K.MODEL_NOT_FOUND: (404, _INVALID, "model_not_found"),
        _K.GONE: (404, _INVALID, "model_not_found"),
        _K.CONTEXT_LENGTH: (400, _INVALID, "context_length_exceeded"),
        _K.CONTENT_FILTER: (400, _INVALID, "content_filter"),
        _K.REFUSAL: (400, _INVALID, "refusal"),
        _K.BAD_REQUEST: (400, _INVALID, None),
        _K.NO_TARGET: (400, _INVALID, "no_target"),
        _K.CANCELLED: (409, _INVALID, "cancelled"),
        _K.OVERLOADED: (503, _SERVER, "upstream_overloaded"),
        _K.LOADING: (503, _SERVER, "upstream_overloaded"),
        _K.TIMEOUT: (504, _SERVER, "upstream_timeout"),
        _K.DEADLINE: (504, _SERVER, "upstream_timeout"),
        _K.INTERNAL: (500, _SERVER, None),
    }
)
