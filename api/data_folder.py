"""The folder of an embedded server: its key, and who is serving it just now."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker import clock

_LOCKED_BYTE: Final = 1 << 30  # far behind the text: on Windows nobody else may read a locked byte


@dataclass(frozen=True, slots=True)
class Serving:
    """The process that serves a folder; `url` is None while it starts."""

    pid: int
    url: str | None


class AlreadyServed(Exception):
    """Another `completar up` serves this folder."""

    def __init__(self, serving: Serving | None) -> None:
        self.serving = serving
        super().__init__("another process serves this folder")


class DataFolder:
    """Made, private to its owner, when something is first kept in it."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._key_file: Final = path / "api_key"
        self._secret_file: Final = path / "secret_key"
        self._lock_file: Final = path / "up.lock"

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def key(self) -> str | None:
        """The key that was made here at the first start."""
        try:
            return self._key_file.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def keep_key(self, secret: str) -> str:
        """Keep a key here, readable by its owner only."""
        return self._keep(self._key_file, secret)

    def secret_key(self) -> str:
        """What webhook secrets are encrypted with, made at the first call."""
        try:
            return self._secret_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return self._keep(self._secret_file, clock.new_secret(48))

    def _keep(self, path: Path, secret: str) -> str:
        self.make()
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(secret + "\n")
        fresh.replace(path)  # whoever reads it meanwhile finds the old one or the new one, never half
        return secret

    @contextlib.contextmanager
    def held(self) -> Iterator[DataFolder]:
        """Be the one that serves this folder. Raises AlreadyServed.

        The system itself holds the lock: it goes with the process, however that ends. A file left behind says nothing.
        """
        self.make()
        file = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock(file):
                raise AlreadyServed(self._written())
            self.serve_at(None)
            yield self
        finally:
            os.close(file)

    def serve_at(self, url: str | None) -> None:
        """Tell other commands where this folder is served. Only while `held`."""
        text = json.dumps({"pid": os.getpid(), "url": url})
        self._lock_file.write_text(text, encoding="utf-8")

    def serving(self) -> Serving | None:
        """Who serves this folder now."""
        try:
            file = os.open(self._lock_file, os.O_RDWR)
        except OSError:
            return None
        try:
            return None if _lock(file) else self._written()
        finally:
            os.close(file)

    def _written(self) -> Serving | None:
        try:
            said = json.loads(self._lock_file.read_text(encoding="utf-8"))
            return Serving(int(said["pid"]), said["url"])
        except (OSError, ValueError, KeyError, TypeError):  # being written just now
            return None


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
