"""Addresses and models people still have in their configuration although nobody answers there any more.

As the providers' notices stood on 2026-11-22. Only a warning: a wrong line here must not stop a process.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_HOSTS: Final = MappingProxyType({"api-inference.huggingface.co": "https://router.huggingface.co/v1"})
_WRONG_ENDPOINT: Final = ".inference.endpoints.huggingface.cloud"


class Retired(NamedTuple):
    pattern: str
    successor: str
    since: str | None = None  # the day of the shutdown, where the notice named one


# Where a provider's calls go that names no address of its own; whoever sends them elsewhere may find any model there.
USUAL_HOSTS: Final = MappingProxyType(
    {
        "groq": "api.groq.com",
        "kimi": "api.moonshot.ai",
        "openai": "api.openai.com",
        "anthropic": "api.anthropic.com",
        "gemini": "generativelanguage.googleapis.com",
        "huggingface": "router.huggingface.co",
    }
)
MODELS: Final = MappingProxyType(
    {
        "api.groq.com": (
            Retired("llama-3.1-8b-instant", "openai/gpt-oss-20b", "2026-08-16"),
            Retired("llama-3.3-70b-versatile", "openai/gpt-oss-120b", "2026-08-16"),
        ),
        "api.moonshot.ai": tuple(
            Retired(pattern, "kimi-k2.6", "2026-05-25")
            for pattern in ("kimi-k2-*-preview", "kimi-k2-thinking*", "kimi-latest")
        ),
        "api.openai.com": (
            Retired("gpt-3.5-turbo-1106", "gpt-6-luna", "2026-09-28"),
            *(
                Retired(pattern, "gpt-6-luna", "2026-10-23")
                for pattern in (
                    "gpt-3.5-turbo*",
                    "gpt-4",
                    "gpt-4-turbo*",
                    "gpt-4.1-nano*",
                    "o1",
                    "o3-mini*",
                    "o4-mini*",
                )
            ),
        ),
        "api.anthropic.com": (
            Retired("claude-3-*", "claude-haiku-4-5"),
            Retired("claude-opus-4-2025*", "claude-opus-4-5", "2026-06-15"),
            Retired("claude-sonnet-4-2025*", "claude-sonnet-4-6", "2026-06-15"),
            Retired("claude-sonnet-4-5*", "claude-sonnet-4-6", "2026-11-30"),
        ),
        "generativelanguage.googleapis.com": (Retired("gemini-2.5-flash", "gemini-3.5-flash-lite", "2026-12-01"),),
        "router.huggingface.co": (
            Retired("meta-llama/Llama-4-Maverick-17B-128E-Instruct", "openai/gpt-oss-20b"),
            Retired("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ),
    }
)


def successor_url(url: str) -> str | None:
    """The address to use instead of a dead one; None where the address is not known to be dead."""
    return _HOSTS.get(_host(url))


def retired_model(provider: str, model: str, base_url: str | None = None) -> Retired | None:
    """What is known of a model's end at `base_url`, or where the provider of this name usually is."""
    host = USUAL_HOSTS.get(provider) if base_url is None else _host(base_url)
    bare = model.partition(":")[0]  # the router's `:cheapest` and the like do not belong to the name
    return next((one for one in MODELS.get(host or "", ()) if fnmatchcase(bare, one.pattern)), None)


def model_warning(where: str, provider: str, model: str, base_url: str | None = None) -> str | None:
    found = retired_model(provider, model, base_url)
    if found is None:
        return None
    day = "" if found.since is None else f" (shutdown {found.since})"
    return f"{where}: {provider} does not serve {model} any more{day}: use {found.successor}"


def url_warning(where: str, url: str) -> str | None:
    host = _host(url)
    if host in _HOSTS:
        return f"{where}: {host} is shut down: {_HOSTS[host]} is used instead"
    if host.endswith(_WRONG_ENDPOINT):
        return f"{where}: an endpoint's address has the form https://ID.REGION.VENDOR.endpoints.huggingface.cloud"
    return None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # told elsewhere, as a fault
        return ""
