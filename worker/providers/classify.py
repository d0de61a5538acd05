"""From an error to its kind: what its code says, then what its text says, then what the status says.

Status alone misleads: a 429 may be a window, an empty account or a busy engine; a 400 may be any of eight things.
The codes are those of the OpenAI family, Anthropic, Google, Hugging Face and the open engines. They do not clash,
so one table serves every format; what a status means where nothing else is said differs, and is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from worker.domain.failure import FailureKind
from worker.providers.error_body import ErrorBody

_K = FailureKind

BY_WORD: Final[Mapping[str, FailureKind]] = MappingProxyType(
    {
        word: kind
        for kind, words in {
            _K.RATE_LIMIT: "rate_limit_exceeded slow_down rate_limit_error rate_limit_reached_error too_many_requests"
            " ramp_limit_exceeded",
            _K.QUOTA: "insufficient_quota credit_balance_exhausted organization_usage_limit_exceeded"
            " organization_spend_limit_exceeded project_spend_limit_exceeded exceeded_current_quota_error billing_error"
            " billing_hard_limit_reached billing_not_active enforced_spend_limit_reached contract_spend_limit_reached"
            " insufficient_balance insufficient_credits blocked_api_access",
            _K.AUTH: "invalid_api_key invalid_authentication_error incorrect_api_key_error authentication_error"
            " api_key_invalid unauthenticated unauthorized",
            _K.PERMISSION: "permission_denied_error permission_error unsupported_country_region_territory"
            " failed_precondition organization_restricted model_terms_required",
            _K.MODEL_NOT_FOUND: "model_not_found model_not_supported model_decommissioned model_not_available"
            " resource_not_found_error deploymentnotfound",
            _K.CONTEXT_LENGTH: "context_length_exceeded exceed_context_size_error request_too_large",
            _K.CONTENT_FILTER: "content_filter content_policy_violation invalid_prompt responsibleaipolicyviolation"
            " bio_policy cyber_policy misalignment_policy_violation image_content_policy_violation",
            _K.BAD_OUTPUT: "tool_use_failed json_validate_failed",
            _K.OVERLOADED: "server_is_overloaded service_unavailable_error serviceunavailableerror service_unavailable"
            " engine_overloaded_error overloaded_error overloaded capacity_exceeded",
            _K.LOADING: "healthcheck unhealthy",
            _K.TIMEOUT: "timeout_error deadline_exceeded",
            _K.CONFLICT: "conflict_error",
            _K.BAD_REQUEST: "not_supported_error invalid_image invalid_image_format invalid_base64_image"
            " invalid_image_url image_too_large image_too_small image_parse_error invalid_image_mode"
            " image_file_too_large unsupported_image_media_type empty_image_file failed_to_download_image"
            " image_file_not_found",
        }.items()
        for word in words.split()
    }
)

BY_STATUS: Final[Mapping[int, FailureKind]] = MappingProxyType(
    {
        **dict.fromkeys((301, 302, 303, 307, 308), _K.GONE),  # nothing is followed: the address is wrong
        401: _K.AUTH,
        402: _K.QUOTA,
        403: _K.PERMISSION,
        404: _K.MODEL_NOT_FOUND,
        408: _K.TIMEOUT,
        409: _K.CONFLICT,
        410: _K.GONE,
        413: _K.CONTEXT_LENGTH,
        423: _K.CONFLICT,
        424: _K.SERVER_ERROR,
        425: _K.SERVER_ERROR,
        429: _K.RATE_LIMIT,
        451: _K.PERMISSION,
        498: _K.OVERLOADED,
        499: _K.SERVER_ERROR,
        501: _K.BAD_REQUEST,
        503: _K.OVERLOADED,
        504: _K.TIMEOUT,
        522: _K.TIMEOUT,
        524: _K.TIMEOUT,
        529: _K.OVERLOADED,
    }
)

# A machine of one's own behind Hugging Face's proxy: it sleeps (503, once 502), has a queue but no account to exhaust,
# and nothing else at its address.
ENDPOINT_STATUSES: Final[Mapping[int, FailureKind]] = MappingProxyType(
    {**BY_STATUS, 404: _K.GONE, 429: _K.OVERLOADED, 502: _K.LOADING, 503: _K.LOADING}
)

# Nobody told a status: an error inside a 200, or in the middle of a stream.
UNKNOWN: Final = 0

_REFUSED: Final = frozenset({400, 404, 413, 422})
_BARRED: Final = frozenset({400, 401, 403})
_BUSY: Final = frozenset({429, *range(500, 600)})


def _pattern(
    kind: FailureKind, statuses: frozenset[int], *phrases: str
) -> tuple[FailureKind, frozenset[int], re.Pattern[str]]:
    return kind, statuses | {UNKNOWN}, re.compile("|".join(phrases), re.IGNORECASE)


_BY_TEXT: Final = (
    _pattern(_K.GONE, frozenset({400}), r"^bad request: invalid state"),  # a paused Inference Endpoint
    _pattern(_K.SERVER_ERROR, frozenset({400, 500}), r"out of memory", r"\bCUDA error"),
    _pattern(
        _K.QUOTA,
        frozenset({400, 403, 429}),
        r"insufficient (?:balance|credits?|funds|quota)",
        r"credit balance",
        r"(?:monthly|included) credits",
        r"spend(?:ing)? (?:limit|cap|alert)",
        r"specified (?:workspace )?API usage limits",
        r"out of credits",
        r"prepa(?:id|yment) .{0,40}(?:depleted|exhausted)",
    ),
    _pattern(
        _K.CONTEXT_LENGTH,
        _REFUSED,
        r"(?:maximum|model'?s?|available) context (?:length|window|size|limit)",
        r"context (?:length|window|size|limit).{0,40}exceed",
        r"exceed.{0,60}context (?:length|window|size|limit)",
        r"exceeded model token limit",
        r"input token length too long",
        r"input token count .{0,40}exceeds",
        r"requested token count exceeds",
        r"prompt is too long",
        r"input is too long",
        r"longer than the maximum model length",
        r"maximum prompt length",
        r"too many (?:input |prompt )?tokens",
        r"reduce the length of the (?:messages|input|prompt)",
        r"must be <= \d+\. Given:",
        r"must have less than \d+ tokens",
    ),
    _pattern(
        _K.CONTENT_FILTER,
        frozenset({400, 403, 422}),
        r"content (?:filter|policy|management policy)",
        r"content filtering",
        r"usage polic(?:y|ies)",
        r"safety system",
        r"considered high risk",
        r"flagged as ",
    ),
    _pattern(
        _K.AUTH,
        _BARRED,
        r"api key (?:not valid|is invalid|not found|expired)",
        r"(?:invalid|incorrect|missing|wrong|expired|no) (?:api|access|auth|authentication|bearer)[ _-]?(?:key|token)",
        r"invalid username or password",
        r"invalid (?:authentication|credentials)",
        r"unregistered callers",
    ),
    _pattern(
        _K.PERMISSION,
        _BARRED,
        r"(?:organization|account|workspace|project) (?:has been|is) (?:disabled|suspended|deactivated|restricted)",
    ),
    _pattern(
        _K.MODEL_NOT_FOUND,
        frozenset({400, 403, 404, 422}),
        r"\bmodels?\b[\s:/]*[`'\"]?[\w./:@+-]*[`'\"]?,? (?:(?:is|was|has been|does|could|cannot) )?"
        r"(?:not (?:exist|found|be found|supported|available)|be found|decommissioned|deprecated|unknown"
        r"|no longer (?:available|supported))",
        r"(?:not found the|no such|unknown|invalid|unsupported) model\b(?! (?:parameter|input|field|output))",
        r"has been decommissioned",
    ),
    _pattern(
        _K.OVERLOADED,
        _BUSY,
        r"overloaded",
        r"(?:over|at|exceeded|no|insufficient) capacity",
        r"queue is full",
        r"too busy",
    ),
    _pattern(
        _K.LOADING,
        frozenset(range(500, 600)),
        r"\bis (?:currently |still )?(?:loading|starting|warming up)",
        r"\bloading (?:the )?model",
        r"model (?:is )?(?:not ready|loading)",
    ),
    _pattern(_K.RATE_LIMIT, frozenset({403, 503}), r"\brate limit", r"too many requests"),
)

# Nothing answers at this address, or not this: a base URL that is wrong, a server started for something else.
_ABSENT: Final = frozenset({404, 405, 501})

# Told of a request that is sound: this model takes no such parameter, or this server was started without.
_LACKING: Final = re.compile(
    r"\b(?:supported|support .{1,80}|allowed|specified|deprecated) (?:for|with|by|on) (?:this|the) model\b"
    r"|\bmodel does not support\b|\bproperty '[^']{1,80}' is unsupported\b|\brequires --\w",
    re.IGNORECASE,
)

# Google says so of its minute windows too: then a wait stands beside it, or at least Google's own word.
_VAGUE: Final = re.compile(r"exceeded your current quota|check your plan and billing", re.IGNORECASE)
_WINDOW: Final = "resource_exhausted"

# "Request too large ... TPM: Limit 8000, Requested 14137": the code says rate limit, yet waiting never helps.
_NEVER_FITS: Final = re.compile(r"request too large", re.IGNORECASE)


def classify(
    status: int, error: ErrorBody, headers: Mapping[str, str], by_status: Mapping[int, FailureKind] = BY_STATUS
) -> FailureKind:
    """The kind of an error; `status` UNKNOWN where none was told. `by_status` is one of the format's own."""
    if status == 413 or (status in (UNKNOWN, 429) and _NEVER_FITS.search(error.message)):
        return _K.CONTEXT_LENGTH
    if error.daily:
        return _K.QUOTA
    for word in error.words:
        if (kind := BY_WORD.get(word)) is not None:
            return kind
    if (kind := _by_text(status, error)) is not None:
        return kind
    return _by_status(status, headers, by_status)


