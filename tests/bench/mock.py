"""The mock provider as the bench sees it: a process to start, to steer and to ask."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.bench.mock_provider import HELD
from tests.support.processes import Process, Processes


@dataclass(frozen=True, slots=True)
class Served:
    """See `mock_provider.Provider.stats`; times are of the monotonic clock."""

    requests: int
    answered: int
    hung_up: int
    in_flight: int
    most_in_flight: int
    first_at: float | None
    last_at: float | None
    per_s: float | None
    mean_in_flight: float | None


class Mock:
    def __init__(self, processes: Processes, *arguments: str) -> None:
        self._process: Process = processes.python("mock", "-m", "tests.bench.mock_provider", *arguments)
        port = self._process.wait_for_line(r"^serving on port (\d+)$")[1]
        self._root = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.base_url = f"{self._root}/v1"

    @property
    def pid(self) -> int:
        return self._process.pid

    def served(self) -> Served:
        return Served(**self._ask("GET", "/stats"))

    def reset(self) -> None:
        self._ask("POST", "/reset")

    def hold(self, shape: str, **numbers: float) -> None:
        """From the next request on: `uniform` (low_s, high_s), `lognormal` (median_s, sigma) or `none`."""
        self._ask("POST", "/latency", {"shape": shape, **numbers})

    def end(self) -> None:
        self._process.kill()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._root + path, data, method=method)
        with self._opener.open(request, timeout=10) as reply:
            return json.load(reply)


def held_s(request_id: str) -> float:
    """How long an answer was held, from its x-request-id."""
    return int(request_id.removeprefix(HELD)) / 1e6
