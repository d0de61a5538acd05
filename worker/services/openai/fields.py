"""The types of fields: strict, and with bounds that show in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)
from pydantic.functional_validators import WrapValidator
from pydantic_core import PydanticCustomError, PydanticKnownError

from worker.domain.job import HIGHEST, LOWEST
from worker.services import schema as schemas


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
# Of a list without a bound: a million faults take half a minute to find and to tell, and twenty are told.
FIRST_FAULT: Final = Field(fail_fast=True)

Priority = Annotated[int, Field(ge=LOWEST, le=HIGHEST), WHOLE]

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
