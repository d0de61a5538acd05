"""Everything in one process: web server, worker and, where no provider has a key, the sandbox.

No broker: the API and the engine share the process, so a hint is a function call (docs/decisions/0001).
"""

from __future__ import annotations

import logging
import select
import socket
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from pydantic import SecretStr
from waitress.server import create_server

from api.app import create_app
from api.data_folder import DataFolder
from worker import clock
from worker.deps import Deps, build
from worker.providers import catalog
from worker.providers.sandbox import SandboxThread
from worker.services.flavour import discovered
from worker.services.hints import LocalHints, NoHints
from worker.services.worker import Worker
from worker.settings import SANDBOX, Settings
from worker.store import keys, migrate, projects

CONNECTIONS: Final = 16  # to the database, shared by web threads and worker
SPARE_THREADS: Final = 16  # web threads that no waiting client can take
SPARE_BYTES: Final = 64 * 1024 * 1024
HANG_UP_S: Final = 2.0  # for answers on their way out when the server stops


class KeyRevoked(Exception):
    """The key of COMPLETAR_API_KEY exists and was revoked."""


class Embedded:
    """A server and its worker. `start()`, then `stop()` once; or a `with` block.

    work=False: it answers and stores, and leaves every job queued.
    """

    def __init__(self, settings: Settings, *, work: bool = True) -> None:
        """Raises SettingsError for names that do not fit together."""
        self._settings = settings
        self._work = work
        self._sandbox: SandboxThread | None = None
        self._worker: Worker | None = None
        self._web: _Web | None = None
        self._key = ""
        self._offered = catalog.build(settings)
        self._deps: Deps | None = None

    @property
    def url(self) -> str:
        assert self._web is not None, "not started"
        return self._web.url

    @property
    def deps(self) -> Deps:
        assert self._deps is not None, "not started"
        return self._deps

    @property
    def key(self) -> str:
        """A key of the first project with every scope."""
        return self._key

    @property
    def labels(self) -> list[str]:
        """Who answers a request that names nobody, in the order they are asked."""
        return list(dict.fromkeys(target.label for target in self._offered.routes["default"].targets))

    @property
    def is_sandbox(self) -> bool:
        """Whether no real model answers."""
        return all(target.provider == SANDBOX for target in self._offered.routes["default"].targets)

    def start(self) -> Self:
        """Raises OSError (the port is taken), Unavailable (the database is away), KeyRevoked."""
        listener = _listener(self._settings.host, self._settings.port)
        try:
            hints = LocalHints()
            settings = _with_secret_key(self._settings)
            self._deps = build(
                discovered(settings) if self._work else settings,
                hints if self._work else NoHints(),
                connections=CONNECTIONS,
                sandbox_url=self._start_sandbox(),
            )
            DataFolder(self._settings.data_dir).make()
            logging.getLogger("alembic").setLevel(logging.WARNING)
            migrate.upgrade(self.deps.database)
            self._key = self._ensure_key()
            if self._work:
                self._worker = Worker(self.deps)
                self._worker.start()
                hints.connect(self._worker.engine)
            self._web = _Web(create_app(self.deps), listener, self._settings)
        except BaseException:
            listener.close()
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Drain: calls in flight may end within DRAIN_S, and who waits for one gets the answer."""
        if self._worker is not None:
            self._worker.stop()
        if self._web is not None:
            self._web.close()
        if self._sandbox is not None:
            self._sandbox.stop()
        if self._deps is not None:
            self._deps.database.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_sandbox(self) -> str | None:
        if SANDBOX not in self._offered.providers:
            return None
        self._sandbox = SandboxThread()
        self._sandbox.start()
        return self._sandbox.base_url

    def _ensure_key(self) -> str:
        folder = DataFolder(self._settings.data_dir)
        given = self._settings.api_key
        secret = given.get_secret_value() if given is not None else folder.key() or folder.keep_key(_new_key())
        with self.deps.database.write() as conn:
            project = projects.ensure(conn)
            made, secret = keys.create(conn, project, "embedded", secret=secret)
            if made.revoked_at is None:
                return secret
            if given is not None:
                raise KeyRevoked
            return keys.create(conn, project, "embedded", secret=folder.keep_key(_new_key()))[1]


def _new_key() -> str:
    return keys.PREFIX + clock.new_secret()


class _Web:
    """waitress on a socket of ours, in a thread of its own. It runs on every platform."""

    def __init__(self, app: Any, listener: socket.socket, settings: Settings) -> None:
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full house is no fault
        self._server = create_server(
            app,
            sockets=[listener],
            threads=settings.waiters * 3 // 2 + SPARE_THREADS,  # followers of events come on top of waiters
            connection_limit=2000,
            asyncore_use_poll=hasattr(select, "poll"),
            max_request_body_size=max(2 * settings.max_body_bytes, settings.max_file_bytes)
            + SPARE_BYTES,  # the app refuses less, and says why
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        self.url = _url(settings.host, listener.getsockname()[1])
        self._thread = threading.Thread(target=self._server.run, name="completar-web", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.task_dispatcher.shutdown(timeout=HANG_UP_S)
        with suppress(OSError):  # somebody else had woken it, and it closed its trigger before we could pull it
            self._server.trigger.pull_trigger(self._hang_up)
        self._thread.join(HANG_UP_S)

    def _hang_up(self) -> None:
        """On the server's thread: each connection closes when what it has to say is said, the rest at once."""
        for channel in list(self._server.active_channels.values()):
            channel.will_close = True
        self._server.close()


def _with_secret_key(settings: Settings) -> Settings:
    if settings.secret_key is not None:
        return settings
    kept = DataFolder(settings.data_dir).secret_key()
    return settings.model_copy(update={"secret_key": SecretStr(kept)})


def _listener(host: str, port: int) -> socket.socket:
    """Bound, not yet listening: a taken port is found before anything is started."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # `::` is everybody, not half of them
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(host: str, port: int) -> str:
    """As somebody on this machine reaches it."""
    name = "127.0.0.1" if host in {"", "0.0.0.0"} else "::1" if host == "::" else host  # noqa: S104 - compared, not bound
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
