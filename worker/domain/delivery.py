"""Values of the webhook side: what happened, who is told, and how it went. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

Payload = Literal["thin", "full"]
Trigger = Literal["auto", "manual", "recover", "test"]


class DeliveryState(StrEnum):
    """pending -> sending -> delivered | exhausted | refused, or back to pending; skipped: its endpoint was disabled."""

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    REFUSED = "refused"
    SKIPPED = "skipped"


ENDINGS: Final = ("completed", "failed", "cancelled", "expired")
JOB_EVENTS: Final = tuple(f"job.{status}" for status in ("queued", "in_progress", *ENDINGS))
JOB_ENDINGS: Final = tuple(f"job.{status}" for status in ENDINGS)
BATCH_ENDINGS: Final = tuple(f"batch.{status}" for status in ENDINGS)
BATCH_EVENTS: Final = tuple(f"batch.{status}" for status in ("in_progress", "finalizing", *ENDINGS))
OWN_EVENTS: Final = ("webhook_endpoint.test", "webhook_endpoint.disabled", "webhook_delivery.exhausted")
EVENT_TYPES: Final = (*JOB_EVENTS, *BATCH_EVENTS, *OWN_EVENTS)
DEFAULT_EVENTS: Final = (
    *(f"{object_}.{status}" for object_ in ("job", "batch") for status in ENDINGS),
    "webhook_endpoint.disabled",
    "webhook_delivery.exhausted",
)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Whom a request wants to be told, of which events of its own job."""

    url: str
    events: tuple[str, ...] = JOB_ENDINGS
    payload: Payload = "thin"


def notify_of(events: Iterable[str]) -> int:
    """What a job must note for somebody who listens to these: 1 its end, 2 every move."""
    return 1 if set(events) <= set(JOB_ENDINGS) else 2


@dataclass(frozen=True, slots=True)
class Note:
    """A row of the outbox: this happened to that."""

    id: int
    project_id: str
    object: str
    object_id: str
    type: str
    version: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Secrets:
    """Encrypted, newest first: one, or two while a rotation lasts."""

    current: str
    old: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Who is told. `headers` and `secrets` are encrypted; `secrets` None: the project's own."""

    id: str
    project_id: str
    url: str
    name: str | None
    standing: bool
    event_types: tuple[str, ...]
    payload: Payload
    max_rps: float
    max_concurrency: int
    timeout_s: float
    headers: str | None
    secrets: Secrets | None
    failing_since_at: datetime | None
    disabled_at: datetime | None
    disabled_reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewEvent:
    """`thin` and `full` are the bodies as they go out, serialised once."""

    id: str
    project_id: str
    type: str
    object_id: str
    thin: str
    full: str | None = None


@dataclass(frozen=True, slots=True)
class NewDelivery:
    id: str
    project_id: str
    endpoint_id: str
    event_id: str
    object_id: str
    state: DeliveryState = DeliveryState.PENDING
    trigger: Trigger = "auto"


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that was claimed to be sent now."""

    id: str
    claim_id: str
    project_id: str
    endpoint_id: str
    event_id: str
    trigger: Trigger
    tries: int
    attempts: int
    scheduled_at: datetime
    body: str


@dataclass(frozen=True, slots=True)
class Tried:
    """One try, over. `wait_s`: until the next; None where `state` is final."""

    due: Due
    state: DeliveryState
    wait_s: float | None
    started_at: datetime
    signed_with: str
    http_status: int | None = None
    fault: str | None = None
    reason: str | None = None
    address: str | None = None
    phases: dict[str, float | None] = field(default_factory=dict)
    answer: str | None = None
    disable: str | None = None  # why the endpoint is to be disabled


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A delivery as people see it."""

    id: str
    endpoint_id: str
    event_id: str
    event_type: str
    object_id: str
    state: DeliveryState
    attempts: int
    http_status: int | None
    fault: str | None
    created_at: datetime
    due_at: datetime | None
    ended_at: datetime | None
    tries: tuple[dict[str, Any], ...] = ()
