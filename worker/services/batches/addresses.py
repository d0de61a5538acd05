"""Addresses that lines bring: pictures that a provider is to fetch, and who is to hear of a line."""

from __future__ import annotations

from worker.deps import Deps
from worker.domain.batch import LineError
from worker.services import pictures
from worker.services.batches.lines import Line
from worker.webhooks.guard import Guard


class Addresses:
    """One for each file: what was found of an address is remembered."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._guard: Guard | None = None

    def refused(self, line: Line) -> LineError | None:
        try:
            pictures.check(None, line.request.input, self._deps.addresses)
        except pictures.ForbiddenPicture as exc:
            return LineError("invalid_request", f"{exc}.", "body", line.number)
        webhook = line.request.webhook
        if webhook is None:
            return None
        if self._deps.vault is None:
            why = "cannot be taken: this server has no key to encrypt its secret with"
            return LineError("invalid_request", f"body.webhook {why}.", "body.webhook", line.number)
        self._guard = self._guard or Guard(self._deps.addresses)
        found = self._guard.refused([webhook.url]).get(webhook.url)
        if found is None:
            return None
        return LineError("invalid_request", f"body.webhook.url {found}.", "body.webhook.url", line.number)
