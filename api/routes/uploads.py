"""Files in parts, for those that are larger than one request may be."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema

from api.desk import Desk
from api.fields import WHOLE, Strict
from api.file import UploadBody, UploadPartBody, upload_json
from api.openai_fields import UPLOAD_ID, Expiry
from api.operations import Answer, Body, Call, Operations, Reply, validated
from api.problems import BAD_REQUEST, CONFLICT, NOT_FOUND, Fault, Problem, invalid
from api.routes.files import KEPT_S, later, received
from worker.domain.file import BATCH, Purpose, UploadView
from worker.services import uploads as services
from worker.store import uploads as store

_UPLOAD_ID: Final = re.compile(UPLOAD_ID)

uploads: Final = Operations("Files", "openai")


class NewUpload(Strict):
    """`expires_after` is of the file that it becomes."""

    filename: Annotated[str, Field(min_length=1, max_length=1000)]
    purpose: Purpose
    bytes: Annotated[int, Field(ge=1, le=services.MAX), WHOLE]
    mime_type: Annotated[str, Field(max_length=255)]
    expires_after: Expiry | None = None


class PartForm(BaseModel):
    """One part; they may come at the same time."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    data: Annotated[Any, WithJsonSchema({"type": "string", "format": "binary"})]


class Completion(Strict):
    """The parts in order; `md5` of the whole, hex, is checked where it is given."""

    part_ids: Annotated[
        list[Annotated[str, Field(max_length=100)]],
        Field(min_length=1, max_length=10_000, json_schema_extra={"uniqueItems": True}),
    ]
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None


_PART: Final[TypeAdapter[PartForm]] = TypeAdapter(PartForm)


@uploads.add(
    "POST",
    "/v1/uploads",
    "uploads.create",
    "Begin a file in parts",
    scope="jobs:write",
    body=Body(NewUpload),
    answers={200: Answer("The upload, pending.", UploadBody)},
)
def create_upload(desk: Desk, call: Call) -> Reply:
    """It lasts an hour."""
    asked: NewUpload = call.body
    expires_s = asked.expires_after.seconds if asked.expires_after is not None else None
    if expires_s is None and asked.purpose == BATCH:
        expires_s = KEPT_S
    made = services.create(
        desk.deps,
        call.project_id,
        filename=asked.filename,
        purpose=asked.purpose,
        n_bytes=asked.bytes,
        file_expires_s=expires_s,
    )
    return Reply(upload_json(made))


@uploads.add(
    "POST",
    "/v1/uploads/<upload_id>/parts",
    "uploads.parts.create",
    "Send a part",
    scope="jobs:write",
    body=Body(PartForm, ("multipart/form-data",), later),
    answers={200: Answer("The part.", UploadPartBody)},
    problems=(BAD_REQUEST, NOT_FOUND, CONFLICT),
)
def create_part(desk: Desk, call: Call) -> Reply:
    """Up to 64 MiB."""
    upload = _find(desk, call)
    try:
        intake = services.begin_part(desk.deps, call.project_id, upload.id)
        try:
            fields, _ = received(call.request, "data", intake, services.PART_MAX)
            validated(_PART, PartForm, {**fields, "data": ""}, strict=False)
            made = services.end_part(desk.deps, call.project_id, upload.id, intake)
        except BaseException:
            services.drop_part(desk.deps, upload.id, intake)
            raise
    except services.NotPending as exc:
        raise _over(exc) from None
    return Reply({"id": intake.owner_id, "object": "upload.part", "created_at": made, "upload_id": upload.id})


@uploads.add(
    "POST",
    "/v1/uploads/<upload_id>/complete",
    "uploads.complete",
    "Put the parts together",
    scope="jobs:write",
    body=Body(Completion),
    answers={200: Answer("The upload with its file.", UploadBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def complete_upload(desk: Desk, call: Call) -> Reply:
    """The parts must have as many bytes as were declared. The same request once more gets the same file."""
    asked: Completion = call.body
    upload = _find(desk, call)
    try:
        done, file = services.complete(desk.deps, call.project_id, upload, asked.part_ids, asked.md5)
    except services.NotPending as exc:
        raise _over(exc) from None
    except services.Incomplete as exc:
        raise invalid(Fault("part_ids", f"do not fit: {exc}", "Send what is missing, or begin a new upload.")) from None
    return Reply(upload_json(done, file))


@uploads.add(
    "POST",
    "/v1/uploads/<upload_id>/cancel",
    "uploads.cancel",
    "Give an upload up",
    scope="jobs:write",
    answers={200: Answer("The upload, cancelled.", UploadBody)},
    problems=(NOT_FOUND, CONFLICT),
)
def cancel_upload(desk: Desk, call: Call) -> Reply:
    """Its parts are forgotten."""
    upload = _find(desk, call)
    with desk.deps.database.write() as conn:
        stopped = store.cancel(conn, call.project_id, upload.id)
    after = _find(desk, call)
    if not stopped and after.status != "cancelled":
        raise _over(services.NotPending(f"the upload is {after.status}"))
    return Reply(upload_json(after))


def _find(desk: Desk, call: Call) -> UploadView:
    upload_id = call.path["upload_id"]
    found = None
    if _UPLOAD_ID.fullmatch(upload_id):
        with desk.deps.database.read() as conn:
            found = store.get(conn, call.project_id, upload_id)
    if found is None:
        raise Problem(NOT_FOUND, "No such Upload object; POST /v1/uploads begins one.", param="upload_id")
    return found


def _over(exc: Exception) -> Problem:
    return Problem(CONFLICT, f"{str(exc).capitalize()}.", headers={"x-should-retry": "false"})
