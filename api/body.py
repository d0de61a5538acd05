"""From the bytes of a request to JSON that is safe to keep: read within bounds, and refused with a reason otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Final

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from api.problems import BAD_TYPE, NOT_JSON, Problem, invalid
from worker import clock
from worker.domain.answer import Json
from worker.services.openai import reading

DISCARD_BYTES: Final = 64 * 1024 * 1024
DISCARD_S: Final = 3.0
_PIECE: Final = 64 * 1024
JSON_TYPES: Final = ("application/json",)
LINES_TYPES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/jsonlines")


def read(request: flask.Request, types: Iterable[str] = JSON_TYPES) -> str:
    """The text of the body. Raises Problem, and werkzeug's 413 where it is too large, chunked or not."""
    try:
        return decoded(_raw(request, types))
    except (Problem, RequestEntityTooLarge):
        discard(request)
        raise


def _raw(request: flask.Request, types: Iterable[str]) -> bytes:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise Problem(
            BAD_TYPE, "Content-Encoding is not taken. Send the body as it is.", headers={"Accept-Encoding": "identity"}
        )
    given = request.mimetype
    if given not in types and not given.endswith("+json"):
        raise Problem(BAD_TYPE, f"Content-Type must be {' or '.join(types)}. Set that header.")
    raw = request.get_data(cache=False)
    if request.content_length is None and len(raw) >= (request.max_content_length or math.inf):
        raise RequestEntityTooLarge  # of a chunked body werkzeug only cuts off the rest
    return raw


def discard(request: flask.Request) -> None:
    """Read on, within bounds: a client that is hung up on while it sends never sees the answer."""
    if not request.environ.get("wsgi.input_terminated"):
        return
    until_s = clock.monotonic_s() + DISCARD_S
    for _ in range(DISCARD_BYTES // _PIECE):
        if not request.environ["wsgi.input"].read(_PIECE) or clock.monotonic_s() >= until_s:
            return


def decoded(raw: bytes) -> str:
    """UTF-8, or what PowerShell writes instead: UTF-16, a byte order mark. Raises Problem."""
    encoding = json.detect_encoding(raw)
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        raise Problem(NOT_JSON, f"The body is not valid {encoding.upper()} at byte {exc.start}. Send UTF-8.") from None


def parsed(text: str, line: int | None = None) -> Json:
    """The value. Raises Problem: what JSON allows but nobody means (a name twice, endless nesting) is refused too.

    line  of a body of lines, for the messages
    """
    if not text.strip():
        raise Problem(NOT_JSON, "The body is empty. Send a JSON object.")
    try:
        return reading.value_of(text, line)
    except reading.NotJson as exc:
        raise invalid(exc.fault, sort=NOT_JSON) from None
    except reading.NotTaken as exc:
        raise invalid(exc.fault) from None


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with its number from 1."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()
