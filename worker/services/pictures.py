"""Images, films and sounds by URL. Completar fetches none: the address goes to the provider, and that may be a server
of one's own beside the database. So it is judged like any other address of a user's, before anything is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from worker.domain.answer import Json
from worker.webhooks.address import Refused, Rules, parse

# data:, and what only the provider knows, is nobody's address. Whoever fetches one reads it as browsers do, without the
# blanks and controls before it and the line breaks in it.
_GAP: Final = r"[\t\r\n]*"
_SCHEMES: Final = "|".join(_GAP.join(scheme) for scheme in ("http", "https", "ftp", "file"))
_FETCHED: Final = re.compile(rf"[\x00-\x20\s\ufeff]*(?:{_SCHEMES}){_GAP}:", re.IGNORECASE)


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
        if not _FETCHED.match(url):
            continue
        try:
            parse(url, open_)
        except Refused as exc:
            raise ForbiddenPicture(n, field, str(exc)) from None


def _pictures(request: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    messages = request.get("messages")
    for m, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for p, part in enumerate(content if isinstance(content, list) else ()):
            for name, given in part.items() if isinstance(part, dict) else ():
                for url in _urls(name, given):
                    yield f"messages[{m}].content[{p}].{name[:60]}", url


def _urls(name: str, given: Json) -> Iterator[str]:
    """Whatever is named so: the parts of other servers (`video_url`) are passed on as they are."""
    if isinstance(given, dict):
        for inner, value in given.items():
            yield from _urls(inner, value)
    elif isinstance(given, list):
        for value in given:
            yield from _urls(name, value)
    elif isinstance(given, str) and (name == "url" or name.endswith("_url")):
        yield given
