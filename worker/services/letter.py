"""One try of one delivery: its secrets opened, its body signed, the receiver's answer understood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from worker import clock, events
from worker.domain.delivery import DeliveryState, Due, Secrets, Tried, WebhookEndpoint
from worker.webhooks.schedule import Fault, Move, verdict
from worker.webhooks.sender import Sender, Try
from worker.webhooks.signature import headers as signed
from worker.webhooks.signature import hint
from worker.webhooks.vault import Unreadable, Vault

USER_AGENT: Final = "Completar/1 (webhooks)"
_STATES: Final = {
    Move.DELIVERED: DeliveryState.DELIVERED,
    Move.AGAIN: DeliveryState.PENDING,
    Move.EXHAUSTED: DeliveryState.EXHAUSTED,
    Move.REFUSED: DeliveryState.REFUSED,
}


@dataclass(frozen=True, slots=True)
class Letter:
    """A delivery with all that its try needs. `secrets` are in clear, newest first."""

    due: Due
    endpoint: WebhookEndpoint
    secrets: tuple[str, ...]
    headers: dict[str, str]


def written(vault: Vault | None, due: Due, endpoint: WebhookEndpoint, sealed: Secrets | None) -> Letter:
    """With no secrets in it where they cannot be read: the try then fails and says so."""
    if vault is None or sealed is None:
        return Letter(due, endpoint, (), {})
    try:
        secrets = tuple(vault.open(text) for text in (sealed.current, sealed.old) if text is not None)
        custom = json.loads(vault.open(endpoint.headers)) if endpoint.headers is not None else {}
    except Unreadable as exc:
        events.emit("webhooks.unreadable", level="error", endpoint_id=endpoint.id, reason=str(exc))
        return Letter(due, endpoint, (), {})
    return Letter(due, endpoint, secrets, custom)


async def post(sender: Sender, letter: Letter) -> Tried:
    """Try once. Raises nothing but CancelledError."""
    due, endpoint = letter.due, letter.endpoint
    body = due.body.encode("ascii")
    started_at = clock.now()
    if letter.secrets:
        fields = {
            **letter.headers,
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            **signed(due.event_id, int(started_at.timestamp()), body, letter.secrets),
        }
        done = await sender.post(endpoint.id, endpoint.url, fields, body, timeout_s=endpoint.timeout_s)
    else:
        done = Try(None, Fault.INTERNAL, "its secret cannot be read: COMPLETAR_SECRET_KEY is missing or was changed")
    return _tried(due, done, started_at, letter.secrets)


def _tried(due: Due, done: Try, started_at: datetime, secrets: Sequence[str]) -> Tried:
    tries = due.tries + (1 if due.trigger == "auto" else 0)
    found = verdict(
        status=done.status,
        fields=done.fields,
        fault=done.fault,
        tries=max(1, tries),
        draw=clock.draw(),
        now=clock.now(),
    )
    final = due.trigger == "test" and found.move is Move.AGAIN
    return Tried(
        due,
        DeliveryState.EXHAUSTED if final else _STATES[found.move],
        found.wait_s if found.move is Move.AGAIN and not final else None,
        started_at,
        " ".join(hint(secret) for secret in secrets),
        http_status=done.status,
        fault=done.fault,
        reason=done.reason,
        address=done.address,
        phases={
            "dns_s": done.dns_s,
            "connect_s": done.connect_s,
            "tls_s": done.tls_s,
            "first_byte_s": done.first_byte_s,
            "total_s": done.total_s,
        },
        answer=done.answer.decode("utf-8", "replace") if done.answer else None,
        disable="the receiver answered that it wants nothing more" if found.disable else None,
    )
