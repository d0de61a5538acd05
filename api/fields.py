"""The types of fields: strict, and with bounds that show in the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)
from pydantic.functional_validators import WrapValidator
from pydantic_core import PydanticCustomError, PydanticKnownError

from worker.services import schema as schemas

JOB_ID: Final = "^job_[0-9a-hjkmnp-tv-z]{26}$"
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def fault(message: str, remedy: str, field: str = "") -> PydanticCustomError:
    """What a validator of ours raises; `field` where it is found on the whole and concerns one."""
    return PydanticCustomError("fault", "{message}", {"message": message, "remedy": remedy, "field": field})


class Strict(BaseModel):
    """A part of a request: no field that is not known, no value that is merely similar."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise PydanticKnownError("string_type")


def _whole(value: Any) -> Any:
    """JSON Schema counts 1.0 as a whole number, and so do clients whose language has only floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rfc3339(value: Any) -> Any:
    # In a query a bare + is a blank; nobody means it there.
    value = value.replace(" ", "+") if isinstance(value, str) else value
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise fault("must be a moment with its offset", "Send RFC 3339, such as 2026-01-31T12:00:00Z.")
    return value


def _as_given(value: Any, check: Any) -> Any:
    check(value)
    return value


def checked_schema(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises a fault for what is no JSON Schema, or points outside itself."""
    try:
        schemas.check(value)
    except schemas.BadSchema as exc:
        raise fault(str(exc).removeprefix("output_schema "), "Send a JSON Schema that stands alone.") from None
    return value


# Any text, lone surrogates and NUL included: prompts are data, and are stored escaped.
Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string"})]
# Ends an Annotated: checked in every detail, and kept as it was given.
AS_GIVEN: Final = WrapValidator(_as_given)
WHOLE: Final = BeforeValidator(_whole)

ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern="^[!-~]+$", examples=["default"])]
ModelNames = Annotated[list[ModelName], Field(min_length=1, max_length=20)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
OutputSchema = Annotated[dict[str, Any], AfterValidator(checked_schema)]
DeadlineS = Annotated[float, Field(ge=1, le=2_592_000)]
MaxCost = Annotated[
    float,
    Field(
        gt=0,
        le=1_000_000,
        description="US dollars. A call that could pass it is not made, nor one whose price is not known.",
    ),
]
# Of a query.
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise fault("must be a whole number", "Send digits only.")
    return value


PageLimit = Annotated[int, Field(ge=1, le=100), BeforeValidator(_digits)]
