"""Files, as OpenAI's clients know them: streamed in, streamed out, never held whole."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import flask
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, WithJsonSchema, model_validator
from werkzeug.exceptions import RequestEntityTooLarge

from api import body as bodies
from api import multipart
from api.desk import Desk
from api.fields import DIGITS, fault
from api.file import DeletedFile, FileBody, FileList, file_json
from api.openai_fields import FILE_ID, LEAST_S, MOST_S, Seconds
from api.operations import Answer, Body, Call, Header, Operations, Reply, validated
from api.page import page_json
from api.problems import BAD_REQUEST, NOT_FOUND, TOO_LARGE, Fault, Problem
from worker.domain.file import BATCH, FileView, Purpose
from worker.services import files as services
from worker.store import files as store

KEPT_S: Final = 30 * 86_400  # the input of a batch that names no expiry
_FILE_ID: Final = re.compile(FILE_ID)
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_BOUNDS: Final = {"type": "integer", "minimum": LEAST_S, "maximum": MOST_S}
_BINARY: Final = {"type": "string", "format": "binary"}

files: Final = Operations("Files", "openai")

Listed = Literal[
    "assistants",
    "assistants_output",
    "batch",
    "batch_output",
    "fine-tune",
    "fine-tune-results",
    "vision",
    "user_data",
    "evals",
]


class FileForm(BaseModel):
    """In any order; the file is streamed."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"dependentRequired": {_ANCHOR: [_SECONDS], _SECONDS: [_ANCHOR]}},
    )

    purpose: Purpose
    anchor: Annotated[Literal["created_at"] | None, Field(alias=_ANCHOR), WithJsonSchema({"const": "created_at"})] = (
        Field(default_factory=lambda: None)
    )
    seconds: Annotated[Seconds | None, Field(alias=_SECONDS), DIGITS, WithJsonSchema(_BOUNDS)] = Field(
        default_factory=lambda: None
    )
    file: Annotated[Any, WithJsonSchema(_BINARY)]

    @model_validator(mode="after")
    def _both(self) -> FileForm:
        if (self.anchor is None) != (self.seconds is None):
            missing = _ANCHOR if self.anchor is None else _SECONDS
            raise fault("is missing", "Give both, or neither.", missing)
        return self


_FORM: Final[TypeAdapter[FileForm]] = TypeAdapter(FileForm)


def later(_desk: Desk, _request: flask.Request) -> tuple[None, None]:
    """A form is read by who handles it: it is streamed to where the caller's files are."""
    return None, None


@files.add(
    "POST",
    "/v1/files",
    "files.create",
    "Upload a file",
    scope="jobs:write",
    body=Body(FileForm, ("multipart/form-data",), later),
    answers={200: Answer("The file.", FileBody)},
    problems=(BAD_REQUEST,),
)
def create_file(desk: Desk, call: Call) -> Reply:
    """Up to COMPLETAR_MAX_FILE_BYTES (512 MiB). The file of a batch goes after 30 days where it names no expiry."""
    intake = services.begin(desk.deps, call.project_id)
    try:
        fields, filename = received(call.request, "file", intake, desk.deps.settings.max_file_bytes)
        form = validated(_FORM, FileForm, {**fields, "file": ""}, strict=False)
        expires_s = form.seconds if form.seconds is not None else KEPT_S if form.purpose == BATCH else None
        made = services.finish(
            desk.deps, call.project_id, intake, filename=filename, purpose=form.purpose, expires_s=expires_s
        )
    except BaseException:
        intake.discard()
        raise
    return Reply(file_json(made))


def received(request: flask.Request, name: str, sink: multipart.Sink, most: int) -> tuple[dict[str, str], str]:
    """The fields of the form and the file's name. Raises Problem, after the client has been read to its end."""
    try:
        return multipart.taken(request, name, sink, most)
    except (services.TooLong, RequestEntityTooLarge):
        bodies.discard(request)
        fault = Fault(name, f"is larger than {most} bytes", "Split it, or send it in parts: POST /v1/uploads.")
        raise Problem(TOO_LARGE, str(fault), faults=(fault,)) from None
    except Exception:
        bodies.discard(request)
        raise


class FilesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    purpose: Listed | None = None
    after: Annotated[str, Field(pattern=FILE_ID, description="The last id of the page before.")] | None = None
    limit: Annotated[int, Field(ge=1, le=10_000), DIGITS] = 10_000
    order: Literal["asc", "desc"] = "desc"


@files.add(
    "GET",
    "/v1/files",
    "files.list",
    "List files",
    scope="jobs:read",
    query=FilesQuery,
    answers={200: Answer("A page of files.", FileList)},
)
def list_files(desk: Desk, call: Call) -> Reply:
    """Newest first where nothing else is asked."""
    query: FilesQuery = call.query
    with desk.deps.database.read() as conn:
        page, more = store.listed(
            conn,
            call.project_id,
            purpose=query.purpose,
            after=query.after,
            limit=query.limit,
            newest_first=query.order == "desc",
        )
    return Reply(page_json((file_json(file) for file in page), more=more))


def find(desk: Desk, call: Call) -> FileView:
    """Raises Problem."""
    file_id = call.path["file_id"]
    found = None
    if _FILE_ID.fullmatch(file_id):
        with desk.deps.database.read() as conn:
            found = store.get(conn, call.project_id, file_id)
    if found is None:
        raise _unknown()
    return found


def _unknown() -> Problem:
    return Problem(NOT_FOUND, "No such File object; GET /v1/files lists those that there are.", param="id")


@files.add(
    "GET",
    "/v1/files/<file_id>",
    "files.retrieve",
    "Look at a file",
    scope="jobs:read",
    answers={200: Answer("The file.", FileBody)},
    problems=(NOT_FOUND,),
)
def retrieve_file(desk: Desk, call: Call) -> Reply:
    return Reply(file_json(find(desk, call)))


@files.add(
    "DELETE",
    "/v1/files/<file_id>",
    "files.delete",
    "Delete a file",
    scope="jobs:write",
    answers={200: Answer("It is gone.", DeletedFile)},
    problems=(NOT_FOUND,),
)
def delete_file(desk: Desk, call: Call) -> Reply:
    """A batch that is reading it goes on."""
    file = find(desk, call)
    with desk.deps.database.write() as conn:
        if not store.delete(conn, call.project_id, file.id):
            raise _unknown()
    return Reply({"id": file.id, "object": "file", "deleted": True})


LENGTH: Final = Header("Content-Length", "Bytes of the file.", {"type": "integer", "minimum": 0})
DISPOSITION: Final = Header("Content-Disposition", "The file's name.")


@files.add(
    "GET",
    "/v1/files/<file_id>/content",
    "files.content",
    "Download a file",
    scope="jobs:read",
    answers={
        200: Answer(
            "The bytes as they came.",
            Annotated[bytes, WithJsonSchema(_BINARY)],
            (LENGTH, DISPOSITION),
            "application/octet-stream",
        )
    },
    problems=(NOT_FOUND,),
)
def file_content(desk: Desk, call: Call) -> Reply:
    """Streamed."""
    file = find(desk, call)
    name = re.sub(r"[^ !#-\[\]-~]", "_", file.filename)
    headers = {"Content-Length": str(file.bytes), "Content-Disposition": f'attachment; filename="{name}"'}
    return Reply(services.content(desk.deps.database, file), 200, headers, "application/octet-stream")
