"""A provider as it is called, and the names its models go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from worker.domain.money import Price
from worker.domain.route import ALL_NEEDS, Key, Need, Target
from worker.settings import closest


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each account, over all workers: requests and tokens per minute, calls at once. None: learnt from the provider.

    tpm      input and output together; `input_tpm` and `output_tpm` each for itself
    slow_s   a longer call counts against the breaker; None: only those that time out
    """

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    input_tpm: int | None = None
    output_tpm: int | None = None
    slow_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One provider as it is called.

    base_url       without a slash at the end
    keys           the pool, in order; empty: it takes no key
    takes, price   of models that are not listed
    models         listed ones; any other name is asked for all the same
    model_limits   of single models, besides those of the provider
    """

    name: str
    label: str
    format: str
    base_url: str
    keys: tuple[Key, ...] = ()
    limits: Limits = Limits()
    default_model: str | None = None
    is_sandbox: bool = False
    takes: frozenset[Need] = ALL_NEEDS
    price: Price | None = None
    models: Mapping[str, Target] = field(default_factory=lambda: MappingProxyType({}))
    model_limits: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))

    def limited(self) -> Iterator[tuple[str, Limits]]:
        """The provider and those of its targets that have limits of their own, by name."""
        yield self.name, self.limits
        for model, limits in self.model_limits.items():
            yield f"{self.name}/{model}", limits

    def target(self, model: str) -> Target:
        listed = self.models.get(model)
        if listed is not None:
            return listed
        return Target(self.name, model, self.label, self.keys, self.takes, None, self.price)


def target_named(name: str, providers: Mapping[str, ProviderSpec]) -> Target | None:
    """`provider/model` (the provider is what stands before the first slash) or a provider with a default model."""
    provider, slash, model = name.partition("/")
    spec = providers.get(provider)
    if spec is None:
        return None
    wanted = model if slash else spec.default_model
    return spec.target(wanted) if wanted else None


def distinct(targets: Iterable[Target]) -> tuple[Target, ...]:
    """In order, each once: a route visits a target once per pass."""
    return tuple({target.name: target for target in targets}.values())


def suggested(name: str, providers: Mapping[str, ProviderSpec], routes: Iterable[str]) -> str | None:
    """A name that exists and was perhaps meant: the same model somewhere, else one spelt alike."""
    listed = [target for spec in providers.values() for target in spec.models.values()]
    for target in listed:
        if name in {target.model, target.model.rpartition("/")[2]}:
            return target.name
    return closest(name, [*routes, *providers, *(target.name for target in listed)])
