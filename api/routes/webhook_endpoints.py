"""Webhook endpoints: who is told what, and with which secret."""

from __future__ import annotations

import re
from typing import Any, Final

from api import preference
from api.desk import Desk
from api.operations import Answer, Body, Call, Operations, Reply
from api.page import page_json
from api.problems import CONFLICT, KEY_REUSED, NO_SECRET_KEY, NOT_FOUND, TOO_SOON, Problem, invalid
from api.routes.webhook_deliveries import DeliveryWithAttempts, find_delivery
from api.webhook_endpoint import (
    DeletedBody,
    EndpointBody,
    EndpointList,
    EndpointsQuery,
    EndpointWithSecret,
    NewSecretBody,
    NewWebhookEndpoint,
    RecoveredBody,
    Recovery,
    Rotation,
    SecretBody,
    WebhookEndpointChanges,
    endpoint_json,
)
from api.webhook_fields import ENDPOINT_ID, refusal
from worker import clock
from worker.domain.delivery import WebhookEndpoint
from worker.services import webhook_endpoints as service
from worker.services.trial import try_out
from worker.store import deliveries
from worker.store import webhook_endpoints as stored
from worker.store.webhook_endpoints import NewEndpoint
from worker.webhooks.address import Refused
from worker.webhooks.signature import hint

webhook_endpoints: Final = Operations("Webhooks")
_ID: Final = re.compile(ENDPOINT_ID)


# -- made, looked at, changed -------------------------------------------------------------------------------------


@webhook_endpoints.add(
    "POST",
    "/v1/webhook_endpoints",
    "webhook_endpoints.create",
    "Make a webhook endpoint",
    scope="webhooks",
    body=Body(NewWebhookEndpoint),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={201: Answer("It hears from now on. Keep the secret.", EndpointWithSecret, (preference.REPLAYED,))},
    problems=(CONFLICT, KEY_REUSED, NO_SECRET_KEY),
)
def create(desk: Desk, call: Call) -> Reply:
    """Its address is judged; nothing is sent there yet. `test` does that."""
    asked: NewWebhookEndpoint = call.body
    _guarded(desk, asked.url)
    new = NewEndpoint(
        clock.new_id("we"),
        call.project_id,
        asked.url,
        tuple(dict.fromkeys(asked.event_types)),
        name=asked.name,
        payload=asked.payload,
        max_rps=asked.max_rps,
        max_concurrency=asked.max_concurrency,
        timeout_s=asked.timeout_s,
    )
    key = preference.idempotency_key(call, "webhook_endpoints.create", call.given)
    try:
        found = service.create(desk.deps, new, asked.headers, key)
    except service.TooMany as exc:
        raise Problem(CONFLICT, f"{exc}; delete one first.".capitalize()) from None
    return _with_secret(desk, found, 201)


@webhook_endpoints.add(
    "GET",
    "/v1/webhook_endpoints",
    "webhook_endpoints.list",
    "List webhook endpoints",
    scope="webhooks",
    query=EndpointsQuery,
    answers={200: Answer("A page of endpoints.", EndpointList)},
)
def list_endpoints(desk: Desk, call: Call) -> Reply:
    """Newest first. Addresses that came with single jobs are not among them."""
    with desk.deps.database.read() as conn:
        page, more = stored.listed(conn, call.project_id, after=call.query.after, limit=call.query.limit)
    return Reply(page_json((endpoint_json(desk, one) for one in page), more=more))


@webhook_endpoints.add(
    "GET",
    "/v1/webhook_endpoints/<endpoint_id>",
    "webhook_endpoints.retrieve",
    "Look at a webhook endpoint",
    scope="webhooks",
    answers={200: Answer("The endpoint.", EndpointBody)},
    problems=(NOT_FOUND,),
)
def retrieve(desk: Desk, call: Call) -> Reply:
    return Reply(endpoint_json(desk, _find(desk, call)))


@webhook_endpoints.add(
    "POST",
    "/v1/webhook_endpoints/<endpoint_id>",
    "webhook_endpoints.update",
    "Change a webhook endpoint",
    scope="webhooks",
    body=Body(WebhookEndpointChanges),
    answers={200: Answer("The endpoint as it is now.", EndpointBody)},
    problems=(NOT_FOUND, CONFLICT, NO_SECRET_KEY),
)
def update(desk: Desk, call: Call) -> Reply:
    """What waits for its next try goes by the new state. While it is disabled, events are kept as `skipped`.

    Of an address that came with jobs only `disabled` can be changed.
    """
    endpoint = _find(desk, call)
    asked: WebhookEndpointChanges = call.body
    changes: dict[str, Any] = {name: getattr(asked, name) for name in asked.model_fields_set if name != "disabled"}
    if changes and not endpoint.standing:
        raise Problem(CONFLICT, "This address came with a job: only `disabled` can be changed.")
    if "url" in changes:
        _guarded(desk, asked.url)
    if "event_types" in changes:
        changes["event_types"] = tuple(dict.fromkeys(asked.event_types))
    disabled = asked.disabled if "disabled" in asked.model_fields_set else None
    changed = service.change(desk.deps, endpoint, changes, disabled=disabled)
    if changed is None:
        raise _unknown()
    return Reply(endpoint_json(desk, changed))


