"""What runs behind an endpoint's address, from what it answers to three harmless questions."""

from __future__ import annotations

from typing import Any, Final

import httpx

from worker.providers.json_request import bearer, json_request
from worker.providers.json_text import read_json
from worker.settings import Flavour

# Asked in this order; the first that is answered decides. None of them generates anything.
PATHS: Final = ("/v1/models", "/info")
ASLEEP: Final = frozenset({502, 503})


def build_probe(url: str, path: str, key: str | None) -> httpx.Request:
    return json_request("GET", url.removesuffix("/v1") + path, bearer(key))


def read_probe(path: str, status: int, body: bytes) -> Flavour | None:
    """The flavour this answer tells of; None: it tells nothing.

    Every chat engine lists its models under /v1; /info of TEI and of TGI name what they are.
    """
    if status != httpx.codes.OK:
        return None
    try:
        value: Any = read_json(body)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if path == "/v1/models":
        return "openai" if isinstance(value.get("data"), list) else None
    if "max_client_batch_size" in value and "max_input_length" in value and "model_type" in value:
        return "tei"
    return "tgi" if "max_total_tokens" in value or value.get("router") == "text-generation-router" else None
