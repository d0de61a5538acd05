"""What every operation of a web process works with."""

from __future__ import annotations

from dataclasses import dataclass

from api.auth import Keys
from api.readiness import Readiness
from api.waiting import Waiting
from worker.deps import Deps
from worker.webhooks.guard import Guard


@dataclass(frozen=True, slots=True)
class Desk:
    deps: Deps
    keys: Keys
    waiting: Waiting
    readiness: Readiness
    guard: Guard

    @classmethod
    def of(cls, deps: Deps) -> Desk:
        """Opens no connection yet."""
        return cls(
            deps,
            Keys(deps.database, deps.settings.api_key),
            Waiting(deps.database, deps.settings.waiters),
            Readiness(deps),
            Guard(deps.addresses),
        )
