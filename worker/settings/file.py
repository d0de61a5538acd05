"""The tables of `completar.toml`: providers, routes and panels. The file holds names of variables, never keys."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from worker.domain.consensus import Consensus
from worker.domain.failure import INTERACTIVE, FailureKind, Override, Then
from worker.domain.money import Price
from worker.domain.panel import MAX_MEMBERS
from worker.domain.retry import Backoff
from worker.domain.route import Need
from worker.settings import address
from worker.settings.fault import Fault, did_you_mean, explained

SANDBOX: Final = "sandbox"  # the name of the built-in provider; the file cannot take it
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_KEY: Final = re.compile(r"(sk[-_]|gsk_|hf_|AIza|xai-|ck_|r8_|nvapi-|Bearer )\S{12,}")
_IT_IS_A_KEY: Final = "looks like a key: the file holds names of environment variables, never keys"
# What is ours to decide is not a route's: it would go on after a cancel, or start over after a fault of our own.
_OURS: Final = {kind for kind, rule in INTERACTIVE.items() if rule.then is Then.END} | {
    FailureKind.NO_TARGET,
    FailureKind.INTERRUPTED,
    FailureKind.POISON,
    FailureKind.INTERNAL,
}


_CONSENSUS: Final = frozenset(one.name for one in fields(Consensus))
_READ_CONSENSUS: Final = TypeAdapter(Consensus)


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or (len(name) >= 20 and "_" not in name):
        raise ValueError("must be the name of an environment variable in capitals; keys do not belong in the file")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice")
    return names


def _consensus(given: dict[str, Any]) -> dict[str, Any]:
    unknown = [name for name in given if name not in _CONSENSUS]
    if unknown:
        raise ValueError(f"has no field {unknown[0]}; there are {', '.join(sorted(_CONSENSUS))}")
    read = _READ_CONSENSUS.validate_python(given)
    return {name: getattr(read, name) for name in given}


def _theirs(kind: FailureKind) -> FailureKind:
    if kind in _OURS:
        raise ValueError("cannot be changed: no provider's failure, but a decision of our own")
    return kind


Text = Annotated[str, Field(min_length=1, max_length=500)]
Whole = Annotated[int, Field(strict=True)]
Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000)]
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]
VariableName = Annotated[str, AfterValidator(_variable)]
TheirKind = Annotated[FailureKind, AfterValidator(_theirs)]
BaseUrl = Annotated[str, AfterValidator(address.base_url)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PriceConfig(_Table):
    """US dollars per million tokens."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None

    def price(self) -> Price:
        return Price(self.input, self.output, self.cached_input)


class LimitsConfig(_Table):
    """Of each account, over all workers: requests and tokens per minute, calls at once; what is absent is learnt.

    tpm     input and output tokens together
    slow_s  a longer call counts against the circuit breaker
    """

    rpm: Annotated[Whole, Field(ge=1)] | None = None
    tpm: Annotated[Whole, Field(ge=1)] | None = None
    concurrency: Annotated[Whole, Field(ge=1)] | None = None
    input_tpm: Annotated[Whole, Field(ge=1)] | None = None
    output_tpm: Annotated[Whole, Field(ge=1)] | None = None
    slow_s: Annotated[Seconds, Field(gt=0, le=3600)] | None = None


class ModelConfig(_Table):
    """window: context window in tokens; takes: what it can be asked for (default: what its provider takes).

    limits: of this model, besides those of its provider.
    """

    window: Annotated[Whole, Field(ge=1)] | None = None
    takes: frozenset[Need] | None = None
    price: PriceConfig | None = None
    limits: LimitsConfig | None = None


class ProviderConfig(_Table):
    """What the file (or a preset) says of one provider; what is absent is the preset's.

    api_keys       names of variables, tried in this order
    accounts       variable -> billing account, for keys that do not share the provider's one account
    default_model  what the bare name of the provider stands for
    takes          what its models can be asked for where they do not say it themselves
    """

    format: Text | None = None
    base_url: BaseUrl | None = None
    api_keys: Annotated[tuple[VariableName, ...], AfterValidator(_distinct)] | None = None
    accounts: Mapping[VariableName, Text] = {}
    label: Text | None = None
    default_model: Text | None = None
    takes: frozenset[Need] | None = None
    limits: LimitsConfig = LimitsConfig()
    models: Mapping[Text, ModelConfig] = {}


class BackoffConfig(_Table):
    base_s: Annotated[Seconds, Field(ge=0, le=3600)] = Backoff().base_s
    cap_s: Annotated[Seconds, Field(ge=0, le=86_400)] = Backoff().cap_s

    @model_validator(mode="after")
    def _ordered(self) -> BackoffConfig:
        if self.base_s > self.cap_s:
            raise ValueError("must have base_s not above cap_s")
        return self


