"""Who is to hear of one job, as a request says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from worker.domain.delivery import Webhook
from worker.services.openai.fields import Strict
from worker.webhooks.address import MAX_URL

JobEvent = Literal["job.queued", "job.in_progress", "job.completed", "job.failed", "job.cancelled", "job.expired"]
PayloadName = Literal["thin", "full"]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL, examples=["https://example.com/hooks"])]
JobEvents = Annotated[list[JobEvent], Field(min_length=1, max_length=6)]


class JobWebhook(Strict):
    """Who hears of this one job; signed with the project's own secret (`POST /v1/webhook_secret/rotate` shows one)."""

    url: Url
    events: JobEvents = Field(
        default_factory=lambda: list(Webhook("").events),  # type: ignore[arg-type]
        description="The ends of a job where nothing is said.",
    )
    payload: PayloadName = "thin"

    @property
    def value(self) -> Webhook:
        return Webhook(self.url, tuple(dict.fromkeys(self.events)), self.payload)
