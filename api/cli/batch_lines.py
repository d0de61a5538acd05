"""Lines for a batch of the server: those of an OpenAI batch as they are, plain ones in its form."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from typing import IO, Any

from worker.store.text import dumps

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


@contextlib.contextmanager
def converted(stream: BufferedReader, model: str | None) -> Iterator[tuple[IO[bytes], str]]:
    """The content to upload, and the endpoint of its first line. What is no JSON goes as it is: the server says where
    it is faulty.
    """
    with tempfile.TemporaryFile() as kept:
        endpoint: str | None = None
        for number, line in enumerate(stream, 1):
            record = _record(line)
            if record is None:
                kept.write(line if line.endswith(b"\n") else line + b"\n")
                continue
            made = _line(record, number, model)
            endpoint = endpoint or str(made.get("url"))
            kept.write(dumps(made).encode() + b"\n")
        kept.seek(0)
        yield kept, endpoint or CHAT


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _line(record: dict[str, Any], number: int, model: str | None) -> dict[str, Any]:
    given = {} if model is None else {"model": model}
    if "url" in record or "body" in record:
        body = record.get("body")
        return {**record, "body": {**body, **given}} if isinstance(body, dict) else record
    body = {"model": "default", **{name: value for name, value in record.items() if name != "custom_id"}, **given}
    custom_id = record.get("custom_id", f"line-{number}")
    if isinstance(body.get("input"), dict):  # a job's own form
        body = {**{name: value for name, value in body.items() if name not in {"input", "kind"}}, **body["input"]}
    if "prompt" in body:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    if (system := body.pop("system", None)) is not None and isinstance(body.get("messages"), list):
        body["messages"] = [{"role": "system", "content": system}, *body["messages"]]
    url = EMBEDDINGS if "input" in body and "messages" not in body else CHAT
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
