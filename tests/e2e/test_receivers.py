"""The receivers that docs/webhooks.md shows, as they stand there, against the real sender: they verify, act once on
each event, and let nothing through that was not signed.

Express itself is not installed for this: a stand-in of a few lines has the calls that the page uses.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support import scripted_provider as script
from tests.support.pages import page
from tests.support.processes import Process, Processes
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import free_port, wait_until
from worker.domain.delivery import DEFAULT_EVENTS
from worker.store import deliveries, delivery_views, webhook_endpoints
from worker.store.delivery_views import Filter
from worker.store.webhook_endpoints import NewEndpoint
from worker.webhooks.signature import secret_of

pytestmark = pytest.mark.slow

SECRET: Final = secret_of(b"\xfb" * 32)
_EXPRESS: Final = """
import { createServer } from "node:http";
export default function express() {
  let handler;
  return {
    post: (_path, _raw, found) => (handler = found),
    listen: (port) =>
      createServer((request, response) => {
        const parts = [];
        request.on("data", (part) => parts.push(part));
        request.on("end", () => {
          response.sendStatus = (status) => response.writeHead(status).end();
          handler({ headers: request.headers, body: Buffer.concat(parts) }, response);
        });
      }).listen(port, "127.0.0.1"),
  };
}
express.raw = () => null;
"""
_NEXT: Final = """
import { createServer } from "node:http";
import { POST } from "./route.mjs";
createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", async () => {
    const found = await POST(
      new Request("http://127.0.0.1/", { method: "POST", headers: request.headers, body: Buffer.concat(parts) }),
    );
    response.writeHead(found.status).end();
  });
}).listen(process.env.PORT, "127.0.0.1");
"""


def _block(mark: str, said: str) -> str:
    (found,) = (block for block in page("docs/webhooks.md").blocks if (block.mark, block.said) == (mark, said))
    return found.text


def _started(name: str, folder: Path, processes: Processes) -> tuple[Process, str]:
    port = free_port()
    env = {"COMPLETAR_WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    code = _block("receiver", name)
    if name in {"flask", "fastapi"}:
        (folder / "receiver.py").write_text(code, encoding="utf-8")
        runs = {
            "flask": ("flask", "--app", "receiver", "run", "--port", str(port)),
            "fastapi": ("uvicorn", "receiver:app", "--port", str(port)),
        }[name]
        process = processes.python(name, "-m", *runs, env=env, cwd=folder)
    else:
        (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
        (folder / "verify.mjs").write_text(_block("file", "verify.mjs"), encoding="utf-8")
        if name == "express":
            module = folder / "node_modules" / "express"
            module.mkdir(parents=True)
            (module / "package.json").write_text('{"type": "module", "main": "index.js"}', encoding="utf-8")
            (module / "index.js").write_text(_EXPRESS, encoding="utf-8")
            (folder / "main.mjs").write_text(code, encoding="utf-8")
        else:
            (folder / "route.mjs").write_text(code, encoding="utf-8")
            (folder / "main.mjs").write_text(_NEXT, encoding="utf-8")
        process = processes.start(name, ["node", "main.mjs"], env, folder)
    process.wait_for_port(port)
    return process, f"http://127.0.0.1:{port}/hooks"


@pytest.fixture
def station(sqlite_url: str, tmp_path: Path) -> Iterator[Station]:
    env = {"COMPLETAR_SECRET_KEY": "k" * 32, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
    with ScriptedProvider() as provider:
        provider.always(script.chat("fine"))
        with closing(Station(sqlite_url, provider, tmp_path, **env)) as made:
            yield made


@pytest.mark.parametrize("name", ["flask", "fastapi", "express", "next"])
def test_a_receiver_of_the_page_verifies_and_acts_once(
    name: str, station: Station, processes: Processes, tmp_path: Path
) -> None:
    if name in {"express", "next"} and shutil.which("node") is None:
        pytest.skip("no `node` on PATH, which runs the receivers in JavaScript")
    if name == "fastapi" and (find_spec("fastapi") is None or find_spec("uvicorn") is None):
        pytest.skip("fastapi and uvicorn of requirements-test.txt are not installed")
    folder = tmp_path / "receiver"
    folder.mkdir()
    process, url = _started(name, folder, processes)
    assert station.deps.vault is not None
    new = NewEndpoint(
        "we_a", station.project_id, url, DEFAULT_EVENTS, secret=station.deps.vault.seal(SECRET), payload="full"
    )
    with station.deps.database.write() as conn:
        webhook_endpoints.insert(conn, new)
    with station.worker():
        job = station.run(prompt="¿qué tal?")
        wait_until(lambda: _attempts(station) == [1], "the delivery")
        with station.deps.database.write() as conn:
            (found,), _ = delivery_views.listed(conn, station.project_id, Filter())
            assert deliveries.resend(conn, station.project_id, found.id)
        wait_until(lambda: _attempts(station) == [2], "the second delivery")
    process.wait_for_line(f"done: {job.id}")
    assert process.output.count(f"done: {job.id}") == 1
    forged = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
    for headers in (forged, {**forged, "webhook-signature": "nonsense"}, {}):
        answer = httpx.post(url, content=b'{"id":"evt_1","type":"job.completed"}', headers=headers, trust_env=False)
        assert answer.status_code == 401
    assert process.output.count("done:") == 1


def _attempts(station: Station) -> list[int]:
    with station.deps.database.read() as conn:
        page_, _ = delivery_views.listed(conn, station.project_id, Filter())
    return [one.attempts for one in page_ if one.state == "delivered"]
