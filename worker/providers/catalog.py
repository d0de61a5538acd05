"""Which providers and routes there are, and what a request's `model` stands for.

Presets, the file and the environment are laid over each other once; after that every answer is a look-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import SecretStr

from worker.domain.answer import Json
from worker.domain.money import Price
from worker.domain.route import Route, Target
from worker.providers.merging import DEFAULT, merged
from worker.providers.spec import Limits, ProviderSpec, distinct, suggested, target_named
from worker.settings import Fault, Settings, SettingsError, read

__all__ = ["Catalog", "Limits", "NoProvider", "ProviderSpec", "UnknownModel", "build", "check"]

_REMEMBERED: Final = 1024  # names come from requests: without a bound a client could fill the memory
_CUT: Final = 200


class UnknownModel(ValueError):
    """No route and no target has this name. `suggestion`: a name that would do; `why`: more, where more is known."""

    def __init__(self, name: str, suggestion: str | None = None, why: str | None = None) -> None:
        self.name = name[:_CUT]
        self.suggestion = suggestion
        self.why = why
        more = "" if why is None else f": {why}"
        super().__init__(
            f"unknown model {self.name!r}{more}" + ("" if suggestion is None else f"; did you mean {suggestion!r}?")
        )


class NoProvider(UnknownModel):
    """Nobody could be asked, whatever is named: no provider has a key, and this process has no sandbox."""

    def __str__(self) -> str:
        return str(self.why)


class Catalog:
    """What there is. Immutable. `warnings` are sentences for the log, the settings' among them; `unserved` says why
    nobody can be asked, None: somebody can.
    """

    def __init__(
        self,
        providers: Mapping[str, ProviderSpec],
        routes: Mapping[str, Route],
        secrets: Mapping[str, SecretStr],
        warnings: Sequence[str] = (),
        absent: Mapping[str, str] | None = None,
        *,
        unserved: str | None = None,
        refuses: bool = False,
    ) -> None:
        """`absent`: provider that could exist -> why it does not. `refuses`: where it is unserved, nothing resolves."""
        self.providers = MappingProxyType(dict(providers))
        self.routes = MappingProxyType(dict(routes))
        self.warnings = tuple(warnings)
        self.unserved = unserved
        self.refuses = refuses and unserved is not None
        self._absent = dict(absent or {})
        self._secrets = {(spec.name, key.name): secrets[key.name] for spec in providers.values() for key in spec.keys}
        self._resolved = lru_cache(_REMEMBERED)(self._resolve)

    def resolve(self, models: Sequence[str]) -> Route:
        """A route's name, `provider/model`, a provider (its default model), or a list of these in order.

        The last three come as a route of their own with the bounds of route `default`. Raises UnknownModel, and
        NoProvider where nobody could be asked.
        """
        if self.refuses:
            raise NoProvider(",".join(models), why=self.unserved)
        return self._resolved(tuple(models))

    def only(self, provider: str) -> Route:
        """What route `default` would ask of this provider alone, else its default model. Raises UnknownModel."""
        usual = [target.name for target in self.routes[DEFAULT].targets if target.provider == provider]
        if not usual and provider not in self.providers:
            raise self._unknown(provider)
        return self.resolve(usual or [provider])

    def secret(self, provider: str, key_name: str) -> str:
        """The key itself. Raises KeyError for a key the provider has not got."""
        return self._secrets[provider, key_name].get_secret_value()

    def describe(self) -> dict[str, Json]:
        """The merged result, fit for a screen: names of keys, never keys."""
        return {
            "providers": {name: _provider(spec) for name, spec in self.providers.items()},
            "routes": {name: _route(route) for name, route in self.routes.items()},
            "warnings": list(self.warnings),
        }

    def _resolve(self, models: tuple[str, ...]) -> Route:
        if len(models) == 1 and models[0] in self.routes:
            return self.routes[models[0]]
        if not models:
            raise UnknownModel("", DEFAULT)
        targets = distinct(target for name in models for target in self._targets(name))
        return replace(self.routes[DEFAULT], name=",".join(target.name for target in targets), targets=targets)

    def _targets(self, name: str) -> tuple[Target, ...]:
        route = self.routes.get(name)
        if route is not None:
            return route.targets
        target = target_named(name, self.providers)
        if target is None:
            raise self._unknown(name)
        return (target,)

    def _unknown(self, name: str) -> UnknownModel:
        provider, slash, _ = name.partition("/")
        why = self._absent.get(provider)
        if why is None and provider in self.providers and not slash:
            why = f"provider {provider} has no default model"
        return UnknownModel(name, suggested(name, self.providers, self.routes), why)


def build(settings: Settings, sandbox_url: str | None = None) -> Catalog:
    """Raises SettingsError with every fault between names: an unknown provider, a loop of routes, a missing address.

    sandbox_url  base URL of the sandbox of this process; where there is none, the sandbox can be named but not called,
                 and without another provider no model resolves
    """
    catalog, faults = _built(settings, sandbox_url, refuses=True)
    if faults:
        raise SettingsError(faults)
    return catalog


def check(environ: Mapping[str, str], config_file: Path | None = None) -> tuple[Settings, Catalog]:
    """As `settings.load` and `build` after each other, but the faults of both come at once."""
    settings, faults = read(environ, config_file)
    catalog, more = _built(settings, None)
    # What follows from a fault that is told already is left out.
    faults += [fault for fault in more if not any(fault.concerns(other) for other in faults)]
    if faults:
        raise SettingsError(faults)
    return settings, catalog


def _built(settings: Settings, sandbox_url: str | None, *, refuses: bool = False) -> tuple[Catalog, list[Fault]]:
    found = merged(settings, sandbox_url)
    warnings = (*settings.warnings, *found.warnings)
    catalog = Catalog(
        found.providers,
        found.routes,
        settings.keys,
        warnings,
        found.absent,
        unserved=found.unserved,
        refuses=refuses,
    )
    faults = [*found.faults, *([] if catalog.refuses else _panel_faults(settings, catalog))]
    return catalog, faults


def _panel_faults(settings: Settings, catalog: Catalog) -> Iterator[Fault]:
    for name, panel in settings.panels.items():
        where = f"panels.{name}.members"
        if not panel.members:
            yield Fault(where, "is missing: a panel needs a member")
        for member in panel.members:
            for model in [member] if isinstance(member, str) else [member.model, *member.fallback]:
                try:
                    catalog.resolve((model,))
                except UnknownModel as unknown:
                    remedy = None if unknown.suggestion is None else f"Did you mean {unknown.suggestion}?"
                    yield Fault(where, f"names {unknown.name}, which is no route and no target", remedy)


def _provider(spec: ProviderSpec) -> Json:
    return {
        "label": spec.label,
        "format": spec.format,
        "base_url": spec.base_url,
        "api_keys": {key.name: key.account for key in spec.keys},
        "limits": asdict(spec.limits),
        "default_model": spec.default_model,
        "sandbox": spec.is_sandbox,
        "models": {
            model: {"window": target.window, "takes": sorted(target.takes), "price": _price(target.price)}
            for model, target in spec.models.items()
        },
    }


def _price(price: Price | None) -> Json:
    if price is None:
        return None
    return {
        "input": str(price.input),
        "output": str(price.output),
        "cached_input": None if price.cached_input is None else str(price.cached_input),
    }


def _route(route: Route) -> Json:
    return {
        "targets": [target.name for target in route.targets],
        "max_attempts": route.max_attempts,
        "attempt_timeout_s": route.attempt_timeout_s,
        "connect_timeout_s": route.connect_timeout_s,
        "first_byte_timeout_s": route.first_byte_timeout_s,
        "max_wait_s": route.max_wait_s,
        "cold_start_s": route.cold_start_s,
        "hedge_after_s": route.hedge_after_s,
        "backoff": {"base_s": route.backoff.base_s, "cap_s": route.backoff.cap_s},
        "on": {str(kind): word for kind, word in route.on.items()},
    }
