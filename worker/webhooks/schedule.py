"""When a delivery is tried again, and what an answer of the receiver means. Pure.

The schedule is the one of the Standard Webhooks specification: ten tries within 75 h 35 min.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from worker.domain.http_field import retry_after_s

_M, _H = 60.0, 3600.0
SCHEDULE_S: Final = (0.0, 5.0, 5 * _M, 30 * _M, 2 * _H, 5 * _H, 10 * _H, 14 * _H, 20 * _H, 24 * _H)
LONGEST_WAIT_S: Final = 24 * _H
_JITTER: Final = 0.1
_LEAST_JITTER_S: Final = 1.0


class Fault(StrEnum):
    """Where a try failed."""

    DNS = "dns"
    SSRF_BLOCKED = "ssrf_blocked"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP = "http"
    PROTOCOL = "protocol"
    INTERNAL = "internal"


class Move(StrEnum):
    """What becomes of the delivery."""

    DELIVERED = "delivered"
    AGAIN = "again"
    EXHAUSTED = "exhausted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`wait_s` is from the end of this try; `disable` says that the receiver wants nothing more."""

    move: Move
    wait_s: float = 0.0
    disable: bool = False


def verdict(
    *, status: int | None, fields: Mapping[str, str], fault: Fault | None, tries: int, draw: float, now: datetime
) -> Verdict:
    """What follows a try, the `tries`-th of the automatic ones (from 1).

    status  of the receiver's answer; None: there was none
    fields  its header fields, names in lower case
    fault   where the try failed; None only with a status of 2xx
    draw    a number in [0, 1)
    """
    told = fields.get("webhook-delivery", "").strip().lower()
    disable = status == 410 or told == "disable"
    if fault is None:
        return Verdict(Move.DELIVERED, disable=disable)
    if fault is Fault.SSRF_BLOCKED:
        return Verdict(Move.REFUSED)
    if disable or told == "abort-message" or tries >= len(SCHEDULE_S):
        return Verdict(Move.EXHAUSTED, disable=disable)
    asked = retry_after_s(fields.get("retry-after"), now) or 0.0
    base = max(SCHEDULE_S[tries], min(asked, LONGEST_WAIT_S))
    return Verdict(Move.AGAIN, base + draw * max(_LEAST_JITTER_S, _JITTER * base))
