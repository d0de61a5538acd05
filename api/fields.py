"""The types of fields: strict, and with bounds that show in the OpenAPI document. Those of requests that lines of a
batch file hold too are the worker's; here are they and those that only the API has.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from worker.domain.batch import age_s
from worker.services.openai.fields import (
    AS_GIVEN,
    WHOLE,
    DeadlineS,
    MaxCost,
    Metadata,
    ModelName,
    ModelNames,
    OutputSchema,
    Priority,
    Strict,
    Text,
    checked_schema,
    fault,
)

JOB_ID: Final = "^job_[0-9a-hjkmnp-tv-z]{26}$"
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Out(BaseModel):
    """A part of an answer: no field that its schema does not tell of."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _rfc3339(value: Any) -> Any:
    # In a query a bare + is a blank; nobody means it there.
    value = value.replace(" ", "+") if isinstance(value, str) else value
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise fault("must be a moment with its offset", "Send RFC 3339, such as 2026-01-31T12:00:00Z.")
    return value


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise fault("must be a whole number", "Send digits only.")
    return value


def _age(value: str) -> str:
    if age_s(value) is None:
        raise fault("must be minutes, hours or days, a year at most", "Send 7d, or such as 30m or 12h.")
    return value


MaxAge = Annotated[
    str,
    AfterValidator(_age),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,5}[mhd]$", "examples": ["7d"]}),
]

# Of a query, or a form.
DIGITS: Final = BeforeValidator(_digits)
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]

PageLimit = Annotated[int, Field(ge=1, le=100), DIGITS]

__all__ = [
    "AS_GIVEN",
    "DIGITS",
    "JOB_ID",
    "WHOLE",
    "DeadlineS",
    "MaxAge",
    "MaxCost",
    "Metadata",
    "ModelName",
    "ModelNames",
    "Moment",
    "Out",
    "OutputSchema",
    "PageLimit",
    "Priority",
    "Strict",
    "Text",
    "checked_schema",
    "fault",
]
