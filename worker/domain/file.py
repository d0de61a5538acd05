"""A stored file as people see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
BATCH: Final = "batch"
BATCH_OUTPUT: Final = "batch_output"
PART_BYTES: Final = 1024 * 1024  # of a file, before it is compressed


@dataclass(frozen=True, slots=True)
class FileView:
    """Times are aware UTC; `parts`: in how many pieces it is kept."""

    id: str
    project_id: str
    filename: str
    purpose: str
    bytes: int
    parts: int
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class UploadView:
    """A file that comes in parts. `status`: pending, completed, cancelled or expired."""

    id: str
    project_id: str
    filename: str
    purpose: str
    status: str
    bytes: int
    file_expires_s: int | None
    created_at: datetime
    expires_at: datetime
    file_id: str | None
