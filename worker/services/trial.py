"""Send an endpoint a test event now, by the very code that sends all others, and answer how that went."""

from __future__ import annotations

import asyncio
from typing import Final

from worker import clock
from worker.deps import Deps
from worker.domain.delivery import Due, Tried, WebhookEndpoint
from worker.services.letter import post, written
from worker.services.listeners import vault_of
from worker.services.tell import own_event
from worker.store import deliveries, leases, outbox, webhook_endpoints
from worker.webhooks.sender import Sender

EVERY_S: Final = 3.0  # one test of a project at a time: an API key is no port scanner
TYPE: Final = "webhook_endpoint.test"


class TooSoon(Exception):
    """Another test of this project is hardly over."""


def try_out(deps: Deps, endpoint: WebhookEndpoint) -> str:
    """The id of the delivery, with its one attempt on record. Nothing follows from how it went.

    Raises NoKey, TooSoon, Unavailable.
    """
    vault = vault_of(deps)
    with deps.database.write() as conn:
        if not leases.take(conn, "trial:" + endpoint.project_id.partition("_")[2], clock.new_id("try"), EVERY_S):
            raise TooSoon
        shared = webhook_endpoints.project_secrets(conn, endpoint.project_id)
    data = {"id": endpoint.id, "object": "webhook_endpoint"}
    event = own_event(endpoint.project_id, TYPE, endpoint.id, data)
    due = Due(
        id=clock.new_id("whd"),
        claim_id="",
        project_id=endpoint.project_id,
        endpoint_id=endpoint.id,
        event_id=event.id,
        trigger="test",
        tries=0,
        attempts=0,
        scheduled_at=clock.now(),
        body=event.thin,
    )
    letter = written(vault, due, endpoint, endpoint.secrets or shared)

    async def main() -> Tried:
        sender = Sender(deps.addresses)
        try:
            return await post(sender, letter)
        finally:
            await sender.aclose()

    tried = asyncio.run(main())
    with deps.database.write() as conn:
        outbox.tell(conn, [event], [])
        deliveries.keep_trial(conn, tried)
    return due.id
