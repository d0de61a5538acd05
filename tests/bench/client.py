"""People who wait: each posts one job after the other to the real web process and holds the line for the answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Final

from tests.bench.jobs import request

WAIT_S: Final = 30


@dataclass(frozen=True, slots=True)
class Answered:
    """One job as its client saw it: from the first byte of the request to the last of the answer."""

    job_id: str
    seconds: float


class Client:
    path = "/v1/jobs"

    def __init__(self, port: int, key: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=WAIT_S + 10)
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Prefer": f"wait={WAIT_S}",
        }

    def ask(self, number: int) -> Answered:
        """Raises AssertionError when the job is not completed in time."""
        body = json.dumps(self.body(number))
        begun_s = time.perf_counter()
        self._connection.request("POST", self.path, body, self._headers)
        with self._connection.getresponse() as reply:
            text = reply.read()
        seconds = time.perf_counter() - begun_s
        job: Any = json.loads(text)
        assert reply.status == 200, f"{reply.status}: {text[:500]!r}"
        assert job["status"] == "completed", f"{text[:500]!r}"
        return Answered(job["id"], seconds)

    def body(self, number: int) -> dict[str, Any]:
        return {"model": "default", "input": request(number)}

    def close(self) -> None:
        self._connection.close()


def crowd(make: Callable[[], Client], clients: int, seconds: float) -> list[Answered]:
    """So many clients, each asking again as soon as it is answered, for so long. Raises what one of them raised."""
    answers: list[Answered] = []
    faults: list[BaseException] = []
    end_s = time.monotonic() + seconds

    def one(first: int) -> None:
        client = make()
        number = first
        try:
            while time.monotonic() < end_s and not faults:
                answers.append(client.ask(number))
                number += clients
        except BaseException as fault:  # noqa: BLE001 - told by whoever waits for the threads
            faults.append(fault)
        finally:
            client.close()

    threads = [threading.Thread(target=one, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return answers
