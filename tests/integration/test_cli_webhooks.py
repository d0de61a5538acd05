"""`completar webhooks` against a real server: endpoints from the shell, a receiver that verifies, keys changed."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from api.cli.screen import Screen
from api.cli.webhook_receiver import _Receiver
from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import free_port, listening, wait_until
from tests.support.web import Web, web
from worker import clock
from worker.store.moment import later
from worker.store.tables import lease
from worker.webhooks.signature import headers, secret_of

OLD, NEW = "o" * 32, "n" * 32
SECRET = secret_of(b"\x07" * 32)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.always(script.reply(204))
        yield started


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Web]:
    variables = {"COMPLETAR_SECRET_KEY": OLD, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8", "COMPLETAR_POLL_S": "0.2"}
    with web(sqlite_url, tmp_path, **variables) as made:
        yield made


@pytest.fixture
def run(site: Web, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The real entry, in this process, with a server and nobody at the keyboard."""
    from api.cli.main import main

    monkeypatch.chdir(tmp_path)
    with site.served() as url:
        for name, value in {
            "COMPLETAR_URL": url,
            "COMPLETAR_API_KEY": site.key,
            "DATABASE_URL": sqlite_url,
            "COMPLETAR_DATA_DIR": str(tmp_path),
            "COMPLETAR_SECRET_KEY": OLD,
            "STUB_KEY": "stub",
        }.items():
            monkeypatch.setenv(name, value)

        def running(*arguments: str, stdin: bytes = b"") -> Ended:
            monkeypatch.setattr(sys, "argv", ["completar", "webhooks", *arguments])
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main()
            said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
            return Ended(int(str(ended.value.code)), *said)

        yield running


def test_an_endpoint_from_its_making_to_its_end(run: Run, site: Web, receiver: ScriptedProvider) -> None:
    made = run("create", receiver.url + "/in", "--name", "shop", "--event", "job.failed", "-H", "X-Shop: one: two")
    assert made.code == 0
    secret = made.out.strip()
    assert secret.startswith("whsec_")
    assert "shown only now" in made.err
    (line,) = run("list").out.splitlines()
    endpoint_id, state, url, name, hint, events = line.split("\t")
    assert (state, url, name, events) == ("active", receiver.url + "/in", "shop", "job.failed")
    assert hint == "..." + secret.rstrip("=")[-4:]
    tested = run("test", endpoint_id)
    assert (tested.code, "delivered" in tested.err) == (0, True)
    assert receiver.requests[0].headers["x-shop"] == "one: two"
    assert run("rotate", endpoint_id, "--grace-hours", "0").out.strip() not in {"", secret}
    shown = run("update", endpoint_id, "--disable", "--max-rps", "5")
    assert "disabled on request" in shown.out
    assert run("recover", endpoint_id).code == 1
    assert run("update", endpoint_id, "--enable").code == 0
    nothing = run("recover", endpoint_id)
    assert (nothing.out.strip(), nothing.err.strip()) == ("0", "Nothing to send again.")
    (delivery,) = run("deliveries", "--endpoint", endpoint_id).out.splitlines()
    delivery_id = delivery.split("\t")[0]
    assert run("deliveries", delivery_id).out.split("\t")[:2] == ["1", "test"]
    assert run("resend", delivery_id).out.split() == [delivery_id, "pending"]
    assert run("delete", endpoint_id).code == 2, "nobody is there to ask"
    assert run("delete", endpoint_id, "--yes").code == 0
    assert run("list").out == ""


def test_a_receiver_that_fails_is_told_by_the_exit_code(run: Run, site: Web, receiver: ScriptedProvider) -> None:
    receiver.always(script.reply(500))
    run("create", receiver.url)
    (line,) = run("list").out.splitlines()
    failed = run("test", line.split("\t")[0])
    assert failed.code == 1
    assert "the receiver answered 500" in failed.out
    again = run("test", line.split("\t")[0])
    assert "every 3 seconds" in again.err


def test_a_forbidden_address_is_told_with_the_way_out(run: Run) -> None:
    told = run("create", "ftp://example.com")
    assert told.code == 2
    assert "must begin with https://" in told.err
    assert run("list", "--limit", "0").code == 2
    assert run("test", "../jobs").code == 2


def test_the_projects_own_secret(run: Run) -> None:
    assert run("secret").out.strip() == ""
    made = run("secret", "--rotate").out.strip()
    assert run("secret").out.strip() == "..." + made.rstrip("=")[-4:]
    assert json.loads(run("secret", "--json").out)["exists"] is True


