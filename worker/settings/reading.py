"""From an environment and a file to Settings. Every fault is found before one is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from worker.settings import address
from worker.settings.declared import ENDPOINT_FLAVOUR, ENDPOINT_URL, HUGGING_FACE_VARIABLES, KEY_VARIABLES, Flavour
from worker.settings.fault import Fault, SettingsError, closest, did_you_mean, explained
from worker.settings.file import File, ProviderConfig, parsed
from worker.settings.retired import model_warning, successor_url, url_warning
from worker.settings.table import bounds, by_field, environment_table, extent
from worker.settings.variables import OwnEndpoint, Settings, no_blanks, user_data_dir

DEFAULT_FILE: Final = Path("completar.toml")
_PREFIX: Final = "COMPLETAR_"
_WEAK: Final = 20  # characters; the keys we make ourselves have more than twice as many


def load(environ: Mapping[str, str], config_file: Path | None = None) -> Settings:
    """Raises SettingsError with every fault of the environment and the file; `catalog.build` finds those of names.

    config_file  instead of COMPLETAR_CONFIG; without either, `completar.toml` in the working folder, if there is one
    """
    settings, faults = read(environ, config_file)
    if faults:
        raise SettingsError(faults)
    return settings


def read(environ: Mapping[str, str], config_file: Path | None = None) -> tuple[Settings, list[Fault]]:
    """The settings, with defaults where a value is faulty, and the faults. A blank variable counts as not set."""
    given = {name: value.strip() for name, value in environ.items() if value.strip()}
    faults = _unknown(given)
    values = _values(given, faults)
    if config_file is not None:
        values["config"] = config_file
    file = _file(values.get("config"), faults)
    values["keys"] = _keys(given, file, faults)
    values["endpoint"] = _endpoint(given, faults)
    values["providers"] = _providers(given, file, values["endpoint"], faults)
    values["routes"] = file.routes
    values["panels"] = file.panels
    settings = Settings(**values)
    faults += _crossed(settings)
    return settings.model_copy(update={"warnings": _warnings(given, settings, file)}), faults


def _unknown(given: Mapping[str, str]) -> list[Fault]:
    """Only names with our prefix: what else is in an environment is not our business."""
    known = {row.name for row in environment_table()}
    meant = {f"{_PREFIX}{name.removeprefix(_PREFIX)}": name for name in known}
    faults = []
    for name in sorted(given):
        if name.startswith(_PREFIX) and name not in known:
            found = closest(name, meant)
            hint = None if found is None else f"Did you mean {meant[found]}?"
            faults.append(Fault(name, "is not a variable of Completar", hint))
    return faults


def _values(given: Mapping[str, str], faults: list[Fault]) -> dict[str, Any]:
    variables = by_field()
    values: dict[str, Any] = {
        field: given[variable.name] for field, variable in variables.items() if variable.name in given
    }
    for field in {"config", "data_dir"} & values.keys():
        try:
            values[field] = Path(values[field]).expanduser()
        except RuntimeError:
            told = "names a user who is not known here: after ~ comes a slash, or a user's name"
            faults.append(Fault(variables[field].name, told))
            del values[field]
    values.setdefault("data_dir", user_data_dir(given))
    try:
        Settings(**values)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            field = str(one["loc"][0])
            message, hint = _sentence(field, one)
            if field in values:  # one sentence for each variable, whatever else is wrong with it
                faults.append(Fault(variables[field].name, message, hint))
                del values[field]
    return values


def _sentence(field: str, error: ErrorDetails) -> tuple[str, str | None]:
    if bounds(field) is None:
        return explained(error)
    kind = "a whole number" if Settings.model_fields[field].annotation is int else "a number"
    return f"must be {kind} {extent(field)}", None


def _file(path: Path | None, faults: list[Fault]) -> File:
    if path is None:
        path = DEFAULT_FILE
        if not path.is_file():
            return File()
    where = str(path)
    try:
        # PowerShell writes a byte order mark, which TOML does not know.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        faults.append(Fault(where, f"cannot be read: {error.strerror}", "COMPLETAR_CONFIG names it."))
        return File()
    except UnicodeDecodeError:
        faults.append(Fault(where, "is not UTF-8", "Save it as UTF-8."))
        return File()
    file, found = parsed(text, where)
    faults += found
    return file


def _keys(given: Mapping[str, str], file: File, faults: list[Fault]) -> dict[str, SecretStr]:
    """Every key variable that is set: the declared ones, and those the file names, which must be set."""
    named = {variable.name: "" for variable in KEY_VARIABLES}
    for provider, config in file.providers.items():
        for name in config.api_keys or ():
            named[name] = provider
    keys = {}
    for name, provider in named.items():
        if name in given:
            keys[name] = SecretStr(given[name])
            try:
                no_blanks(keys[name])
            except ValueError as error:
                faults.append(Fault(name, str(error)))
        elif provider:
            faults.append(
                Fault(f"providers.{provider}.api_keys", f"{name} is not set", did_you_mean(name, given.keys() - named))
            )
    return keys


def _endpoint(given: Mapping[str, str], faults: list[Fault]) -> OwnEndpoint | None:
    flavour = given.get(ENDPOINT_FLAVOUR.name, "").lower() or None
    known = get_args(Flavour)
    if flavour is not None and flavour not in known:
        told = f"must be one of {', '.join(known)}"
        faults.append(Fault(ENDPOINT_FLAVOUR.name, told, did_you_mean(flavour, known)))
        flavour = None
    if ENDPOINT_URL.name not in given:
        return None
    try:
        url = address.base_url(given[ENDPOINT_URL.name])
    except ValueError as error:
        faults.append(Fault(ENDPOINT_URL.name, str(error)))
        return None
    return OwnEndpoint.model_validate({"url": url, "flavour": flavour})


def _providers(
    given: Mapping[str, str], file: File, endpoint: OwnEndpoint | None, faults: list[Fault]
) -> dict[str, ProviderConfig]:
    """The file's providers, the environment laid over Hugging Face's, and dead addresses replaced."""
    own: dict[str, Any] = {
        field: given[variable.name] for field, variable in HUGGING_FACE_VARIABLES.items() if variable.name in given
    }
    if endpoint is not None:
        own["base_url"] = endpoint.url
    elif "base_url" in own:
        try:
            url = address.base_url(own["base_url"])
        except ValueError as error:
            del own["base_url"]
            faults.append(Fault(HUGGING_FACE_VARIABLES["base_url"].name, str(error)))
        else:
            # The router and endpoints alike have their OpenAI-compatible calls under /v1; people paste the bare host.
            own["base_url"] = f"{url}/v1" if url.count("/") == 2 else url
    providers = dict(file.providers)
    if own:
        providers["huggingface"] = providers.get("huggingface", ProviderConfig()).model_copy(update=own)
    for name, config in providers.items():
        successor = None if config.base_url is None else successor_url(config.base_url)
        if successor is not None:
            providers[name] = config.model_copy(update={"base_url": successor})
    return providers


def _crossed(settings: Settings) -> list[Fault]:
    """What no variable can say alone."""
    faults = []
    key = settings.api_key
    if key is not None and len(key) < _WEAK and not address.is_loopback(settings.host):
        faults.append(
            Fault(
                "COMPLETAR_API_KEY",
                f"is too short for a server others can reach ({_WEAK} characters or more)",
                'Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
        )
    if settings.hints == "redis" and settings.redis_url is None:
        faults.append(Fault("COMPLETAR_HINTS", "is redis, and REDIS_URL is not set", "Set it, or choose sql or auto."))
    if settings.lease_s < 2 * settings.heartbeat_s:
        faults.append(
            Fault(
                "COMPLETAR_LEASE_S", "must be at least twice COMPLETAR_HEARTBEAT_S, or a living worker counts as dead"
            )
        )
    return faults


def _warnings(given: Mapping[str, str], settings: Settings, file: File) -> tuple[str, ...]:
    """What is not answered any more, by where it stands."""
    found = list(_address_warnings(given, settings.endpoint))
    for name, config in file.providers.items():
        if config.base_url is not None:
            found.append(url_warning(f"providers.{name}.base_url", config.base_url))
    for where, provider, model in _named_models(given, file):
        known = settings.providers.get(provider)
        found.append(model_warning(where, provider, model, None if known is None else known.base_url))
    return tuple(one for one in found if one is not None)


def _address_warnings(given: Mapping[str, str], endpoint: OwnEndpoint | None) -> Iterator[str | None]:
    router, own, flavour = HUGGING_FACE_VARIABLES["base_url"].name, ENDPOINT_URL.name, ENDPOINT_FLAVOUR.name
    if endpoint is None:
        yield url_warning(router, given.get(router, ""))
        if flavour in given and own not in given:
            yield f"{flavour}: says nothing without {own}"
        return
    yield url_warning(own, endpoint.url)
    if router in given:
        yield f"{router}: is not used beside {own}"
    if flavour not in given:
        yield f"{flavour}: is not set, so a worker asks {own} at its start what it is ({', '.join(get_args(Flavour))})"


def _named_models(given: Mapping[str, str], file: File) -> Iterator[tuple[str, str, str]]:
    """Where, provider and model of every model somebody wrote down."""
    variable = HUGGING_FACE_VARIABLES["default_model"].name
    if variable in given:
        yield variable, "huggingface", given[variable]
    for name, config in file.providers.items():
        if config.default_model is not None:
            yield f"providers.{name}.default_model", name, config.default_model
        for model in config.models:
            yield f"providers.{name}.models", name, model
    for name, route in file.routes.items():
        for target in route.targets:
            provider, _, model = target.partition("/")
            yield f"routes.{name}.targets", provider, model
