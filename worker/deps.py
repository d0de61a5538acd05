"""What a process is made of. The only place where parts are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from worker.domain.failure import Lane
from worker.providers import catalog as catalogs
from worker.providers.catalog import Catalog
from worker.settings import Settings
from worker.settings.address import is_loopback, networks
from worker.store.database import Database
from worker.store.intake import Intake
from worker.webhooks.address import Rules
from worker.webhooks.vault import Vault

HintsKind = Literal["redis", "sql", "local"]
_THIS_MACHINE: Final = networks(["127.0.0.0/8", "::1/128"])


class Hints(Protocol):
    """Tells workers where to look. Best effort: a hint that is lost costs a second, never a job."""

    kind: HintsKind

    def jobs(self, ids: Sequence[str]) -> None:
        """These interactive jobs are due."""

    def lane(self, lane: Lane) -> None:
        """This lane has due rows."""

    def alive(self) -> bool:
        """Whether hints get through just now; for /readyz."""


@dataclass(frozen=True, slots=True)
class Deps:
    settings: Settings
    database: Database
    catalog: Catalog
    hints: Hints
    intake: Intake
    vault: Vault | None  # None: no key to encrypt webhook secrets with
    addresses: Rules


def build(
    settings: Settings, hints: Hints, *, connections: int, pings: bool = True, sandbox_url: str | None = None
) -> Deps:
    """Put a process together; opens no connection yet. `pings` as in Database."""
    database = Database(settings.database, connections=connections, pings=pings)
    vault = Vault(settings.secret_keys) if settings.secret_keys else None
    catalog = catalogs.build(settings, sandbox_url)
    return Deps(settings, database, catalog, hints, Intake(database, settings), vault, reachable(settings))


def said_at_start(settings: Settings, catalog: Catalog) -> list[str]:
    """What an operator of separate processes should know although they start: sentences for the log."""
    return [*catalog.warnings, *filter(None, [catalog.unserved, settings.unnamed_database])]


def reachable(settings: Settings) -> Rules:
    """Which addresses users may have called: the public internet, and what the operator names.

    On a machine whose server nobody else can reach, and whose data is a file on it, this machine itself too.
    """
    own = settings.database_url is None and is_loopback(settings.host)
    return Rules(
        private=settings.private_networks or (_THIS_MACHINE if own else ()),
        nat64=settings.nat64,
        own_names=frozenset(filter(None, [settings.public_domain])),
    )
