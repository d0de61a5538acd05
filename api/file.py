"""Files and uploads as JSON, in OpenAI's words."""

from __future__ import annotations

from typing import Literal

from api.fields import Out
from api.openai_fields import Unix, unix
from worker.domain.answer import Json
from worker.domain.file import FileView, UploadView


class FileBody(Out):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: Unix
    expires_at: Unix | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileList(Out):
    """The next page is asked for with `after=` the id in `last_id`."""

    object: Literal["list"]
    data: list[FileBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Out):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class UploadBody(Out):
    """`file` is null until the upload is complete."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: Unix
    expires_at: Unix
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileBody | None


class UploadPartBody(Out):
    id: str
    object: Literal["upload.part"]
    created_at: Unix
    upload_id: str


def file_json(file: FileView) -> dict[str, Json]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": unix(file.created_at),
        "expires_at": unix(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def upload_json(upload: UploadView, file: FileView | None = None) -> dict[str, Json]:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": unix(upload.created_at),
        "expires_at": unix(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": None if file is None else file_json(file),
    }