class RouteConfig(_Table):
    """Targets in order (`provider/model`, a provider, or another route) and bounds; absent ones are the domain's."""

    targets: Annotated[tuple[Text, ...], AfterValidator(_distinct)] = ()
    max_attempts: Annotated[Whole, Field(ge=1, le=100)] | None = None
    attempt_timeout_s: Annotated[Seconds, Field(ge=0.1, le=3600)] | None = None
    first_byte_timeout_s: Annotated[Seconds, Field(ge=0.1, le=3600)] | None = None
    connect_timeout_s: Annotated[Seconds, Field(ge=0.1, le=300)] | None = None
    max_wait_s: Annotated[Seconds, Field(ge=0, le=3600)] | None = None
    cold_start_s: Annotated[Seconds, Field(ge=0, le=86_400)] | None = None
    hedge_after_s: Annotated[Seconds, Field(ge=0.1, le=3600)] | None = None
    backoff: BackoffConfig | None = None
    on: Mapping[TheirKind, Override] = {}


class MemberConfig(_Table):
    """One seat of a panel: a model, and whom to ask in its place."""

    model: Text
    fallback: Annotated[tuple[Text, ...], AfterValidator(_distinct)] = ()
    name: Text | None = None


class PanelConfig(_Table):
    """A named panel. `consensus` is what a prediction does not say itself of how votes become an answer."""

    members: Annotated[tuple[Text | MemberConfig, ...], Field(min_length=1, max_length=MAX_MEMBERS)] = ()
    consensus: Annotated[dict[str, Any], AfterValidator(_consensus)] = {}


class File(_Table):
    providers: Mapping[str, ProviderConfig] = {}
    routes: Mapping[str, RouteConfig] = {}
    panels: Mapping[str, PanelConfig] = {}


_T = TypeVar("_T", bound=_Table)


def parsed(text: str, where: str) -> tuple[File, list[Fault]]:
    """What the file says, as far as it can be read, and what is wrong with the rest. `where` names the file."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return File(), [Fault(where, f"is not valid TOML: {error}")]
    faults: list[Fault] = []
    document = _without_keys(document, "", faults)
    faults += [
        Fault(name, "is not a table of this file", did_you_mean(name, File.model_fields))
        for name in document
        if name not in File.model_fields
    ]
    return (
        File(
            providers=_named(ProviderConfig, document, "providers", faults),
            routes=_named(RouteConfig, document, "routes", faults),
            panels=_named(PanelConfig, document, "panels", faults),
        ),
        faults,
    )


def _named(table: type[_T], document: Mapping[str, Any], kind: str, faults: list[Fault]) -> dict[str, _T]:
    entries = document.get(kind, {})
    if not isinstance(entries, dict):
        faults.append(Fault(kind, f"must hold tables: [{kind}.NAME]"))
        return {}
    read = {}
    for name, entry in entries.items():
        where = f"{kind}.{name}"
        if not _NAME.fullmatch(name):
            faults.append(Fault(where, "needs a name of letters, digits, dots, dashes and underscores"))
        elif kind == "providers" and name == SANDBOX:
            faults.append(Fault(where, "is the name of the built-in provider", "Choose another name."))
        else:
            read[name] = _one(table, entry, where, faults)
    return read


def _one(table: type[_T], entry: Any, where: str, faults: list[Fault]) -> _T:
    """The entry without its faulty keys, so that one mistake does not make others look like mistakes."""
    if not isinstance(entry, dict):
        faults.append(Fault(where, "must be a table"))
        return table()
    try:
        return table.model_validate(entry)
    except ValidationError as error:
        found = error.errors(include_url=False)
    for one in found:
        path = [str(part) for part in one["loc"] if part != "[key]"]
        message, hint = explained(one)
        if one["type"] == "extra_forbidden":
            message, hint = "is not a known key", did_you_mean(path[-1], _fields(table, path))
        faults.append(Fault(".".join((where, *path)), message, hint))
    bad = {one["loc"][0] for one in found}
    return table.model_validate({key: value for key, value in entry.items() if key not in bad})


def _fields(table: type[_Table], path: list[str]) -> Iterator[str]:
    inner: dict[str, type[_Table]] = {"limits": LimitsConfig, "backoff": BackoffConfig, "price": PriceConfig}
    if len(path) >= 2:
        table = inner.get(path[-2], ModelConfig)
    yield from table.model_fields


def _without_keys(value: Any, where: str, faults: list[Fault]) -> Any:
    """The document without what looks like a key, so that no later message can repeat one."""
    if isinstance(value, dict):
        clean = {}
        for name, inner in value.items():
            if _KEY.match(name):
                faults.append(Fault(where or "the file", f"has a name that {_IT_IS_A_KEY}"))
            elif isinstance(inner, str) and _KEY.match(inner):
                faults.append(Fault(f"{where}.{name}".lstrip("."), _IT_IS_A_KEY))
            else:
                clean[name] = _without_keys(inner, f"{where}.{name}".lstrip("."), faults)
        return clean
    if isinstance(value, list):
        if any(isinstance(item, str) and _KEY.match(item) for item in value):
            faults.append(Fault(where, f"has an entry that {_IT_IS_A_KEY}"))
        return [
            _without_keys(item, where, faults) for item in value if not (isinstance(item, str) and _KEY.match(item))
        ]
    return value
