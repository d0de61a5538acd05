"""Presets, file and environment laid over each other. Nothing is raised: faults are collected and told together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from worker.domain.money import Price
from worker.domain.retry import Backoff
from worker.domain.route import ALL_NEEDS, Key, Need, Route, Target
from worker.providers.flavours import HUGGING_FACE, at_endpoint
from worker.providers.formats import FORMATS
from worker.providers.presets import PRESETS
from worker.providers.spec import Limits, ProviderSpec, distinct, suggested, target_named
from worker.settings import SANDBOX, Fault, ModelConfig, ProviderConfig, RouteConfig, Settings, closest, did_you_mean

DEFAULT: Final = "default"  # the route of a request that names none, and whose bounds a list of targets has
SANDBOX_MODEL: Final = "echo"
NOWHERE: Final = "http://sandbox.invalid"  # a name that is never resolved (RFC 6761): this process has no sandbox
# Invented, so that cost can be seen without spending any.
SANDBOX_PRICE: Final = Price(Decimal("0.05"), Decimal("0.20"))


@dataclass(slots=True)
class Merged:
    """absent: provider that could exist -> why it does not.
    unserved: why no job could be run at all; None: some provider is there to be asked
    """

    providers: dict[str, ProviderSpec] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unserved: str | None = None
    warnings: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, where: str, message: str, hint: str | None = None) -> None:
        self.faults.append(Fault(where, message, hint))


def merged(settings: Settings, sandbox_url: str | None) -> Merged:
    found = Merged()
    for name in [*PRESETS, *(name for name in settings.providers if name not in PRESETS)]:
        _add_provider(name, settings, found)
    keys = ", ".join(name for preset in PRESETS.values() for name in preset.api_keys or ())
    if not found.providers and sandbox_url is None:  # a sandbox that is named only has no address to be asked at
        found.unserved = f"no provider has a key: set one of {keys}, on web and worker"
    if settings.sandbox == "on" or (settings.sandbox == "auto" and not found.providers):
        found.providers[SANDBOX] = sandbox(sandbox_url)
    else:
        found.absent[SANDBOX] = "COMPLETAR_SANDBOX=on lets it exist beside others"
    if not found.providers:
        found.fault("COMPLETAR_SANDBOX", "is off and there is no provider", f"Set one of {keys}.")
    else:
        _Routes(settings.routes, found).add()
    return found


def sandbox(url: str | None) -> ProviderSpec:
    return ProviderSpec(
        name=SANDBOX,
        label="Sandbox (no real model)",
        format="openai",
        base_url=NOWHERE if url is None else url.rstrip("/"),
        default_model=SANDBOX_MODEL,
        is_sandbox=True,
        price=SANDBOX_PRICE,
        models={
            SANDBOX_MODEL: Target(SANDBOX, SANDBOX_MODEL, "Sandbox (no real model)", price=SANDBOX_PRICE),
        },
    )


def _add_provider(name: str, settings: Settings, found: Merged) -> None:
    preset, own = PRESETS.get(name), settings.providers.get(name)
    if preset is not None and name == HUGGING_FACE and settings.endpoint is not None:
        preset, own = at_endpoint(preset, own, settings.endpoint)
    config = _laid_over(preset, own)
    names = config.api_keys or ()
    keys = _pool(name, config, settings)
    if names and not keys:
        # A preset waits for its key; what the file names is meant to be there.
        why = f"{' or '.join(names)} is not set"
        if own is not None and own.api_keys is not None:
            found.fault(f"providers.{name}.api_keys", why)
        else:
            found.absent[name] = why
            if own is not None:
                found.warnings.append(f"providers.{name} is configured, but does not exist: {why}")
            return
    where = f"providers.{name}"
    if config.base_url is None:
        found.fault(f"{where}.base_url", "is missing", _known_as(name))
    if config.format is not None and config.format not in FORMATS:
        formats = ", ".join(sorted(FORMATS))
        found.fault(f"{where}.format", f"must be one of {formats}", did_you_mean(config.format, FORMATS))
    for variable in config.accounts.keys() - set(names):
        found.fault(f"{where}.api_keys", f"has no {variable}, which accounts names", did_you_mean(variable, names))
    found.providers[name] = _spec(name, config, keys)


def _known_as(name: str) -> str | None:
    preset = closest(name, PRESETS)
    return None if preset is None else f"Did you mean providers.{preset}, whose address is known?"


def _laid_over(preset: ProviderConfig | None, own: ProviderConfig | None) -> ProviderConfig:
    """What the file says beats the preset key by key, and model by model."""
    if preset is None or own is None:
        return preset or own or ProviderConfig()
    said = {key: getattr(own, key) for key in own.model_fields_set}
    models = dict(preset.models)
    for model, config in own.models.items():
        before = models.get(model, ModelConfig())
        models[model] = before.model_copy(update={key: getattr(config, key) for key in config.model_fields_set})
    return preset.model_copy(update=said | {"models": models})


def _pool(name: str, config: ProviderConfig, settings: Settings) -> tuple[Key, ...]:
    """The keys that are set, each secret once: two names of one key are one key."""
    by_secret: dict[str, Key] = {}
    for variable in config.api_keys or ():
        if variable in settings.keys:
            secret = settings.keys[variable].get_secret_value()
            by_secret.setdefault(secret, Key(variable, config.accounts.get(variable, name), _tag(secret)))
    return tuple(by_secret.values())


def _tag(secret: str) -> str:
    """32 bits: enough to see that a key was replaced, and nothing to find it by."""
    return hashlib.blake2b(secret.encode(), digest_size=4, person=b"completar-key").hexdigest()


def _spec(name: str, config: ProviderConfig, keys: tuple[Key, ...]) -> ProviderSpec:
    label = config.label if config.label is not None else name
    takes: frozenset[Need] = config.takes if config.takes is not None else ALL_NEEDS
    models = {
        model: Target(
            name,
            model,
            label,
            keys,
            takes if one.takes is None else one.takes,
            one.window,
            None if one.price is None else one.price.price(),
        )
        for model, one in config.models.items()
    }
    return ProviderSpec(
        name=name,
        label=label,
        format=config.format if config.format is not None else "openai",
        base_url=config.base_url if config.base_url is not None else "",
        keys=keys,
        limits=Limits(**config.limits.model_dump()),
        default_model=config.default_model if config.default_model is not None else next(iter(models), None),
        takes=takes,
        models=MappingProxyType(models),
        model_limits=MappingProxyType(
            {model: Limits(**one.limits.model_dump()) for model, one in config.models.items() if one.limits is not None}
        ),
    )


class _Routes:
    """The routes of the file and `default`, each with its targets spelt out."""

    def __init__(self, configured: Mapping[str, RouteConfig], found: Merged) -> None:
        self.found = found
        usable = [spec for spec in found.providers.values() if spec.default_model is not None]
        real = [spec for spec in usable if not spec.is_sandbox]
        usual = RouteConfig(targets=tuple(spec.name for spec in real or usable))
        self.configs = {DEFAULT: usual} | dict(configured)
        self.done: dict[str, tuple[Target, ...]] = {}

    def add(self) -> None:
        for name, config in self.configs.items():
            if name in self.found.providers or name in PRESETS or name == SANDBOX:
                self.found.fault(f"routes.{name}", "is the name of a provider", "Choose another name.")
            route = _route(name, config, self._targets(name, ()))
            why = _never_hedged(route)
            if why is not None:
                self.found.fault(f"routes.{name}.hedge_after_s", why)
            self.found.routes[name] = route

    def _targets(self, name: str, path: tuple[str, ...]) -> tuple[Target, ...]:
        if name in self.done:
            return self.done[name]
        path = (*path, name)
        where = f"routes.{name}.targets"
        targets: list[Target] = []
        if not self.configs[name].targets:
            self.found.fault(where, "is missing: a route needs a target")
        for wanted in self.configs[name].targets:
            if wanted in path:
                loop = " -> ".join((*path[path.index(wanted) :], wanted))
                self.found.fault(where, f"leads back to itself: {loop}")
            elif wanted in self.configs:
                targets += self._targets(wanted, path)
            else:
                target = self._target(wanted, where)
                targets += [] if target is None else [target]
        self.done[name] = distinct(targets)
        return self.done[name]

    def _target(self, wanted: str, where: str) -> Target | None:
        providers = self.found.providers
        target = target_named(wanted, providers)
        if target is None:
            provider = wanted.partition("/")[0]
            if provider in self.found.absent:
                why = f"names {wanted}, but {self.found.absent[provider]}"
            elif provider in providers:
                why = f"names {wanted}, but no model: {provider} has no default_model"
            else:
                why = f"names {wanted}, which is neither a provider's nor a route"
            suggestion = suggested(wanted, providers, self.configs)
            self.found.fault(where, why, None if suggestion is None else f"Did you mean {suggestion}?")
        return target


def _route(name: str, config: RouteConfig, targets: tuple[Target, ...]) -> Route:
    """Bounds the file does not name are the domain's own."""
    bounds = config.model_dump(exclude_none=True, exclude={"targets", "backoff", "on"})
    backoff = Backoff() if config.backoff is None else Backoff(config.backoff.base_s, config.backoff.cap_s)
    return Route(name, targets, backoff=backoff, on=MappingProxyType(dict(config.on)), **bounds)


def _never_hedged(route: Route) -> str | None:
    """Why a second target would never be asked although the route says so; None: it would, or nobody said so."""
    if route.hedge_after_s is None or not route.targets:
        return None
    if len(route.targets) == 1:
        return "needs a second target in the route"
    if route.max_attempts < 2:
        return "needs max_attempts of 2 or more: both calls count"
    if route.hedge_after_s >= route.attempt_timeout_s:
        return f"must be below attempt_timeout_s ({route.attempt_timeout_s:g}): no call is open for longer"
    return None
