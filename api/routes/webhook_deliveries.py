"""Deliveries: what was sent to whom, how each try went, and sending once more."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.desk import Desk
from api.fields import JOB_ID, Moment, Out, PageLimit
from api.operations import Answer, Call, Operations, Reply
from api.page import page_json
from api.problems import CONFLICT, NOT_FOUND, Problem
from api.webhook_fields import DELIVERY_ID, ENDPOINT_ID, Instant
from worker.domain.answer import Json
from worker.domain.delivery import DeliveryState, DeliveryView
from worker.services.native.answers import instant
from worker.store import deliveries, delivery_views
from worker.store.delivery_views import Filter

webhook_deliveries: Final = Operations("Webhooks")
_ID: Final = re.compile(DELIVERY_ID)

_State = Literal["pending", "sending", "delivered", "exhausted", "refused", "skipped"]
_Fault = Literal["dns", "ssrf_blocked", "connect", "tls", "timeout", "http", "protocol", "internal"]


class DeliveryBody(Out):
    """One event for one endpoint. `http_status` and `error_class` are of the last attempt.

    state   pending -> sending -> delivered, or exhausted (no tries left), refused (the address may not be called),
            skipped (the endpoint was disabled)
    """

    id: str
    object: Literal["webhook_delivery"]
    endpoint_id: str
    event_id: str
    event_type: str
    object_id: str
    state: _State
    attempts: int
    http_status: int | None
    error_class: _Fault | None
    created_at: Instant
    next_attempt_at: Instant | None
    ended_at: Instant | None


class DeliveryAttempt(Out):
    """One try. Phases are in seconds, null where they were not reached; `signed_with` are the ends of the secrets."""

    number: int
    trigger: Literal["auto", "manual", "recover", "test"]
    scheduled_at: Instant
    started_at: Instant
    http_status: int | None
    error_class: _Fault | None
    reason: str | None
    address: str | None
    dns_s: float | None
    connect_s: float | None
    tls_s: float | None
    first_byte_s: float | None
    total_s: float | None
    answer: str | None
    next_attempt_at: Instant | None
    signed_with: list[str]


class DeliveryWithAttempts(DeliveryBody):
    """`event` is the body in its thin form, as it goes over the wire."""

    tries: list[DeliveryAttempt]
    event: dict[str, Any] | None


class DeliveryList(Out):
    """Newest first. The next page is asked for with `after=` the id in `last_id`."""

    object: Literal["list"]
    data: list[DeliveryBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeliveriesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    endpoint_id: Annotated[str, Field(pattern=ENDPOINT_ID)] | None = None
    job_id: Annotated[str, Field(pattern=JOB_ID)] | None = None
    state: _State | None = None
    created_after: Annotated[Moment, Field(description="RFC 3339.")] | None = None
    created_before: Annotated[Moment, Field(description="RFC 3339.")] | None = None
    after: Annotated[str, Field(pattern=DELIVERY_ID, description="The last id of the page before.")] | None = None
    limit: PageLimit = 20


@webhook_deliveries.add(
    "GET",
    "/v1/webhook_deliveries",
    "webhook_deliveries.list",
    "List webhook deliveries",
    scope="webhooks",
    query=DeliveriesQuery,
    answers={200: Answer("A page of deliveries.", DeliveryList)},
)
def list_deliveries(desk: Desk, call: Call) -> Reply:
    """Newest first. They are kept as long as jobs are."""
    query: DeliveriesQuery = call.query
    wanted = Filter(
        endpoint_id=query.endpoint_id,
        object_id=query.job_id,
        state=None if query.state is None else DeliveryState(query.state),
        created_after=query.created_after,
        created_before=query.created_before,
        after=query.after,
        limit=query.limit,
    )
    with desk.deps.database.read() as conn:
        page, more = delivery_views.listed(conn, call.project_id, wanted)
    return Reply(page_json((delivery_json(one) for one in page), more=more))


@webhook_deliveries.add(
    "GET",
    "/v1/webhook_deliveries/<delivery_id>",
    "webhook_deliveries.retrieve",
    "Look at a webhook delivery",
    scope="webhooks",
    answers={200: Answer("The delivery with every try.", DeliveryWithAttempts)},
    problems=(NOT_FOUND,),
)
def retrieve(desk: Desk, call: Call) -> Reply:
    return Reply(find_delivery(desk, call.project_id, call.path["delivery_id"]))


@webhook_deliveries.add(
    "POST",
    "/v1/webhook_deliveries/<delivery_id>/resend",
    "webhook_deliveries.resend",
    "Send a webhook delivery once more",
    scope="webhooks",
    answers={202: Answer("It is due now, with the id and body it had.", DeliveryWithAttempts)},
    problems=(NOT_FOUND, CONFLICT),
)
def resend(desk: Desk, call: Call) -> Reply:
    """The signature is made anew; the automatic tries are not counted anew."""
    delivery_id = call.path["delivery_id"]
    find_delivery(desk, call.project_id, delivery_id)
    with desk.deps.database.write() as conn:
        done = deliveries.resend(conn, call.project_id, delivery_id)
    if not done:
        detail = "It is being sent just now, or its endpoint is disabled or deleted."
        raise Problem(CONFLICT, detail)
    return Reply(find_delivery(desk, call.project_id, delivery_id), 202)


def find_delivery(desk: Desk, project_id: str, delivery_id: str) -> dict[str, Json]:
    """With its attempts. Raises Problem (404)."""
    found = body = None
    if _ID.fullmatch(delivery_id):
        with desk.deps.database.read() as conn:
            found = delivery_views.get(conn, project_id, delivery_id)
            if found is not None:
                body = delivery_views.body_of(conn, project_id, found.event_id)
    if found is None:
        raise Problem(NOT_FOUND, "There is no such delivery. GET /v1/webhook_deliveries lists those there are.")
    return delivery_json(found) | {
        "tries": [_attempt_json(one) for one in found.tries],
        "event": None if body is None else json.loads(body),
    }


def delivery_json(found: DeliveryView) -> dict[str, Json]:
    return {
        "id": found.id,
        "object": "webhook_delivery",
        "endpoint_id": found.endpoint_id,
        "event_id": found.event_id,
        "event_type": found.event_type,
        "object_id": found.object_id,
        "state": found.state.value,
        "attempts": found.attempts,
        "http_status": found.http_status,
        "error_class": found.fault,
        "created_at": instant(found.created_at),
        "next_attempt_at": instant(found.due_at),
        "ended_at": instant(found.ended_at),
    }


def _attempt_json(one: Mapping[str, Any]) -> dict[str, Json]:
    copied = ("number", "trigger", "http_status", "reason", "address", "answer")
    phases = ("dns_s", "connect_s", "tls_s", "first_byte_s", "total_s")
    return {
        **{name: one[name] for name in (*copied, *phases)},
        "error_class": one["fault"],
        "scheduled_at": instant(one["scheduled_at"]),
        "started_at": instant(one["started_at"]),
        "next_attempt_at": instant(one["next_at"]),
        "signed_with": one["signed_with"].split(),
    }
