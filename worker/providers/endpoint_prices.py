"""What an Inference Endpoint costs while it initializes and runs: US dollars per hour and replica.

As published on AS_OF (huggingface.co/docs/inference-endpoints, Pricing). The management API tells the price of every
instance an account may use; this table answers where it is not asked. What is not in it is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Final

AS_OF: Final = date(2026, 11, 22)

# vendor, instance type, instance size
PRICES: Final[Mapping[tuple[str, str, str], Decimal]] = MappingProxyType(
    {
        ("aws", "intel-spr", "x1"): Decimal("0.033"),
        ("aws", "intel-spr", "x2"): Decimal("0.067"),
        ("aws", "intel-spr", "x4"): Decimal("0.134"),
        ("aws", "intel-spr", "x8"): Decimal("0.268"),
        ("aws", "intel-spr", "x16"): Decimal("0.536"),
        ("aws", "nvidia-t4", "x1"): Decimal("0.5"),
        ("aws", "nvidia-l4", "x1"): Decimal("0.8"),
        ("aws", "nvidia-a10g", "x1"): Decimal(1),
        ("aws", "nvidia-l40s", "x1"): Decimal("1.8"),
        ("aws", "nvidia-a100", "x1"): Decimal("2.5"),
        ("aws", "nvidia-h200", "x1"): Decimal(5),
        ("azure", "intel-xeon", "x1"): Decimal("0.060"),
        ("gcp", "intel-spr", "x1"): Decimal("0.05"),
    }
)


def price_per_hour(vendor: str, instance_type: str, instance_size: str) -> Decimal | None:
    """None: unknown, which is not free."""
    return PRICES.get((vendor, instance_type, instance_size))
