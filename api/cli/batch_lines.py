"""A file for a batch of the server: lines of an OpenAI batch as they are, plain ones as jobs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from typing import IO, Any, Final

from api.cli import lines
from api.cli.batch_content import ENDPOINT
from worker.domain.answer import Json
from worker.store.text import dumps

CHAT: Final = "/v1/chat/completions"


@contextlib.contextmanager
def converted(file: BufferedReader, model: str | None) -> Iterator[tuple[IO[bytes], str]]:
    """The content to upload, and the endpoint of its batch. A file that needs no change goes byte for byte; what cannot
    be read goes as it is: the server says where it is faulty. Numbers of lines stay.
    """
    plain, url = _kind(file)
    file.seek(0)
    if model is None and not plain:
        yield file, url
        return
    endpoint = ENDPOINT if plain else url
    with tempfile.TemporaryFile() as made:
        at = 0
        for number, data in lines.raw(file):
            made.write(b"\n" * (number - at - 1) + _line(number, data, endpoint, model) + b"\n")
            at = number
        made.seek(0)
        yield made, endpoint


def _kind(file: BufferedReader) -> tuple[bool, str]:
    """Whether a line is a plain one, and the URL of the first that is not."""
    plain, url = False, None
    for _, data in lines.raw(file):
        record = _record(data)
        if record is not None and not lines.is_of_openai(record):
            plain = True
        elif record is not None and url is None:
            url = record.get("url")
    return plain, url if isinstance(url, str) else CHAT


def _record(data: bytes) -> dict[str, Json] | None:
    try:
        return lines.parsed(data)
    except lines.Broken:
        return None


def _line(number: int, data: bytes, endpoint: str, model: str | None) -> bytes:
    record = _record(data)
    if record is None:
        return data
    body = record.get("body")
    if endpoint == ENDPOINT:
        name = record.get("custom_id")
        try:
            body = lines.job_of(record)
        except lines.Broken:
            if lines.is_of_openai(record):
                return data
            body = {field: value for field, value in record.items() if field != "custom_id"}
        record = {
            "custom_id": f"line-{number}" if name is None else name,
            "method": "POST",
            "url": ENDPOINT,
        }
    return dumps({**record, "body": _asked_of(body, model)}).encode()


def _asked_of(body: Any, model: str | None) -> Any:
    if model is None or not isinstance(body, dict):
        return body
    return {**{field: value for field, value in body.items() if field != "models"}, "model": model}
