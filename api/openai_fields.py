"""Types of fields that files and batches share: ids, pages, expiry."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.fields import WHOLE

FILE_ID: Final = "^file-[0-9a-hjkmnp-tv-z]{26}$"
UPLOAD_ID: Final = "^upload_[0-9a-hjkmnp-tv-z]{26}$"
BATCH_ID: Final = "^batch_[0-9a-hjkmnp-tv-z]{26}$"
LEAST_S: Final = 3600
MOST_S: Final = 2_592_000


Seconds = Annotated[int, Field(ge=LEAST_S, le=MOST_S), WHOLE]
Unix = Annotated[int, Field(ge=0, description="Unix seconds.")]


class Expiry(BaseModel):
    """From 1 hour to 30 days after it is made."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    anchor: Literal["created_at"]
    seconds: Seconds


def unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
