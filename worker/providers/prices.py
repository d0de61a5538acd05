"""What a call cost by the providers' published prices: the dated table of the genai-prices package.

A model or a provider that the table does not know has no price: unknown, never 0. The table is the one that was
installed; nothing is fetched.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final

import genai_prices

from worker.domain.money import NANO, Usage

_REMEMBERED: Final = 4096


def published_nano(base_url: str, model: str, usage: Usage, at: datetime) -> int | None:
    """Nano-dollars of a call to `base_url` for `model`, by the prices in force `at` (aware UTC); None: not known."""
    if usage.input_tokens is None or usage.output_tokens is None or not _listed(base_url, model):
        return None
    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens or 0,
        output_tokens=usage.output_tokens,
    )
    try:
        found = genai_prices.calc_price(tokens, model, provider_api_url=base_url, genai_request_timestamp=at)
    except (LookupError, ValueError):  # ValueError: the provider counts more cached tokens than tokens
        return None
    return int(found.total_price * NANO)


@lru_cache(maxsize=_REMEMBERED)
def _listed(base_url: str, model: str) -> bool:
    """Asked once per model: most targets of a self-hosted installation are in no table."""
    try:
        genai_prices.calc_price(genai_prices.Usage(input_tokens=1), model, provider_api_url=base_url)
    except LookupError:
        return False
    return True
