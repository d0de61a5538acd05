"""Pydantic's findings as faults: a path the caller wrote, what must be so, and a way out. No value is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from worker.domain.answer import Json
from worker.settings import closest


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request. The caller's own values are never repeated.

    field  a path in the body, a parameter or a header
    line   from 1, where there are many requests in one
    """

    field: str
    message: str
    remedy: str
    line: int | None = None

    def json(self) -> dict[str, Json]:
        where: dict[str, Json] = {} if self.line is None else {"line": self.line}
        return where | {"field": self.field, "message": self.message, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.field} {self.message}. {self.remedy}"


MOST: Final = 20  # of one request
_NAME_CUT: Final = 60

# Fields people look for where they are not.
_REMARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stream": "Leave it out; follow the job at /v1/jobs/{id}/events instead.",
        "webhook": "Leave it out; POST /v1/jobs takes it, and /v1/webhook_endpoints hear of every job.",
    }
)
_REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "Add it.",
        "model_type": "Send a JSON object.",
        "model_attributes_type": "Send a JSON object.",
        "dict_type": "Send a JSON object.",
        "list_type": "Send a list.",
        "string_type": "Send a string.",
        "string_unicode": "Send valid Unicode: no lone surrogates.",
        "int_type": "Send a whole number.",
        "float_type": "Send a number.",
        "bool_type": "Send true or false.",
        "string_pattern_mismatch": "Check it for typing errors, blanks and cuts.",
        "too_short": "Send more.",
        "too_long": "Send fewer.",
        "string_too_short": "Send a longer one, or leave it out.",
        "string_too_long": "Shorten it.",
        "greater_than": "Send a number within the bounds.",
        "greater_than_equal": "Send a number within the bounds.",
        "less_than": "Send a number within the bounds.",
        "less_than_equal": "Send a number within the bounds.",
        "literal_error": "Choose one of these.",
        "union_tag_invalid": "Choose one of these.",
        "union_tag_not_found": "Add it.",
    }
)
_TYPE_WORDS: Final = (
    ("Input should be", "must be"),
    ("valid dictionary or object to extract fields from", "JSON object"),
    ("valid dictionary", "JSON object"),
    ("valid list", "list"),
    ("valid string", "string"),
    ("valid integer", "whole number"),
    ("valid number", "number"),
    ("valid boolean", "boolean"),
)


def faults_of(error: ValidationError, model: Any, given: Any, line: int | None = None) -> list[Fault]:
    """At most MOST. `model` is what was asked for (for names that were perhaps meant), `given` the JSON."""
    found = error.errors(include_input=False, include_url=False)
    return [_fault(one, model, given, line) for one in found[:MOST]]


def _fault(error: ErrorDetails, model: Any, given: Any, line: int | None) -> Fault:
    kind = error["type"]
    field = _path(error["loc"], given, whole=kind == "missing")
    context: Mapping[str, Any] = error.get("ctx") or {}
    match kind:
        case "missing":
            return Fault(field, "is missing", "Add it.", line)
        case "model_type":  # theirs names the class, which is nobody's business
            return Fault(field, "must be a JSON object", _REMEDIES[kind], line)
        case "extra_forbidden":
            return Fault(field, "is not a known field", _meant(error["loc"], model), line)
        case "fault":  # of a validator of ours: it brings its own words, and the field where it is not its own
            field = ".".join(filter(None, (field if field != "body" else "", context.get("field", "")))) or "body"
            return Fault(field, context["message"], context["remedy"], line)
        case "union_tag_invalid" | "union_tag_not_found":
            tag = str(context["discriminator"]).strip("'")
            field = f"{field}.{tag}" if field != "body" else tag
            expected = context.get("expected_tags")
            said = "is missing" if expected is None else f"must be one of {str(expected).replace(chr(39), '')}"
            return Fault(field, said, _REMEDIES[kind], line)
        case "string_pattern_mismatch":
            message = f"must match {context['pattern']}"
        case "literal_error":
            message = "must be " + str(context["expected"]).replace("'", "")
        case _:
            message = error["msg"]
            for theirs, ours in _TYPE_WORDS:
                message = message.replace(theirs, ours)
            message = message[:1].lower() + message[1:]
    return Fault(field, message, _REMEDIES.get(kind, "Correct it, or leave it out; /docs says what is taken."), line)


def _path(loc: Sequence[int | str], given: Any, *, whole: bool) -> str:
    """The place as the caller wrote it: what Pydantic adds (names of union members) is not in what was given."""
    path = ""
    for n, part in enumerate(loc):
        if isinstance(given, list) and isinstance(part, int):
            path += f"[{part}]"
            given = given[part] if part < len(given) else None
        elif isinstance(given, dict) and part in given:
            path += f".{str(part)[:_NAME_CUT]}"
            given = given[part]
        elif whole and n == len(loc) - 1:
            path += f".{part}"
    return path.removeprefix(".") or "body"


def _meant(loc: Sequence[int | str], model: Any) -> str:
    name = str(loc[-1])
    models = _models(model)
    for part in loc[:-1]:
        inner = {
            found for m in models if part in m.model_fields for found in _models(m.model_fields[str(part)].annotation)
        }
        models = inner or models
    known = sorted({info.alias or field for m in models for field, info in m.model_fields.items()})
    if name in _REMARKS:
        return _REMARKS[name]
    near = closest(name[:_NAME_CUT], known)
    return f"Did you mean {near}?" if near is not None else f"Leave it out; known here: {', '.join(known)}."


def _models(annotation: Any) -> set[type[BaseModel]]:
    """The models a type is made of, through lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models(part)}
