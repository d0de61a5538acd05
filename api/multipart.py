"""A form with one file in it, streamed: the file goes where it is told piece by piece, whatever stands before it or
after it.
"""

from __future__ import annotations

from typing import IO, Final, Protocol, cast

import flask
from werkzeug.datastructures import FileStorage
from werkzeug.formparser import MultiPartParser

from api.problems import BAD_REQUEST, BAD_TYPE, Fault, Problem, invalid

FIELDS_BYTES: Final = 1024 * 1024  # with what is read ahead
PARTS_MAX: Final = 32
SLACK_BYTES: Final = 1024 * 1024  # of a request, beside the file itself
_PIECE: Final = 256 * 1024


class Sink(Protocol):
    def write(self, data: bytes) -> int: ...


class _Stream:
    """What the parser takes for a file: it writes, and turns back at the end."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        return self._sink.write(data)

    def seek(self, _to: int) -> int:
        return 0

    def close(self) -> None:
        pass


def taken(request: flask.Request, name: str, sink: Sink, most: int) -> tuple[dict[str, str], str]:
    """The fields and the file's own name. `name` is the field of the file, `most` bytes it may have.

    Raises Problem, werkzeug's 413, and what the sink raises.
    """
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise Problem(BAD_TYPE, "Content-Type must be multipart/form-data with a boundary. Send a form with the file.")
    request.max_content_length = most + SLACK_BYTES
    opened: list[str] = []

    def factory(
        total_content_length: int | None = None,
        content_type: str | None = None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        del total_content_length, content_type, content_length
        opened.append(filename or "")
        if len(opened) > 1:
            raise invalid(Fault(name, "is given more than once", "Send one file."))
        return cast("IO[bytes]", _Stream(sink))

    parser = MultiPartParser(
        stream_factory=factory, max_form_memory_size=FIELDS_BYTES, buffer_size=_PIECE, max_form_parts=PARTS_MAX
    )
    try:
        form, files = parser.parse(request.stream, boundary.encode("latin-1"), request.content_length)
    except UnicodeDecodeError:
        raise Problem(BAD_REQUEST, "A header of the form is not valid UTF-8. Send it as that.") from None
    except ValueError as exc:
        if type(exc) is not ValueError:  # of the sink
            raise
        raise Problem(BAD_REQUEST, "The form is cut off or malformed. Send it again.") from None
    fields: dict[str, str] = {}
    for key, values in form.lists():
        if key is None:
            raise Problem(BAD_REQUEST, "A field of the form has no name. Name it.")
        if len(values) > 1:
            raise invalid(Fault(key[:60], "is given more than once", "Give it once."))
        fields[key] = values[0]
    found: FileStorage | None = files.get(name)
    if found is None:
        raise invalid(Fault(name, "is missing", "Add it as a file."))
    return fields, found.filename or "file"
