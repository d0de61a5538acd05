"""A large file through the real web process: streamed both ways, whatever its size."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.support.batches import jsonl, line
from tests.support.processes import Processes
from worker.store import keys, projects
from worker.store.database import Database

MB = 1_000_000
LINES = 50_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


def test_memory_does_not_grow_with_the_file(sqlite_url: str, tmp_path: Path, processes: Processes) -> None:
    database = Database(sqlite_url)
    with database.write() as conn:
        _, secret = keys.create(conn, projects.ensure(conn), "test")
    database.close()
    path = tmp_path / "large.jsonl"
    one = jsonl([line(1, prompt="x" * 1900)])
    with path.open("wb") as file:
        file.writelines(one for _ in range(LINES))
    size = path.stat().st_size
    assert size > 100 * MB
    web, url = processes.web({"DATABASE_URL": sqlite_url, "COMPLETAR_SANDBOX": "on"})
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
        client.files.create(file=b"x", purpose="user_data")
        with _growth(web.pid) as most:
            stored = client.files.create(file=path, purpose="batch")
            assert stored.bytes == size
            with client.files.with_streaming_response.content(stored.id) as answer:
                assert sum(len(piece) for piece in answer.iter_bytes(MB)) == size
    assert max(most) < 40 * MB, f"{max(most) / MB:.0f} MB more for a file of {size / MB:.0f} MB"


@contextmanager
def _growth(pid: int) -> Iterator[list[int]]:
    """Bytes that the children of a process have more than at the start, looked at many times."""
    before, seen, over = _resident(pid), [0], threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            seen.append(_resident(pid) - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _resident(pid: int) -> int:
    """Of the largest process in the group that this one leads."""
    found = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and int((process / "stat").read_text().rsplit(")", 1)[1].split()[2]) == pid:
                found = max(found, int((process / "statm").read_text().split()[1]) * 4096)
        except OSError:  # it ended meanwhile
            continue
    return found
