"""Which models a provider has today: one pure pair of functions per family, used by `completar providers check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import httpx

from worker.providers.anthropic import VERSION
from worker.providers.json_request import bearer, json_request
from worker.providers.json_text import read_json

# Formats whose servers list their models; the others serve the one model they were started with.
_OPENAI: Final = frozenset({"openai", "openai-responses", "hf-openai"})
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """A model by the provider's own name; `ends` is the date it goes away, as the provider writes it."""

    id: str
    ends: str | None = None


def build_listing(format_name: str, base_url: str, key: str | None) -> httpx.Request | None:
    """The request for the list; None where the format has none."""
    base = base_url.rstrip("/")
    if format_name in _OPENAI:
        return json_request("GET", f"{base}/models", bearer(key))
    credential = () if key is None else (("x-api-key", key),)
    if format_name == "anthropic":
        return json_request("GET", f"{base}/models?limit={PAGE}", (*credential, ("anthropic-version", VERSION)))
    if format_name == "gemini":
        credential = () if key is None else (("x-goog-api-key", key),)
        return json_request("GET", f"{base}/models?pageSize={PAGE}", credential)
    return None


def read_listing(body: bytes) -> list[Listed] | None:
    """The models of a good reply, in the provider's order; None where it is no list of models."""
    try:
        value = read_json(body)
    except ValueError:
        return None
    rows = value if isinstance(value, list) else _rows(value)
    if rows is None:
        return None
    return [one for one in map(_listed, rows) if one is not None]


def _rows(value: Any) -> list[Any] | None:
    if not isinstance(value, dict):
        return None
    rows = value.get("data", value.get("models"))  # Gemini calls them models
    return rows if isinstance(rows, list) else None


def _listed(row: Any) -> Listed | None:
    if not isinstance(row, dict):
        return None
    name = row.get("id", row.get("name"))
    if not isinstance(name, str):
        return None
    ends = row.get("shutdown_date")
    return Listed(name.removeprefix("models/"), str(ends) if ends else None)