def test_all_secrets_move_to_a_new_key(
    run: Run, site: Web, receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, sqlite_url: str, tmp_path: Path
) -> None:
    secret = run("create", receiver.url, "-H", "X-A: b").out.strip()
    run("secret", "--rotate")
    monkeypatch.setenv("COMPLETAR_SECRET_KEY", f"{NEW},{OLD}")
    done = run("reseal")
    assert (done.code, "Encrypted anew: 2. Not readable: 0." in done.err) == (0, True)
    monkeypatch.setenv("COMPLETAR_SECRET_KEY", OLD)
    assert run("reseal").code == 1, "the old key opens nothing any more"
    other = tmp_path / "other"
    other.mkdir()
    variables = {"COMPLETAR_SECRET_KEY": NEW, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
    with web(sqlite_url, other, **variables) as moved:
        (endpoint,) = moved.get("/v1/webhook_endpoints").json["data"]
        assert (endpoint["secret_hint"], endpoint["headers"]) == ("..." + secret.rstrip("=")[-4:], ["X-A"])
        with moved.deps.database.write() as conn:
            conn.execute(lease.update().values(until=later(-1)))
        assert moved.post(f"/v1/webhook_endpoints/{endpoint['id']}/test").json["state"] == "delivered"


def _listening(*arguments: str) -> tuple[threading.Thread, list[Any], int]:
    """`listen` on a thread: click's own runner keeps what it prints."""
    from click.testing import CliRunner

    from api.cli.main import root

    port, ended = free_port(), []
    command = ["webhooks", "listen", "--port", str(port), *arguments]
    thread = threading.Thread(target=lambda: ended.append(CliRunner().invoke(root, command, obj=Screen())), daemon=True)
    thread.start()
    wait_until(lambda: listening(port), "the receiver")
    return thread, ended, port


def test_the_receiver_verifies_prints_and_knows_what_came_before(run: Run) -> None:
    thread, ended, port = _listening("--secret", SECRET, "--count", "2")
    at = f"http://127.0.0.1:{port}/"
    bodies = [f'{{"id":"evt_{n}","type":"job.completed"}}'.encode() for n in range(2)]
    now_s = int(clock.now().timestamp())

    def post(body: bytes, event_id: str, signed: bytes) -> int:
        return httpx.post(
            at, content=body, headers=headers(event_id, now_s, signed, [SECRET]), trust_env=False
        ).status_code

    assert post(bodies[0], "evt_0", b"another body") == 401
    assert post(bodies[0], "evt_0", bodies[0]) == 204
    assert post(bodies[0], "evt_0", bodies[0]) == 204
    assert post(bodies[1], "evt_1", bodies[1]) == 204
    thread.join(10)
    (result,) = ended
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["evt_0", "evt_0", "evt_1"]
    assert "came before" in result.stderr
    assert "refused: no entry of webhook-signature fits" in result.stderr


def test_a_receiver_that_has_its_number_of_events_takes_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    """Its process ends a moment later, and printed what came meanwhile."""
    now_s = int(clock.now().timestamp())
    with _Receiver(("127.0.0.1", 0), Screen(), 2) as receiver:
        receiver.secret = SECRET
        taken = []
        for n in range(4):
            body = f'{{"id":"evt_{n}"}}'.encode()
            taken.append(receiver.take(headers(f"evt_{n}", now_s, body, [SECRET]), body))
    assert taken == [204, 204, 503, 503]
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["evt_0", "evt_1"]


def test_the_receiver_makes_an_endpoint_and_takes_it_away(run: Run, site: Web) -> None:
    thread, ended, _ = _listening("--count", "1")
    wait_until(lambda: site.get("/v1/webhook_endpoints").json["data"], "the endpoint")
    (endpoint,) = site.get("/v1/webhook_endpoints").json["data"]
    wait_until(
        lambda: site.post(f"/v1/webhook_endpoints/{endpoint['id']}/test").json.get("state") == "delivered",
        "a test that is taken",
        every_s=0.5,
    )
    thread.join(10)
    assert json.loads(ended[0].stdout)["type"] == "webhook_endpoint.test"
    assert site.get("/v1/webhook_endpoints").json["data"] == []


def test_a_delivery_that_was_kept_is_verified(run: Run, tmp_path: Path) -> None:
    body = b'{"id":"evt_1"}'
    sent = [f"-H{name}: {value}" for name, value in headers("evt_1", 1795302000, body, [SECRET]).items()]
    kept = tmp_path / "body.json"
    kept.write_bytes(body)
    ever = ["--secret", SECRET, "--tolerance", "1e12", *sent]
    assert run("verify", str(kept), *ever).out.strip() == "verified"
    assert run("verify", *ever, stdin=body).code == 0
    wrong = run("verify", *ever, stdin=body + b"\n")
    assert wrong.code == 1
    assert "other bytes" in wrong.err
    assert "away from this machine's clock" in run("verify", str(kept), "--secret", SECRET, *sent).err
    assert run("verify", str(kept), "--secret", "whsec_x", *sent).code == 2
