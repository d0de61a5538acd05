"""The HTTP API as the commands use it. Every failure is a CliFault with the exit code it means."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import IO, Any, Final

import httpx

from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from worker import clock

WAIT_S: Final = 60  # the longest wait the API takes
PATIENCE_S: Final = 120.0  # for a server that restarts
_CODES: Final = {401: Exit.CONFIG, 403: Exit.CONFIG, 400: Exit.USAGE, 413: Exit.USAGE, 415: Exit.USAGE, 422: Exit.USAGE}
_LATER: Final = frozenset({429, 503})
_PAUSE_S: Final = 1.0
_FULL_S: Final = (
    3600.0  # with patience: a full queue drains, however long that takes; an hour without a place is a fault
)


class Refused(CliFault):
    """The server's answer was an error; `problem` is its body."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.problem = _problem(response)
        remedies = [str(error.get("remedy", "")) for error in self.problem.get("errors", [])[:3]]
        openai = self.problem.get("error")  # as its face of the API says it
        said = openai.get("message") if isinstance(openai, dict) else None
        said = said or self.problem.get("detail") or self.problem.get("title") or f"HTTP {self.status}"
        super().__init__(
            _SAID.get(self.status, f"The server says: {said}"),
            " ".join(filter(None, remedies)) or _REMEDIES.get(self.status),
            _CODES.get(self.status, Exit.UNREACHABLE if self.status == 503 else Exit.FAILED),
        )


_SAID: Final = {401: "The server does not take this key: it is unknown, revoked or expired."}
_REMEDIES: Final = {
    401: f"Set COMPLETAR_API_KEY to a key of this server; `{PROGRAM} keys create` makes one where its database is.",
    403: "Use a key with that scope.",
    429: f"Nothing was stored: send it again later, or let `{PROGRAM} batch run` wait for you.",
    503: "Try again in a moment.",
}


class Client:
    """One connection pool to one server; used by one thread."""

    def __init__(self, url: str, key: str, screen: Screen) -> None:
        self.url = url
        self._screen = screen
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "completar-cli"},
            timeout=httpx.Timeout(30.0, connect=5.0),
            trust_env="127.0.0.1" not in url,  # a proxy knows nothing of this machine
        )

    def close(self) -> None:
        self._http.close()

    def get(
        self, path: str, params: Mapping[str, Any] | None = None, *, wait_s: int = 0, patience_s: float = 0.0
    ) -> httpx.Response:
        """`wait_s` is how long the server may hold the answer back; `patience_s` as in `send`."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        if wait_s:
            given["wait"] = wait_s
        return self.send(self._http.build_request("GET", path, params=given, timeout=30.0 + wait_s), patience_s)

    def post(self, path: str, body: Any = None, *, key: str | None = None, patience_s: float = 0.0) -> httpx.Response:
        """With patience it may arrive twice: the idempotency key makes that harmless."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.send(self._http.build_request("POST", path, json=body, headers=headers), patience_s)

    def delete(self, path: str) -> httpx.Response:
        return self.send(self._http.build_request("DELETE", path), 0.0)

    def upload(self, path: str, content: IO[bytes], purpose: str) -> httpx.Response:
        """A file, streamed."""
        form: dict[str, Any] = {"data": {"purpose": purpose}, "files": {"file": ("batch.jsonl", content)}}
        return self.send(self._http.build_request("POST", path, timeout=600.0, **form), 0.0)

    def send(self, request: httpx.Request, patience_s: float) -> httpx.Response:
        """Raises Refused, or CliFault when there is no answer. With patience, a server that is away is asked again."""
        began_s = clock.monotonic_s()
        give_up_at = began_s + patience_s
        while True:
            try:
                response = self._http.send(request)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if clock.monotonic_s() >= give_up_at:
                    raise self._away(error) from None
                self._screen.detail(f"{request.method} {request.url.path}: {type(error).__name__}, trying again")
                time.sleep(_PAUSE_S)
                continue
            self._screen.detail(
                f"{request.method} {request.url.raw_path.decode()} -> {response.status_code}"
                f" {response.headers.get('x-request-id', '')}"
            )
            if response.is_success:
                return response
            if response.status_code == 429 and patience_s:
                if give_up_at < began_s + _FULL_S:
                    self._screen.say(f"{Refused(response).message} Waiting for a place.")
                give_up_at = began_s + _FULL_S
            if response.status_code not in _LATER or clock.monotonic_s() >= give_up_at:
                raise Refused(response)
            time.sleep(_pause_s(response))

    def _away(self, error: Exception) -> CliFault:
        return CliFault(
            f"No server answers at {self.url} ({type(error).__name__}).",
            f"Start one with `{PROGRAM} up`, or set COMPLETAR_URL.",
            Exit.UNREACHABLE,
        )


def _pause_s(response: httpx.Response) -> float:
    said = response.headers.get("retry-after", "")
    return min(float(said), 30.0) if said.isdigit() else _PAUSE_S


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
