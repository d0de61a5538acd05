"""Addresses that lines bring: pictures that a provider is to fetch, and who is to hear of a line."""

from __future__ import annotations

from worker.deps import Deps
from worker.domain.batch import LineError
from worker.services import pictures
from worker.services.batches.endpoints import NATIVE, RESPONSES
from worker.services.batches.lines import Line
from worker.services.batches.receivers import Receivers


class Addresses:
    """One for each file: what was found of an address is remembered. `endpoint`: that of its lines."""

    def __init__(self, deps: Deps, endpoint: str) -> None:
        self._deps = deps
        self._endpoint = endpoint
        self._receivers: Receivers | None = None

    def refused(self, line: Line) -> LineError | None:
        try:
            pictures.check(None, line.request.input, self._deps.addresses)
        except pictures.ForbiddenPicture as exc:
            field = self._in_body(exc.field)
            return LineError("invalid_request", f"{field} {exc.why}.", field, line.number)
        webhook = line.request.webhook
        if webhook is None:
            return None
        if self._deps.vault is None:
            why = "cannot be taken: this server has no key to encrypt its secret with"
            return LineError("invalid_request", f"body.webhook {why}.", "body.webhook", line.number)
        self._receivers = self._receivers or Receivers(self._deps.addresses)
        found = self._receivers.refusal(webhook.url)
        if found is None:
            return None
        return LineError("invalid_request", f"body.webhook.url {found}.", "body.webhook.url", line.number)

    def _in_body(self, field: str) -> str:
        """Where a field of the job stood in the line."""
        if self._endpoint == RESPONSES:
            return "body.input"  # its items become messages of another number: the place in the job means nothing
        return f"body.input.{field}" if self._endpoint == NATIVE else f"body.{field}"
