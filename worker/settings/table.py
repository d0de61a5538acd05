"""Made from the declarations of variables: the README's table, bounds in words, and the values for a screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from annotated_types import Ge, Le
from pydantic import SecretStr

from worker.domain.answer import Json
from worker.domain.failure import Lane
from worker.settings import address
from worker.settings.declared import (
    ENDPOINT_FLAVOUR,
    ENDPOINT_URL,
    HUGGING_FACE_VARIABLES,
    KEY_VARIABLES,
    WEBHOOK_SECRET,
    Variable,
)
from worker.settings.variables import Settings

_MASK: Final = "***"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table of variables; an empty default means: not set."""

    name: str
    default: str
    meaning: str


def by_field() -> dict[str, Variable]:
    """Field of Settings -> its variable."""
    found = {}
    for field, info in Settings.model_fields.items():
        variable = next((item for item in info.metadata if isinstance(item, Variable)), None)
        if variable is not None:
            found[field] = variable
    return found


def bounds(field: str) -> tuple[float, float] | None:
    """The least and the greatest value a number may have; None: the field is no number."""
    metadata = Settings.model_fields[field].metadata
    low: Any = next((item.ge for item in metadata if isinstance(item, Ge)), None)
    high: Any = next((item.le for item in metadata if isinstance(item, Le)), None)
    return None if low is None or high is None else (low, high)


def environment_table() -> list[Row]:
    """Every variable in the order people meet them: the process, then the providers."""
    of_providers = (*KEY_VARIABLES, *HUGGING_FACE_VARIABLES.values(), ENDPOINT_URL, ENDPOINT_FLAVOUR)
    return [*_rows(), *(Row(variable.name, "", variable.meaning) for variable in (WEBHOOK_SECRET, *of_providers))]


def _rows() -> Iterator[Row]:
    for field, variable in by_field().items():
        default = Settings.model_fields[field].default
        text = variable.shown if variable.shown is not None else _plain(default)
        bound = extent(field)
        meaning = f"{variable.meaning.rstrip('.')} {bound}." if bound else variable.meaning
        yield Row(variable.name, text, meaning)


def extent(field: str) -> str:
    """`(0 to 3,600 seconds)`, or nothing for what is no number."""
    span = bounds(field)
    if span is None:
        return ""
    return f"({span[0]:,} to {span[1]:,} {by_field()[field].unit}".rstrip() + ")"


def redacted(settings: Settings) -> dict[str, Json]:
    """Variable -> the value in force, fit for a screen: no password, no key; None: not set."""
    shown = {variable.name: _shown(getattr(settings, field)) for field, variable in by_field().items()}
    for name, url in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)):
        shown[name] = None if url is None else address.masked(url.get_secret_value())
    return shown | dict.fromkeys((v.name for v in KEY_VARIABLES), None) | dict.fromkeys(settings.keys, _MASK)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, frozenset):
        return ",".join(lane for lane in Lane if lane in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> Json:
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, frozenset | tuple):
        return _plain(value)
    return str(value) if isinstance(value, Path) else value