def is_unfit(kind: FailureKind | None, status: int | None, message: str) -> bool:
    """Whether what this model, or this address, refused another may take. By what is kept with a call, and no more."""
    return kind is _K.BAD_REQUEST and (status in _ABSENT or _LACKING.search(message) is not None)


def _by_text(status: int, error: ErrorBody) -> FailureKind | None:
    if error.loading and status >= 500:
        return _K.LOADING
    for kind, statuses, phrases in _BY_TEXT:
        if status in statuses and phrases.search(error.message):
            return kind
    if status in (UNKNOWN, 400, 403, 429) and _VAGUE.search(error.message):
        return _K.RATE_LIMIT if error.wait_s is not None or _WINDOW in error.words else _K.QUOTA
    if error.param == "model" and status in (400, 404):
        return _K.MODEL_NOT_FOUND
    if status == 404 and re.search(r"\bmodel\b", error.message, re.IGNORECASE):
        return _K.MODEL_NOT_FOUND
    return None


def _by_status(status: int, headers: Mapping[str, str], by_status: Mapping[int, FailureKind]) -> FailureKind:
    kind = by_status.get(status)
    if kind is None:
        kind = _K.BAD_REQUEST if 400 <= status < 500 else _K.SERVER_ERROR
    told = advice(headers)
    if told == "true" and kind is _K.BAD_REQUEST:
        return _K.SERVER_ERROR
    if told == "false" and kind is _K.RATE_LIMIT:
        return _K.QUOTA
    return kind


def advice(headers: Mapping[str, str]) -> str:
    """The provider's own word on trying again, which stands over the status: true | false, or none."""
    return headers.get("x-should-retry", "").strip().lower()
