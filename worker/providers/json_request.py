"""A request that carries JSON, whole: nothing is left for a client to add."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import httpx

from worker.providers.format import USER_AGENT

_dumps: Final = json.JSONEncoder(separators=(",", ":")).encode  # ASCII: a lone surrogate cannot break it


def bearer(key: str | None) -> tuple[tuple[str, str], ...]:
    return () if key is None else (("Authorization", f"Bearer {key}"),)


def json_request(
    method: str, url: str, headers: tuple[tuple[str, str], ...] = (), body: Mapping[str, Any] | None = None
) -> httpx.Request:
    """`headers` are those beside the usual ones: the credential, a version.

    Raises httpx.InvalidURL.
    """
    where, usual = _address(url, headers, has_body=body is not None)
    if body is None:
        return httpx.Request(method, where, headers=usual)
    content = _dumps(body).encode("ascii")
    request = httpx.Request(method, where, headers=usual, stream=httpx.ByteStream(content))
    request.headers["Content-Length"] = str(len(content))  # of its own copy
    return request


@lru_cache(maxsize=1024)
def _address(url: str, headers: tuple[tuple[str, str], ...], *, has_body: bool) -> tuple[httpx.URL, httpx.Headers]:
    """Where to, and all headers but the length. Hugging Face compares Content-Type and Accept as exact strings."""
    where = httpx.URL(url)
    usual = [("Host", where.netloc.decode("ascii"))]
    if has_body:
        usual.append(("Content-Type", "application/json"))
    usual += [("Accept", "application/json"), ("Accept-Encoding", "identity"), ("User-Agent", USER_AGENT)]
    return where, httpx.Headers([*usual, *headers])
