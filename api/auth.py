"""Who is calling, and may they: bearer keys, looked up by digest and remembered for a few seconds."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import SecretStr

from api.problems import NO_KEY, NO_SCOPE, Problem
from worker import clock
from worker.store import keys, projects
from worker.store.database import Database, Unavailable
from worker.store.keys import ApiKey

Scope = Literal["jobs:read", "jobs:write", "webhooks", "admin"]
REMEMBERED_S: Final = 4.0  # a revoked key is refused everywhere within 5 s
NOTED_S: Final = 60.0  # between two notes of when a key was used
_MOST: Final = 10_000
_LONGEST: Final = 512


@dataclass(slots=True)
class _Seen:
    key: ApiKey
    until_s: float


class Keys:
    """One per process. Thread-safe."""

    def __init__(self, database: Database, first: SecretStr | None = None) -> None:
        """`first` is a key the first project always has: stored at the first look-up that finds nothing."""
        self._database = database
        self._first = first
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}  # by digest: no secret stays in memory
        self._noted: dict[str, float] = {}

    def caller(self, authorization: str | None, scope: Scope) -> ApiKey:
        """The key of a request. Raises Problem (401, 403) and Unavailable."""
        kind, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if kind.lower() != "bearer" or not 0 < len(secret) <= _LONGEST:
            raise _unauthorized("The request carries no key.")
        now_s = clock.monotonic_s()
        digest = keys.digest_of(secret)
        seen = self._seen.get(digest)
        if seen is None or seen.until_s <= now_s:
            seen = self._look_up(secret, digest, now_s)
        if scope not in seen.key.scopes:
            detail = (
                f"This key lacks the scope {scope}. Make one that has it: python3 run.py keys create --scope {scope}"
            )
            raise Problem(NO_SCOPE, detail)
        self._note(seen.key.id, now_s)
        return seen.key

    def _look_up(self, secret: str, digest: str, now_s: float) -> _Seen:
        # Looked for before it is stored: where it is there already, a database that takes no writes can still be read.
        to_store = self._first is not None
        with self._database.read() as conn:
            key = keys.find(conn, secret)
        if key is None and to_store:
            self._store_first()
            with self._database.read() as conn:
                key = keys.find(conn, secret)
        if key is None:
            self._seen.pop(digest, None)
            raise _unauthorized("This key is unknown, revoked or expired.")
        if len(self._seen) >= _MOST:
            self._seen.clear()
        self._seen[digest] = seen = _Seen(key, now_s + REMEMBERED_S)
        return seen

    def _store_first(self) -> None:
        with self._lock:
            if self._first is not None:
                with self._database.write() as conn:
                    project = projects.ensure(conn)
                    keys.create(conn, project, "COMPLETAR_API_KEY", secret=self._first.get_secret_value())
                self._first = None

    def _note(self, key_id: str, now_s: float) -> None:
        if self._noted.get(key_id, 0.0) > now_s:
            return
        self._noted[key_id] = now_s + NOTED_S
        try:
            with self._database.write() as conn:
                keys.used(conn, key_id)
        except Unavailable:  # the request itself finds out
            pass


def _unauthorized(why: str) -> Problem:
    remedy = "Send `Authorization: Bearer ck_...`; `python3 run.py keys create` makes a key."
    return Problem(NO_KEY, f"{why} {remedy}", headers={"WWW-Authenticate": 'Bearer realm="completar"'})
