"""A batch as its owner makes it, through the API: a file goes up, a batch is created, files come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Final

import sqlalchemy as sa

from tests.bench.jobs import request
from worker.store.batch_tables import batch
from worker.store.database import Database

KEY: Final = "ck_bench_0123456789abcdefghijklmnop"
FINAL: Final = ("completed", "failed", "expired", "cancelled")
_BOUNDARY: Final = "completar-bench"
_FORM: Final = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n'
).encode()
_END: Final = f"\r\n--{_BOUNDARY}--\r\n".encode()
_DIGITS: Final = "0000000"  # all lines are of one length, so the length of a file is known before it is made
_PIECE: Final = 1_000  # lines


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch as the database has it; moments in seconds since it was created, by the database's clock."""

    status: str
    taken: int
    written: int
    began_s: float | None
    finalizing_s: float | None
    ended_s: float | None
    output_file_id: str | None
    error_file_id: str | None


class BatchClient:
    """Of one project. Raises AssertionError for every answer that is not a good one."""

    def __init__(self, port: int, key: str = KEY) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"}

    def upload(self, lines: int, model: str = "default") -> str:
        """A file of so many requests, made while it goes up; its id."""
        length = len(_FORM) + lines * len(line(0, model)) + len(_END)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "Content-Length": str(length),
        }
        return str(self._call("POST", "/v1/files", _form(lines, model), headers)["id"])

    def create(self, file_id: str) -> str:
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return str(self._call("POST", "/v1/batches", json.dumps(body), {"Content-Type": "application/json"})["id"])

    def cancel(self, batch_id: str) -> None:
        self._call("POST", f"/v1/batches/{batch_id}/cancel")

    def lines_of(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file, without their ends."""
        with closing(self._connection()) as connection:
            connection.request("GET", f"/v1/files/{file_id}/content", headers=self._headers)
            with connection.getresponse() as reply:
                assert reply.status == 200, reply.status
                rest = b""
                while piece := reply.read(1 << 20):
                    *whole, rest = (rest + piece).split(b"\n")
                    yield from whole
                assert rest == b"", "the last line has no end"

    def _call(self, method: str, path: str, body: Any = None, more: dict[str, str] | None = None) -> dict[str, Any]:
        with closing(self._connection()) as connection:
            connection.request(method, path, body, {**self._headers, **(more or {})})
            with connection.getresponse() as reply:
                text = reply.read()
        assert reply.status == 200, f"{method} {path}: {reply.status} {text[:500]!r}"
        made: dict[str, Any] = json.loads(text)
        return made

    def _connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self._port, timeout=300)


def seen(database: Database, batch_id: str) -> Seen:
    ends = sa.func.coalesce(batch.c.completed_at, batch.c.failed_at, batch.c.expired_at, batch.c.cancelled_at)
    moments = (batch.c.in_progress_at, batch.c.finalizing_at, ends)
    with database.read() as conn:
        row = conn.execute(sa.select(batch, *moments, ends.label("ended_at")).where(batch.c.id == batch_id)).one()
    began_s, finalizing_s, ended_s = (
        None if at is None else (at - row.created_at).total_seconds()
        for at in (row.in_progress_at, row.finalizing_at, row.ended_at)
    )
    return Seen(
        row.status, row.taken, row.written_line, began_s, finalizing_s, ended_s, row.output_file_id, row.error_file_id
    )


def ended(
    database: Database, batch_id: str, most_s: float, every_s: float = 0.02, check: Callable[[], None] = lambda: None
) -> Seen:
    """The batch once it is final. Raises AssertionError when it is not in time, and what `check` raises."""
    deadline_s = time.monotonic() + most_s
    while (now := seen(database, batch_id)).status not in FINAL:
        assert time.monotonic() < deadline_s, f"after {most_s:g} s: {now}"
        check()
        time.sleep(every_s)
    return now


def line(number: int, model: str = "default") -> bytes:
    made = {
        "custom_id": custom_id(number),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, **request(0)},
    }
    ask = made["body"]["messages"][1]  # type: ignore[index]
    ask["content"] = ask["content"].replace("Ticket 0:", f"Ticket {number:07}:")
    return json.dumps(made).encode() + b"\n"


def custom_id(number: int) -> str:
    return f"ticket-{number:07}"


def _form(lines: int, model: str) -> Iterator[bytes]:
    yield _FORM
    pattern = line(0, model)
    assert pattern.count(_DIGITS.encode()) == 2
    for start in range(0, lines, _PIECE):
        yield b"".join(
            pattern.replace(_DIGITS.encode(), b"%07d" % number) for number in range(start, min(lines, start + _PIECE))
        )
    yield _END
