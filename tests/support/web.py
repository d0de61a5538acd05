"""The web application over a real database, with a worker beside it in the same process where jobs must end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import flask
import waitress
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from tests.support.scripted_provider import ScriptedProvider
from worker.deps import Deps, build
from worker.services.hints import LocalHints
from worker.services.worker import Worker
from worker.settings import load
from worker.store import keys, projects
from worker.store.keys import SCOPES, ApiKey

Json = Any
SECRET: Final = "stub-secret-0123456789"
_FILE: Final = """
[providers.stub]
label = "Stub Provider"
base_url = "{base_url}"
api_keys = ["STUB_KEY"]
default_model = "scripted"

[routes.default]
targets = ["stub"]
max_attempts = 2
backoff = {{ base_s = 0.01, cap_s = 0.01 }}
"""


@dataclass(frozen=True)
class Web:
    """`key` may do everything; all requests of `get` and `post` carry it unless they bring headers of their own."""

    deps: Deps
    hints: LocalHints
    app: flask.Flask
    key: str

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> TestResponse:
        return self.client.get(path, headers={**self.auth, **(headers or {})})

    def post(
        self, path: str, body: Json = None, headers: Mapping[str, str] | None = None, data: bytes | str | None = None
    ) -> TestResponse:
        """`body` as JSON, or `data` as it is with the content type of JSON where the headers name no other."""
        sent = {**self.auth, **(headers or {})}
        if data is None:
            return self.client.post(path, json=body, headers=sent)
        sent.setdefault("Content-Type", "application/json")
        return self.client.post(path, data=data, headers=sent)

    def new_key(self, *scopes: str, project: str = projects.DEFAULT, **rest: Any) -> tuple[ApiKey, str]:
        with self.deps.database.write() as conn:
            return keys.create(conn, projects.ensure(conn, project), "a test", scopes=scopes or SCOPES, **rest)

    @contextmanager
    def working(self) -> Iterator[Worker]:
        """A worker of the same process; what is claimed at the end is given back."""
        worker = Worker(self.deps)
        worker.start()
        self.hints.connect(worker.engine)
        try:
            yield worker
        finally:
            worker.stop()

    @contextmanager
    def served(self) -> Iterator[str]:
        """Over a real socket; its URL."""
        server = waitress.create_server(self.app, host="127.0.0.1", port=0, threads=8)
        thread = threading.Thread(target=server.run, name="waitress", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.effective_port}"
        finally:
            server.task_dispatcher.shutdown(timeout=0.2)  # a stream that nobody reads any more may go on for a while
            with suppress(OSError):  # it was awake, and has closed its trigger before we could pull it
                server.trigger.pull_trigger(lambda: _hang_up(server))
            thread.join(10)


def _hang_up(server: Any) -> None:
    """On the server's own thread, which ends when nothing is left to listen to."""
    for channel in list(server.active_channels.values()):
        channel.handle_close()
    server.close()


@contextmanager
def web(url: str, folder: Path, provider: ScriptedProvider | None = None, **variables: str) -> Iterator[Web]:
    """On a migrated database. Without a provider there is a route to nowhere; `variables` are of the environment."""
    file = folder / "completar.toml"
    base_url = provider.base_url if provider is not None else "http://127.0.0.1:9/v1"
    file.write_text(_FILE.format(base_url=base_url), encoding="utf-8")
    environ = {"DATABASE_URL": url, "COMPLETAR_DATA_DIR": str(folder), "STUB_KEY": SECRET, "DRAIN_S": "2", **variables}
    hints = LocalHints()
    deps = build(load(environ, file), hints, connections=8)
    try:
        with deps.database.write() as conn:
            _, secret = keys.create(conn, projects.ensure(conn), "all")
        yield Web(deps, hints, create_app(deps), secret)
    finally:
        deps.database.close()
