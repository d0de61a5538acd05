"""The types of fields of webhooks."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from api.fields import WHOLE, Strict, fault
from api.problems import Fault
from worker.domain.delivery import BATCH_ENDINGS, Webhook
from worker.services.native.webhooks import Url
from worker.webhooks.address import Refused

ENDPOINT_ID: Final = "^we_[0-9a-hjkmnp-tv-z]{26}$"
DELIVERY_ID: Final = "^whd_[0-9a-hjkmnp-tv-z]{26}$"
MAX_HEADERS: Final = 20
MAX_HEADER: Final = 2048

BatchEvent = Literal[
    "batch.in_progress",
    "batch.finalizing",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
]
EventType = Literal[
    "job.queued",
    "job.in_progress",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "job.expired",
    "batch.in_progress",
    "batch.finalizing",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
    "webhook_endpoint.disabled",
    "webhook_delivery.exhausted",
]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_VALUE: Final = re.compile(r"[!-~](?:[ \t!-~]{0,2046}[!-~])?")
# What the sender says itself, what steers the connection, and what others believe of who is calling.
_DENIED: Final = re.compile(
    r"host|content-.*|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|proxy-.*|webhook-.*|svix-.*"
    r"|accept-encoding|forwarded|x-forwarded-.*|x-real-ip|via|user-agent|cookie2?|date|range|if-.*|sec-.*"
)
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _headers(value: dict[str, str]) -> dict[str, str]:
    seen = set()
    for name, text in value.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            raise fault("has a name that is no header's", "Use letters, digits and hyphens, at most 64.")
        if _DENIED.fullmatch(lower):
            raise fault(
                f"may not set {lower}", "Leave it out: Completar sets it, or whoever stands in between believes it."
            )
        if lower in seen:
            raise fault(f"sets {lower} twice", "Give each header once.")
        if not _VALUE.fullmatch(text):
            remedy = f"Send 1 to {MAX_HEADER} visible ASCII characters, with blanks only between them."
            raise fault(f"has a value for {lower} that cannot be sent", remedy)
        seen.add(lower)
    return value


def _moment(value: Any) -> datetime:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise fault("must be a moment with its offset", "Send RFC 3339, such as 2026-01-31T12:00:00Z.")


Events = Annotated[list[EventType], Field(min_length=1, max_length=20)]
CustomHeaders = Annotated[
    dict[str, str],
    Field(max_length=MAX_HEADERS, description="Sent with every try; stored encrypted and never shown again."),
    AfterValidator(_headers),
]
MaxRps = Annotated[float, Field(ge=0.1, le=1000, description="Deliveries a second.")]
MaxConcurrency = Annotated[int, Field(ge=1, le=100, description="Deliveries at once."), WHOLE]
TimeoutS = Annotated[float, Field(ge=1, le=30, description="For a whole try, in seconds.")]
GraceS = Annotated[
    float, Field(ge=0, le=7 * 86_400, description="So long the old secret goes on signing beside the new one.")
]
# Of a body.
When = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 40})
]


class BatchWebhook(Strict):
    """Who hears of this one batch, once for all its lines; signed as for a job."""

    url: Url
    events: Annotated[list[BatchEvent], Field(min_length=1, max_length=6)] = Field(
        default_factory=lambda: list(BATCH_ENDINGS),  # type: ignore[arg-type]
        description="The ends of a batch where nothing is said.",
    )

    @property
    def value(self) -> Webhook:
        return Webhook(self.url, tuple(dict.fromkeys(self.events)))


def refusal(exc: Refused, field: str = "url", line: int | None = None) -> Fault:
    return Fault(field, str(exc), "Use a public https:// address on port 443 or 8443.", line)
