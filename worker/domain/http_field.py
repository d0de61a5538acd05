"""Values of HTTP header fields that more than one reader needs."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MOST = 64  # characters of a value that are looked at


def number(value: str | None) -> float | None:
    """A finite number, else None."""
    try:
        found = float(value.strip()[:_MOST]) if value is not None else None
    except ValueError:
        return None
    return found if found is not None and math.isfinite(found) else None


def http_date(value: str) -> datetime | None:
    """An HTTP date (RFC 9110, 5.6.7) as aware UTC, else None."""
    try:
        moment = parsedate_to_datetime(value[:_MOST])
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds a `Retry-After` asks for, as a number or a date; None: nothing that lies in the future."""
    if value is None:
        return None
    seconds = number(value)
    if seconds is None:
        moment = http_date(value)
        seconds = (moment - now).total_seconds() if moment is not None else None
    return seconds if seconds is not None and seconds > 0 else None
