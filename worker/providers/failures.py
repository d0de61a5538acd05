"""A reply that is no answer, read into a Failure. Shared by every wire format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from worker.domain.answer import Failure
from worker.domain.failure import FailureKind
from worker.providers.classify import BY_STATUS, UNKNOWN, advice, classify, is_unfit
from worker.providers.error_body import ErrorBody, error_of, read_error_body
from worker.providers.facts import Facts, request_id
from worker.providers.waits import wait_of

# Where a wait means something: elsewhere a word like "try again in" is about another request.
_WAITABLE: Final = frozenset(
    {
        FailureKind.RATE_LIMIT,
        FailureKind.OVERLOADED,
        FailureKind.LOADING,
        FailureKind.SERVER_ERROR,
        FailureKind.TIMEOUT,
        FailureKind.CONFLICT,
        FailureKind.QUOTA,
    }
)
# After these the same target is asked again with the same key, unless the provider says that it must not be.
_REPEATED: Final = frozenset(
    {FailureKind.SERVER_ERROR, FailureKind.OVERLOADED, FailureKind.TIMEOUT, FailureKind.CONFLICT}
)
_DAILY: Final = re.compile(r"\b(?:TPD|RPD)\b|\bper day\b|\bdaily\b")
_MOONSHOT_LIMIT: Final = "rate_limit_reached_error"


def read_failure(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    by_status: Mapping[int, FailureKind] = BY_STATUS,
) -> Failure:
    """The failure a reply with an error status tells of."""
    facts = Facts(status, request_id=request_id(headers))
    return _failure(facts, status, headers, read_error_body(body), now, by_status)


def failure_inside(facts: Facts, value: Any, now: datetime) -> Failure:
    """The failure told in the parsed body, or in an event, of a reply that began with a good status.

    Its headers were sent before anything went wrong and are not asked.
    """
    error = error_of(value)
    told = error.number if error.number is not None else UNKNOWN
    return _failure(facts, told, {}, error, now, BY_STATUS)


def _failure(
    facts: Facts,
    status: int,
    headers: Mapping[str, str],
    error: ErrorBody,
    now: datetime,
    by_status: Mapping[int, FailureKind],
) -> Failure:
    kind = classify(status, error, headers, by_status)
    # Google names a wait of seconds with a daily window too: it is the next try that it means, not the end of the day.
    waitable = kind in _WAITABLE and not error.daily
    wait_s, wait_from = wait_of(headers, error, now) if waitable else (None, None)
    # A daily window is waited for only where its end is told; Moonshot's (TPD) has none to tell.
    endless = wait_s is None or _MOONSHOT_LIMIT in error.words
    if kind is FailureKind.RATE_LIMIT and endless and _DAILY.search(error.message):
        kind = FailureKind.QUOTA
    return Failure(
        kind=kind,
        message=error.message or f"HTTP {facts.status} with no message",
        code=error.code,
        http_status=facts.status,
        wait_s=wait_s,
        wait_from=wait_from,
        usage=facts.usage,
        model=facts.model,
        request_id=facts.request_id or error.request_id,
        unfit=is_unfit(kind, facts.status, error.message),
        of_model=kind is FailureKind.QUOTA and error.of_model,
        final=kind in _REPEATED and advice(headers) == "false",
    )
