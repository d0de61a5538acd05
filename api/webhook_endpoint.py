"""Webhook endpoints and secrets as JSON: what is asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.desk import Desk
from api.fields import Out, PageLimit, Strict
from api.webhook_fields import (
    ENDPOINT_ID,
    CustomHeaders,
    Events,
    GraceS,
    Instant,
    MaxConcurrency,
    MaxRps,
    TimeoutS,
    When,
)
from worker.domain.answer import Json
from worker.domain.delivery import DEFAULT_EVENTS, WebhookEndpoint
from worker.services import webhook_endpoints as service
from worker.services.native.answers import instant
from worker.services.native.webhooks import PayloadName, Url

_Name = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


# -- what is asked ------------------------------------------------------------------------------------------------


class NewWebhookEndpoint(Strict):
    """`event_types` where not said: every end of a job or batch, and what becomes of webhooks themselves."""

    url: Url
    name: _Name | None = None
    event_types: Events = Field(default_factory=lambda: list(DEFAULT_EVENTS))  # type: ignore[arg-type]
    payload: PayloadName = "thin"
    max_rps: MaxRps = 50.0
    max_concurrency: MaxConcurrency = 20
    timeout_s: TimeoutS = 15.0
    headers: CustomHeaders = Field(default_factory=dict)


class WebhookEndpointChanges(Strict):
    """What is left out stays as it is. `headers` replaces them all."""

    url: Url = Field(default_factory=str)
    name: _Name | None = None
    event_types: Events = Field(default_factory=list)
    payload: PayloadName = "thin"
    max_rps: MaxRps = 50.0
    max_concurrency: MaxConcurrency = 20
    timeout_s: TimeoutS = 15.0
    headers: CustomHeaders = Field(default_factory=dict)
    disabled: bool = False


class Rotation(Strict):
    grace_s: GraceS = 86_400.0


class Recovery(Strict):
    """Of the events from `since` to `until` (now, where not said)."""

    since: When
    until: When | None = None


class EndpointsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: Annotated[str, Field(pattern=ENDPOINT_ID, description="The last id of the page before.")] | None = None
    limit: PageLimit = 20


# -- what is answered ---------------------------------------------------------------------------------------------


class EndpointBody(Out):
    """`of` is `project`, or `job` for an address that came with jobs. `headers` are names only.

    secret_hint    the end of the secret; null for an address of jobs, which is signed with the project's
    failing_since  when the first of nothing but failures was; five days later the endpoint is disabled
    """

    id: str
    object: Literal["webhook_endpoint"]
    of: Literal["project", "job"]
    url: str
    name: str | None
    event_types: list[str]
    payload: PayloadName
    max_rps: float
    max_concurrency: int
    timeout_s: float
    headers: list[str]
    secret_hint: str | None
    disabled: bool
    disabled_reason: str | None
    disabled_at: Instant | None
    failing_since: Instant | None
    created_at: Instant


class EndpointWithSecret(EndpointBody):
    """The only answer that shows the secret."""

    secret: str


class EndpointList(Out):
    """Newest first. The next page is asked for with `after=` the id in `last_id`."""

    object: Literal["list"]
    data: list[EndpointBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedBody(Out):
    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class RecoveredBody(Out):
    """How many deliveries are due again."""

    object: Literal["webhook_recovery"]
    endpoint_id: str
    recovered: int


class SecretBody(Out):
    """Of the project, for jobs that name a webhook. Null: there is none yet."""

    object: Literal["webhook_secret"]
    secret_hint: str | None
    exists: bool


class NewSecretBody(SecretBody):
    """The only answer that shows the secret."""

    secret: str


def endpoint_json(desk: Desk, endpoint: WebhookEndpoint) -> dict[str, Json]:
    vault = desk.deps.vault
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "of": "project" if endpoint.standing else "job",
        "url": endpoint.url,
        "name": endpoint.name,
        "event_types": list(endpoint.event_types),
        "payload": endpoint.payload,
        "max_rps": endpoint.max_rps,
        "max_concurrency": endpoint.max_concurrency,
        "timeout_s": endpoint.timeout_s,
        "headers": list(service.header_names(vault, endpoint)),
        "secret_hint": service.hint_of(vault, endpoint.secrets),
        "disabled": endpoint.disabled_at is not None,
        "disabled_reason": endpoint.disabled_reason,
        "disabled_at": instant(endpoint.disabled_at),
        "failing_since": instant(endpoint.failing_since_at),
        "created_at": instant(endpoint.created_at),
    }
