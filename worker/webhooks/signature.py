"""Standard Webhooks signatures, in the one form that every library verifies.

The rules are those of the Standard Webhooks specification; the narrow choices come from what its readers accept: a
padded secret in standard base64 after `whsec_` (openai and replicate fail without the padding), a timestamp of whole
seconds, entries joined by exactly one space (standardwebhooks and svix fail on two).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
_LEAST, _MOST = 24, 64  # bytes, says the specification
TOLERANCE_S: Final = 300


class BadSecret(ValueError):
    """A text that is no webhook secret; the message never repeats it."""


class Unverified(ValueError):
    """A delivery that was not signed with this secret, or not just now."""


def secret_of(key: bytes) -> str:
    """The text form of a key of 24 to 64 random bytes."""
    if not _LEAST <= len(key) <= _MOST:
        raise BadSecret(f"a webhook secret has {_LEAST} to {_MOST} bytes")
    return PREFIX + base64.b64encode(key).decode("ascii")


def key_of(secret: str) -> bytes:
    """The bytes to sign with. Raises BadSecret."""
    if not secret.startswith(PREFIX):
        raise BadSecret(f"a webhook secret begins with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise BadSecret("a webhook secret is standard base64, with its padding") from None
    if not _LEAST <= len(key) <= _MOST:
        raise BadSecret(f"a webhook secret has {_LEAST} to {_MOST} bytes")
    return key


def hint(secret: str) -> str:
    """Enough of a secret to tell two apart, and no more: `...wxyz`."""
    return "..." + secret.rstrip("=")[-4:]


def headers(event_id: str, sent_s: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """What one try carries. `sent_s` is its own time, in whole seconds; `secrets` has the newest first, at most two."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(sent_s),
        "webhook-signature": " ".join(_entry(event_id, sent_s, body, key_of(secret)) for secret in secrets[:2]),
    }


def verify(
    sent: tuple[str | None, str | None, str | None], body: bytes, secret: str, *, now_s: float, tolerance_s: float
) -> None:
    """Check a delivery as a receiver does; `sent` is its id, timestamp and signature header. Raises Unverified."""
    event_id, stamp, given = sent
    if not event_id or not stamp or not given:
        raise Unverified("webhook-id, webhook-timestamp and webhook-signature must all be there")
    if not stamp.isascii() or not stamp.isdigit():
        raise Unverified("webhook-timestamp is no whole number of seconds")
    if abs(now_s - int(stamp)) > tolerance_s:
        raise Unverified(f"webhook-timestamp is more than {tolerance_s:g} s away from this machine's clock")
    expected = _entry(event_id, int(stamp), body, key_of(secret)).encode("ascii")
    if not any(hmac.compare_digest(expected, entry.encode("utf-8")) for entry in given.split(" ")):
        raise Unverified("no entry of webhook-signature fits this secret and this body")


def _entry(event_id: str, sent_s: int, body: bytes, key: bytes) -> str:
    signed = hmac.new(key, f"{event_id}.{sent_s}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode("ascii")
