"""Who hears of single jobs: addresses that came with a request, each an endpoint row of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from worker import clock
from worker.deps import Deps
from worker.domain.delivery import Webhook, notify_of
from worker.store import outbox, webhook_endpoints
from worker.store.database import Connection
from worker.store.webhook_endpoints import NewEndpoint
from worker.webhooks.signature import SECRET_BYTES, secret_of
from worker.webhooks.vault import NoKey, Vault


def vault_of(deps: Deps) -> Vault:
    """Raises NoKey."""
    if deps.vault is None:
        raise NoKey
    return deps.vault


def new_secret() -> str:
    return secret_of(clock.new_bytes(SECRET_BYTES))


def subscribe(conn: Connection, vault: Vault, project_id: str, wanted: Sequence[tuple[str, Webhook]]) -> None:
    """(job id, whom it tells), in the transaction that stores the jobs. One endpoint row for each different wish."""
    webhook_endpoints.ensure_project_secret(conn, project_id, lambda: vault.seal(new_secret()))
    known: dict[Webhook, str] = {}
    for _, webhook in wanted:
        if webhook not in known:
            known[webhook] = webhook_endpoints.ensure(conn, _of_request(project_id, webhook))
    outbox.subscribe(conn, [(job_id, known[webhook]) for job_id, webhook in wanted])


def inherit(conn: Connection, job_id: str, retry_of: str) -> int:
    """Who heard of a job hears of the one that runs it again. Returns what that one must note (see `notify_of`)."""
    ids = outbox.subscribers(conn, [retry_of]).get(retry_of, [])
    if not ids:
        return 0
    outbox.subscribe(conn, [(job_id, endpoint_id) for endpoint_id in ids])
    return max((notify_of(one.event_types) for one in webhook_endpoints.many(conn, ids).values()), default=0)


def _of_request(project_id: str, webhook: Webhook) -> NewEndpoint:
    events = tuple(sorted(set(webhook.events)))
    wish = json.dumps([webhook.url, events, webhook.payload])
    return NewEndpoint(
        clock.new_id("we"),
        project_id,
        webhook.url,
        events,
        fingerprint=hashlib.sha256(wish.encode()).hexdigest(),
        payload=webhook.payload,
    )
