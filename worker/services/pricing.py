"""What calls cost: by the configured price, else by the published one."""

from __future__ import annotations

from collections.abc import Iterable

from worker import clock
from worker.domain.budget import most_tokens
from worker.domain.money import Usage, cost_nano
from worker.domain.route import Target
from worker.providers.catalog import Catalog
from worker.providers.prices import published_nano
from worker.services.submit import JobRequest


def priced(catalog: Catalog, target: Target, usage: Usage, served_model: str | None = None) -> int | None:
    """Nano-dollars; of the model as the provider names it, then as we do. None where nobody knows the price."""
    if target.price is not None:
        return cost_nano(usage, target.price)
    base_url = catalog.providers[target.provider].base_url
    at = clock.now()
    served = published_nano(base_url, served_model, usage, at) if served_model is not None else None
    return served if served is not None else published_nano(base_url, target.model, usage, at)


class Unpriced(ValueError):
    """`target`: one whose price nobody knows."""

    def __init__(self, target: str) -> None:
        super().__init__(f"the price of {target} is not known")
        self.target = target


def most_nano(catalog: Catalog, targets: Iterable[Target], request: JobRequest, size: int) -> int:
    """What one call may cost at the dearest of these; `size` is the request's in characters. Raises Unpriced."""
    usage = most_tokens(request.kind, request.input, size)
    most = 0
    for target in targets:
        nano = priced(catalog, target, usage)
        if nano is None:
            raise Unpriced(target.name)
        most = max(most, nano)
    return most
