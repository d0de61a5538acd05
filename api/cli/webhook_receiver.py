"""`completar webhooks listen|verify`: the receiving side, to try things with."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, Final

import click

from api.cli.client import Refused
from api.cli.command import Command
from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from api.cli.server import server
from worker import clock
from worker.domain.delivery import EVENT_TYPES
from worker.webhooks.signature import TOLERANCE_S, BadSecret, Unverified, key_of
from worker.webhooks.signature import verify as verified

VARIABLE: Final = "COMPLETAR_WEBHOOK_SECRET"
_MOST: Final = 1024 * 1024
_NAMES: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")
_LOOK_S: Final = 0.2


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--secret", envvar=VARIABLE, show_envvar=True, help="whsec_...; without one an endpoint is made meanwhile."
)
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@click.pass_obj
def listen(screen: Screen, port: int, host: str, secret: str | None, count: int | None) -> None:
    """A receiver on this machine: verifies what arrives and prints each event as a line of JSON.

    Without --secret it makes an endpoint of its own on the server of this machine (`completar up`), and deletes it at
    the end.

    For example:
      completar webhooks listen
      completar webhooks listen --port 9000 --secret whsec_... --count 1
    """
    if secret is not None:
        _check(secret)
    try:
        receiver = _Receiver((host, port), screen, count)
    except OSError as fault:
        raise CliFault(f"Port {port} of {host} cannot be bound: {fault.strerror}.", "Choose another: --port.") from None
    with receiver:
        url = f"http://{host}:{receiver.server_address[1]}/"
        thread = threading.Thread(target=receiver.serve_forever, args=(_LOOK_S,), daemon=True)
        thread.start()
        try:
            with contextlib.nullcontext(secret) if secret is not None else _registered(screen, url) as used:
                receiver.secret = used
                screen.say(f"Listening at {url} (Ctrl-C ends it).")
                while not receiver.done.wait(_LOOK_S):
                    pass
        finally:
            receiver.shutdown()


@click.command(cls=Command)
@click.argument("body", type=click.File("rb"), default="-")
@click.option("--secret", envvar=VARIABLE, show_envvar=True, required=True, help="whsec_...")
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="The three that begin webhook-."
)
@click.option("--tolerance", type=click.FloatRange(0), default=TOLERANCE_S, show_default=True, help="Seconds.")
@click.pass_obj
def verify(screen: Screen, body: BinaryIO, secret: str, headers: tuple[str, ...], tolerance: float) -> None:
    r"""Check the signature of a delivery that was kept: the raw body from a file or stdin, and its headers.

    For example:
      completar webhooks verify body.json -H 'webhook-id: evt_...' -H 'webhook-timestamp: 1795302000' \
        -H 'webhook-signature: v1,...'
    """
    _check(secret)
    given = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in headers)}
    raw = body.read()
    try:
        verified(_sent(given), raw, secret, now_s=clock.now().timestamp(), tolerance_s=tolerance)
    except Unverified as why:
        hint = "Keep the body as it arrived: JSON that was read and written again is other bytes."
        raise CliFault(f"Not verified: {why}.", hint) from None
    screen.data("verified")


def _check(secret: str) -> None:
    try:
        key_of(secret)
    except BadSecret as why:
        raise CliFault(f"This is no secret: {why}.", "It was shown when the endpoint was made.", Exit.USAGE) from None


def _sent(fields: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    first, second, third = (fields.get(name) for name in _NAMES)
    return first, second, third


@contextlib.contextmanager
def _registered(screen: Screen, url: str) -> Iterator[str]:
    """The secret of an endpoint that lasts as long as the block."""
    with server(screen) as at:
        if not at.lasts:
            remedy = f"Start `{PROGRAM} up` first, or give --secret."
            raise CliFault("No server runs here that could send anything.", remedy, Exit.UNREACHABLE)
        told = [name for name in EVENT_TYPES if name != "webhook_endpoint.test"]
        wanted = {"url": url, "name": "webhooks listen", "event_types": told}
        try:
            made = at.client.post("/v1/webhook_endpoints", wanted).json()
        except Refused as refused:
            if refused.status != 422:
                raise
            remedy = "It may not call this machine: give --secret, and a public address that leads here."
            raise CliFault(refused.message, remedy, refused.code) from None
        try:
            yield str(made["secret"])
        finally:
            at.client.delete(f"/v1/webhook_endpoints/{made['id']}")


class _Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], screen: Screen, count: int | None) -> None:
        self.screen = screen
        self.secret: str | None = None
        self.done = threading.Event()
        self._left = count
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def take(self, fields: Mapping[str, str], body: bytes) -> int:
        """The status to answer with."""
        if self.secret is None:
            return 503  # it comes again
        try:
            verified(_sent(fields), body, self.secret, now_s=clock.now().timestamp(), tolerance_s=TOLERANCE_S)
            event: dict[str, Any] = json.loads(body)
        except Unverified as why:
            self.screen.warn(f"completar: refused: {why}")
            return 401
        except ValueError:
            return 400
        with self._lock:
            if self.done.is_set():
                return 503  # nobody reads it any more: another receiver gets it, or the next try
            again = event["id"] in self._seen
            self._seen.add(event["id"])
            self.screen.line(event)
            if again:
                self.screen.say(f"{event['id']} came before: a receiver acts on each id once.")
            elif self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self.done.set()
        return 204


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver
    timeout = 30
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > _MOST:
            self.close_connection = True
            self._answer(413)
            return
        body = self.rfile.read(int(length))
        self._answer(self.server.take({name.lower(): value for name, value in self.headers.items()}, body))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's signature
        self.server.screen.detail(format % args)
