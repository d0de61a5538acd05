"""What a process is made of. The only place where parts are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from worker.domain.failure import Lane
from worker.providers import catalog as catalogs
from worker.providers.catalog import Catalog
from worker.settings import Settings
from worker.store.database import Database
from worker.store.intake import Intake

HintsKind = Literal["redis", "sql", "local"]


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


def build(
    settings: Settings, hints: Hints, *, connections: int, pings: bool = True, sandbox_url: str | None = None
) -> Deps:
    """Put a process together; opens no connection yet. `pings` as in Database."""
    database = Database(settings.database, connections=connections, pings=pings)
    return Deps(settings, database, catalogs.build(settings, sandbox_url), hints, Intake(database, settings))
