"""Images by URL. Completar fetches none: the address goes to the provider, and that may be a server of one's own beside
the database. So it is judged like any other address of a user's, before anything is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from worker.domain.answer import Json
from worker.webhooks.address import Refused, Rules, parse


class ForbiddenPicture(ValueError):
    """`field` is its place in the request, `why` one sentence; `n` which request of several, from 0."""

    def __init__(self, n: int | None, field: str, why: str) -> None:
        self.n = n
        self.field = field
        self.why = why
        super().__init__(f"{field} {why}")


def check(n: int | None, request: Mapping[str, Json], rules: Rules) -> None:
    """Raises ForbiddenPicture. Names are judged by their spelling only: whoever fetches it resolves it."""
    open_ = replace(rules, plain=True, any_port=True, own_names=frozenset())
    for field, url in _pictures(request):
        if url[:5].lower() != "http:" and url[:6].lower() != "https:":
            continue  # data:, or what only the provider knows
        try:
            parse(url, open_)
        except Refused as exc:
            raise ForbiddenPicture(n, field, str(exc)) from None


def _pictures(request: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    messages = request.get("messages")
    for m, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for p, part in enumerate(content if isinstance(content, list) else ()):
            found = part.get("image_url") if isinstance(part, dict) else None
            url = found.get("url") if isinstance(found, dict) else found
            if isinstance(url, str):
                yield f"messages[{m}].content[{p}].image_url", url
