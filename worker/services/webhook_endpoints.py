"""Standing endpoints: made, changed, given new secrets. A secret is made here, shown once, and stored encrypted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from worker.deps import Deps
from worker.domain.delivery import Secrets, WebhookEndpoint
from worker.services.idempotency import Earlier, IdempotencyKey, earlier, once
from worker.services.listeners import new_secret, vault_of
from worker.store import webhook_endpoints
from worker.store.database import Connection
from worker.store.webhook_endpoints import NewEndpoint
from worker.webhooks.signature import hint
from worker.webhooks.vault import Unreadable, Vault

MOST: Final = 100  # of a project: each of them gets every event


class TooMany(ValueError):
    """The project has as many endpoints as it may."""


class Forgotten(LookupError):
    """What an earlier request with the same idempotency key made was deleted since."""


def create(
    deps: Deps, new: NewEndpoint, headers: Mapping[str, str], idempotent: IdempotencyKey | None
) -> tuple[WebhookEndpoint, str, bool]:
    """The endpoint, its secret, and whether an earlier request with the same idempotency key made it.

    Raises NoKey, TooMany, KeyReused, Forgotten, Unavailable.
    """
    vault, secret = vault_of(deps), new_secret()
    sealed = replace(new, secret=vault.seal(secret), headers=_sealed(vault, headers))

    def insert(conn: Connection) -> None:
        if webhook_endpoints.count(conn, new.project_id) >= MOST:
            raise TooMany(f"a project has at most {MOST} webhook endpoints")
        webhook_endpoints.insert(conn, sealed)

    return _once(deps, new.project_id, new.id, secret, idempotent, insert)


def rotate(
    deps: Deps, endpoint: WebhookEndpoint, keep_old_s: float, idempotent: IdempotencyKey | None
) -> tuple[WebhookEndpoint, str, bool]:
    """A new secret; the old one signs beside it for `keep_old_s`. As `create` otherwise."""
    vault, secret = vault_of(deps), new_secret()
    sealed = vault.seal(secret)

    def change(conn: Connection) -> None:
        webhook_endpoints.rotate(conn, endpoint.project_id, endpoint.id, sealed, keep_old_s)

    return _once(deps, endpoint.project_id, endpoint.id, secret, idempotent, change)


def rotate_project(deps: Deps, project_id: str, keep_old_s: float) -> str:
    """A new secret for what single jobs ask for; made where there was none. Raises NoKey."""
    vault, secret = vault_of(deps), new_secret()
    with deps.database.write() as conn:
        webhook_endpoints.rotate_project_secret(conn, project_id, vault.seal(secret), keep_old_s)
    return secret


def change(
    deps: Deps, endpoint: WebhookEndpoint, changes: Mapping[str, Any], *, disabled: bool | None
) -> WebhookEndpoint | None:
    """`changes` are columns by name, but `headers` is in clear. None where it has gone meanwhile. Raises NoKey."""
    values = dict(changes)
    if "headers" in values:
        values["headers"] = _sealed(vault_of(deps), values["headers"])
    with deps.database.write() as conn:
        if values and not webhook_endpoints.update(conn, endpoint.project_id, endpoint.id, values):
            return None
        if disabled is True:
            webhook_endpoints.disable(conn, endpoint.id, "disabled on request")
        elif disabled is False:
            webhook_endpoints.enable(conn, endpoint.project_id, endpoint.id)
        return webhook_endpoints.get(conn, endpoint.project_id, endpoint.id)


def hint_of(vault: Vault | None, secrets: Secrets | None) -> str | None:
    """The end of the newest secret; None where there is none, or it cannot be read."""
    if vault is None or secrets is None:
        return None
    try:
        return hint(vault.open(secrets.current))
    except Unreadable:
        return None


def header_names(vault: Vault | None, endpoint: WebhookEndpoint) -> list[str]:
    if vault is None or endpoint.headers is None:
        return []
    try:
        return sorted(json.loads(vault.open(endpoint.headers)))
    except Unreadable:
        return []


def _sealed(vault: Vault, headers: Mapping[str, str]) -> str | None:
    return vault.seal(json.dumps(dict(headers))) if headers else None


def _once(
    deps: Deps,
    project_id: str,
    endpoint_id: str,
    secret: str,
    key: IdempotencyKey | None,
    work: Callable[[Connection], None],
) -> tuple[WebhookEndpoint, str, bool]:
    """Do it, or answer with what the same request did before: the endpoint, with the secret it has now."""

    def worked(conn: Connection) -> WebhookEndpoint | None:
        work(conn)
        return webhook_endpoints.get(conn, project_id, endpoint_id)

    made: WebhookEndpoint | Earlier | None = earlier(deps.database, project_id, key)
    if made is None:
        made = once(deps.database, project_id, key, [endpoint_id], worked)
    if isinstance(made, Earlier):
        with deps.database.read() as conn:
            made = webhook_endpoints.get(conn, project_id, made.ids[0])
        if made is not None and made.secrets is not None:
            return made, vault_of(deps).open(made.secrets.current), True
    if made is None:
        raise Forgotten
    return made, secret, False