@webhook_endpoints.add(
    "DELETE",
    "/v1/webhook_endpoints/<endpoint_id>",
    "webhook_endpoints.delete",
    "Delete a webhook endpoint",
    scope="webhooks",
    answers={200: Answer("Nothing more is sent to it.", DeletedBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def delete(desk: Desk, call: Call) -> Reply:
    """What was waiting for it is skipped. An address that came with jobs can only be disabled."""
    endpoint = _standing(_find(desk, call))
    with desk.deps.database.write() as conn:
        stored.delete(conn, call.project_id, endpoint.id)
    return Reply({"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True})


# -- secrets ------------------------------------------------------------------------------------------------------


@webhook_endpoints.add(
    "POST",
    "/v1/webhook_endpoints/<endpoint_id>/rotate_secret",
    "webhook_endpoints.rotate_secret",
    "Give a webhook endpoint a new secret",
    scope="webhooks",
    body=Body(Rotation),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={200: Answer("Keep the new secret.", EndpointWithSecret, (preference.REPLAYED,))},
    problems=(NOT_FOUND, CONFLICT, KEY_REUSED, NO_SECRET_KEY),
)
def rotate_secret(desk: Desk, call: Call) -> Reply:
    """For `grace_s` every delivery is signed with both, so that a receiver may change over in its own time."""
    endpoint = _standing(_find(desk, call))
    key = preference.idempotency_key(call, "webhook_endpoints.rotate_secret", [endpoint.id, call.given])
    return _with_secret(desk, service.rotate(desk.deps, endpoint, call.body.grace_s, key), 200)


@webhook_endpoints.add(
    "GET",
    "/v1/webhook_secret",
    "webhook_secret.retrieve",
    "Look at the project's webhook secret",
    scope="webhooks",
    answers={200: Answer("Whether there is one, and how it ends.", SecretBody)},
)
def project_secret(desk: Desk, call: Call) -> Reply:
    """It signs what jobs with a `webhook` of their own send."""
    with desk.deps.database.read() as conn:
        secrets = stored.project_secrets(conn, call.project_id)
    return Reply(
        {
            "object": "webhook_secret",
            "secret_hint": service.hint_of(desk.deps.vault, secrets),
            "exists": secrets is not None,
        }
    )


@webhook_endpoints.add(
    "POST",
    "/v1/webhook_secret/rotate",
    "webhook_secret.rotate",
    "Give the project a new webhook secret",
    scope="webhooks",
    body=Body(Rotation),
    answers={200: Answer("Keep the new secret.", NewSecretBody)},
    problems=(NO_SECRET_KEY,),
)
def rotate_project_secret(desk: Desk, call: Call) -> Reply:
    """It signs what jobs with a `webhook` of their own send. It is made where there was none."""
    secret = service.rotate_project(desk.deps, call.project_id, call.body.grace_s)
    return Reply({"object": "webhook_secret", "secret_hint": hint(secret), "exists": True, "secret": secret})


# -- sent now, sent again -----------------------------------------------------------------------------------------


@webhook_endpoints.add(
    "POST",
    "/v1/webhook_endpoints/<endpoint_id>/test",
    "webhook_endpoints.test",
    "Send a test event now",
    scope="webhooks",
    answers={200: Answer("How it went: the delivery with its one attempt.", DeliveryWithAttempts)},
    problems=(NOT_FOUND, TOO_SOON, NO_SECRET_KEY),
)
def test(desk: Desk, call: Call) -> Reply:
    """A `webhook_endpoint.test`, sent as every other event is. It is not tried again, and disables nothing.

    A project may test once every few seconds.
    """
    endpoint = _find(desk, call)
    delivery_id = try_out(desk.deps, endpoint)
    return Reply(find_delivery(desk, call.project_id, delivery_id))


@webhook_endpoints.add(
    "POST",
    "/v1/webhook_endpoints/<endpoint_id>/recover",
    "webhook_endpoints.recover",
    "Send again what failed or was skipped",
    scope="webhooks",
    body=Body(Recovery),
    answers={202: Answer("They are due now, with the ids and bodies they had.", RecoveredBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def recover(desk: Desk, call: Call) -> Reply:
    """Each is sent once more; the automatic tries it had are not given back."""
    endpoint = _find(desk, call)
    if endpoint.disabled_at is not None:
        raise Problem(CONFLICT, 'The endpoint is disabled. Enable it first: POST {"disabled": false} to it.')
    with desk.deps.database.write() as conn:
        found = deliveries.recover(conn, call.project_id, endpoint.id, call.body.since, call.body.until)
    return Reply({"object": "webhook_recovery", "endpoint_id": endpoint.id, "recovered": found}, 202)


def _guarded(desk: Desk, url: str) -> None:
    try:
        desk.guard.check(url)
    except Refused as exc:
        raise invalid(refusal(exc)) from None


def _unknown() -> Problem:
    return Problem(NOT_FOUND, "There is no such webhook endpoint. GET /v1/webhook_endpoints lists those there are.")


def _find(desk: Desk, call: Call) -> WebhookEndpoint:
    endpoint_id = call.path["endpoint_id"]
    found = None
    if _ID.fullmatch(endpoint_id):
        with desk.deps.database.read() as conn:
            found = stored.get(conn, call.project_id, endpoint_id)
    if found is None:
        raise _unknown()
    return found


def _standing(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    if not endpoint.standing:
        raise Problem(CONFLICT, "This address came with a job: it can be disabled, and has no secret of its own.")
    return endpoint


def _with_secret(desk: Desk, found: tuple[WebhookEndpoint, str, bool], status: int) -> Reply:
    endpoint, secret, replayed = found
    headers = preference.replay_header(replayed=replayed)
    return Reply(endpoint_json(desk, endpoint) | {"secret": secret}, status, headers)
