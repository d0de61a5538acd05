"""How a caller wants a request to be treated: `Prefer: wait=10` (RFC 7240), `Idempotency-Key`, and the count of clients
that repeat by themselves.
"""

from __future__ import annotations

import re
from typing import Final

import flask

from api.operations import Call, Header
from api.problems import Fault, invalid
from worker.domain.answer import Json
from worker.services.idempotency import IdempotencyKey, Unkeyed, fingerprint

LONGEST_WAIT_S: Final = 60
_KEY: Final = re.compile(r"[!-~]{1,255}")
_COUNT: Final = re.compile(r"[0-9]{1,3}")

PREFER: Final = Header(
    "Prefer",
    "`wait=n` (1 to 60): answer 200 with the finished job if it ends within n seconds. What is not known is ignored.",
    {"type": "string", "examples": ["wait=10"]},
)
APPLIED: Final = Header(
    "Preference-Applied", "`wait=n` where the wait was granted, whether or not the job ended in it."
)
IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "The same key with the same body makes nothing new for 24 hours: the first answer comes again.",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
)
RETRY_COUNT: Final = Header(
    "x-stainless-retry-count",
    "Set by OpenAI's clients, which repeat by themselves and send no Idempotency-Key. From 1 on: what the same API key "
    "made with the same body in the last 11 minutes comes again. What is no number is ignored.",
)
REPLAYED: Final = Header(
    "Idempotent-Replayed", "`true` where the Idempotency-Key had been used before, or a client's own repetition is met."
)


def wait_s(request: flask.Request) -> int | None:
    """Seconds the caller wants to wait. Raises Problem for a senseless wait; other preferences are ignored."""
    for preference in request.headers.get("Prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() != "wait":
            continue
        digits = value.strip().strip('"')
        if not re.fullmatch(r"[0-9]{1,2}", digits) or not 1 <= int(digits) <= LONGEST_WAIT_S:
            remedy = f"Send `Prefer: wait=n` with n from 1 to {LONGEST_WAIT_S}, or leave it out."
            raise invalid(Fault("Prefer", f"must wait for 1 to {LONGEST_WAIT_S} whole seconds", remedy))
        return int(digits)
    return None


def replay_header(*, replayed: bool) -> dict[str, str]:
    return {REPLAYED.name: "true"} if replayed else {}


def idempotency_key(call: Call, route: str, request: Json) -> IdempotencyKey | None:
    """The caller's key for `route` with what was asked. Raises Problem for a malformed one."""
    key = call.request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        remedy = "Send 1 to 255 visible ASCII characters, such as a UUID."
        raise invalid(Fault("Idempotency-Key", "is not usable", remedy))
    return IdempotencyKey(route, key, fingerprint(request))


def repeatable(call: Call, route: str, request: Json) -> IdempotencyKey | Unkeyed | None:
    """As `idempotency_key`; without one, which attempt of its client this is, where it tells."""
    key = idempotency_key(call, route, request)
    told = call.request.headers.get(RETRY_COUNT.name, "")
    if key is not None or not _COUNT.fullmatch(told):
        return key
    return Unkeyed(route, fingerprint([call.key_id, request]), int(told))
