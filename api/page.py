"""A page of a list, as every list that has pages answers it."""

from __future__ import annotations

from collections.abc import Iterable

from worker.domain.answer import Json


def page_json(items: Iterable[dict[str, Json]], *, more: bool) -> dict[str, Json]:
    """`last_id` is what the next page is asked for with, while `has_more`."""
    data = list(items)
    return {
        "object": "list",
        "data": data,
        "has_more": more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
