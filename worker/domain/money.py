"""Tokens and cost. Unknown is None, never 0: a sum with an unknown part says so (`complete: false`)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

CURRENCY: Final = "USD"
NANO: Final = 1_000_000_000  # money is stored as whole nano-dollars
_PER: Final = 1_000_000  # prices are quoted per million tokens


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, normalised: `input_tokens` includes cached ones, `output_tokens` includes reasoning."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        if self is NO_USAGE:  # what every sum begins with
            return other
        return Usage(
            added(self.input_tokens, other.input_tokens),
            added(self.output_tokens, other.output_tokens),
            added(self.cached_tokens, other.cached_tokens),
            added(self.reasoning_tokens, other.reasoning_tokens),
        )


def added(a: int | None, b: int | None) -> int | None:
    """The sum of what is known; None where nothing is."""
    if a is None:
        return b
    return a if b is None else a + b


NO_USAGE: Final = Usage()


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None


def cost_nano(usage: Usage, price: Price | None) -> int | None:
    """Nano-dollars of a call, or None where the price or the tokens are unknown."""
    if price is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached = 0 if usage.cached_tokens is None or price.cached_input is None else usage.cached_tokens
    dollars = price.input * (usage.input_tokens - cached)
    if cached and price.cached_input is not None:
        dollars += price.cached_input * cached
    dollars += price.output * usage.output_tokens
    return int(dollars * NANO / _PER)


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def cost_json(nano: int | None, *, complete: bool) -> dict[str, Any]:
    """In dollars. Not `complete`: a part of it is unknown."""
    return {"amount": None if nano is None else nano / NANO, "currency": CURRENCY, "complete": complete}


def nano_of(amount: float) -> int:
    """Nano-dollars of an amount in dollars as people write it; a fraction of one counts as one."""
    return int((Decimal(str(amount)) * NANO).to_integral_value(ROUND_CEILING))


def in_dollars(nano: int) -> str:
    """For people, exact: `$0.0015`."""
    return f"${Decimal(nano) / NANO:f}"


def estimate_tokens(characters: int) -> int:
    """A guess for reservations: four characters a token (a tokenizer would need its vocabulary downloaded)."""
    return -(-characters // 4)
