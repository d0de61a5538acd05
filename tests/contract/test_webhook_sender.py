"""One try against receivers of every kind, over real sockets; and the canary that nobody forbidden was contacted."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import certificate
from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from worker.settings.address import networks
from worker.webhooks.address import Rules
from worker.webhooks.schedule import Fault
from worker.webhooks.sender import ANSWER_BYTES, Sender, Try

LOOPBACK = Rules(private=networks(["127.0.0.0/8"]))
BODY = b'{"id":"evt_1"}'


@pytest.fixture
def receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        yield running


def post(
    *urls: str,
    rules: Rules = LOOPBACK,
    names: Callable[[str], Sequence[str]] | None = None,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> Try:
    """The last of several tries in a row by one sender; `names` stands for the resolver."""

    async def resolve(host: str, _port: int) -> Sequence[str]:
        assert names is not None
        return names(host)

    async def main() -> Try:
        sender = Sender(rules, tls=tls, resolve=None if names is None else resolve)
        try:
            for url in urls:
                last = await sender.post("we_1", url, headers, BODY, timeout_s=timeout_s)
            return last
        finally:
            await sender.aclose()

    return asyncio.run(main())


def test_a_receiver_that_takes_it(receiver: ScriptedProvider) -> None:
    receiver.always(script.reply(200, body="thanks"))
    done = post(receiver.url + "/hook?a=%20b", names=None, **{"webhook-id": "evt_1"})
    assert (done.status, done.fault, done.answer, done.address) == (200, None, b"thanks", "127.0.0.1")
    assert done.dns_s is not None
    assert done.connect_s is not None
    assert done.first_byte_s is not None
    assert done.tls_s is None
    assert done.total_s >= done.first_byte_s
    (request,) = receiver.requests
    assert (request.method, request.path, request.body) == ("POST", "/hook?a=%20b", BODY)
    assert request.headers == {
        "host": receiver.url.removeprefix("http://"),
        "content-length": str(len(BODY)),
        "webhook-id": "evt_1",
    }


def test_a_connection_is_kept_for_the_same_endpoint(receiver: ScriptedProvider) -> None:
    receiver.always(script.reply(204, body=b""))
    done = post(receiver.url, receiver.url, receiver.url)
    assert done.address == "127.0.0.1"
    assert receiver.connections == 1


def test_a_kept_connection_that_was_closed_is_not_used(receiver: ScriptedProvider) -> None:
    receiver.always(script.reply(200, then="close"))
    assert post(receiver.url, receiver.url).fault is None
    assert receiver.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        script.reply(204),
        script.reply(299),
        script.raw(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        script.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        script.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut"),
        script.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nlonger"),
        script.raw(b"HTTP/1.0 200 OK\r\n\r\nold"),
        script.reply(200, body=b"x" * 40, drip=(1, 0.2)),
        script.reply(200, body=b"x" * 65536, endless=True),
        script.reply(200, body=gzip.compress(b"0" * 50_000_000), headers={"content-encoding": "gzip"}),
        script.reply(200, body=b"y" * 10_000_000),
        script.reply(200, headers={f"x-{n}": "v" for n in range(1000)}),
    ],
    ids=[
        "204",
        "299",
        "early-hints",
        "continue",
        "short",
        "long",
        "http10",
        "drip",
        "endless",
        "bomb",
        "10MB",
        "1000-headers",
    ],
)
def test_a_status_of_2xx_is_success_whatever_follows(receiver: ScriptedProvider, answer: script.Script) -> None:
    receiver.always(answer)
    done = post(receiver.url)
    assert done.fault is None
    assert done.status is not None
    assert 200 <= done.status < 300
    assert len(done.answer) <= ANSWER_BYTES
    assert done.total_s < 2.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_recorded_and_not_followed(receiver: ScriptedProvider, status: int) -> None:
    with ScriptedProvider() as canary:
        receiver.always(script.reply(status, headers={"location": canary.url, "refresh": f"0; url={canary.url}"}))
        done = post(receiver.url)
        assert (done.status, done.fault) == (status, Fault.HTTP)
        assert canary.connections == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 415, 422, 429, 500, 503])
def test_any_other_answer_is_a_failure(receiver: ScriptedProvider, status: int) -> None:
    receiver.always(script.reply(status, body="why", headers={"Retry-After": "7"}))
    done = post(receiver.url)
    assert (done.status, done.fault, done.answer) == (status, Fault.HTTP, b"why")
    assert done.fields["retry-after"] == "7"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (script.drop(), Fault.PROTOCOL),
        (script.reset(), Fault.PROTOCOL),
        (script.raw(b"-ERR unknown command 'POST'\r\n"), Fault.PROTOCOL),
        (script.raw(b"<html>HTTP/0.9</html>"), Fault.PROTOCOL),
        (script.raw(b"HTTP/1.1 200 OK\r\nbad header\x00: \xff\r\n\r\n"), Fault.PROTOCOL),
        (script.raw(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 200_000 + b"\r\n\r\n"), Fault.PROTOCOL),
        (script.hang(), Fault.TIMEOUT),
        (script.raw(b"HTTP/1.1 200 OK\r\nx: y\r\n" * 3, drip=(1, 0.2)), Fault.TIMEOUT),
        (script.raw(b"HTTP/1.1 102 Processing\r\n\r\n" * 30, drip=(27, 0.2)), Fault.TIMEOUT),
    ],
    ids=["drop", "reset", "redis", "http09", "bad-header", "huge-header", "black-hole", "slow-headers", "1xx-only"],
)
def test_a_receiver_that_does_not_answer(receiver: ScriptedProvider, answer: script.Script, fault: Fault) -> None:
    receiver.always(answer)
    done = post(receiver.url, timeout_s=0.6)
    assert (done.status, done.fault) == (None, fault)
    assert done.reason
    assert done.total_s < 1.5


# In a process of its own: other threads of the tests' process take memory when they like.
PEAK = """
import asyncio, sys, tracemalloc
from worker.settings.address import networks
from worker.webhooks.address import Rules
from worker.webhooks.sender import Sender

async def peak(url):
    sender = Sender(Rules(private=networks(["127.0.0.0/8"])))
    await sender.post("we_1", url, {}, b"{}", timeout_s=5.0)  # what is made once is made
    tracemalloc.start()
    await sender.post("we_1", url, {}, b"{}", timeout_s=5.0)
    print(tracemalloc.get_traced_memory()[1])
    await sender.aclose()

asyncio.run(peak(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "answer",
    [
        script.reply(200, body=gzip.compress(b"0" * 50_000_000), headers={"content-encoding": "gzip"}),
        script.reply(200, body=b"y" * 65_536, endless=True),
        script.raw(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 5_000_000 + b"\r\n\r\n"),
    ],
    ids=["bomb", "endless", "huge-header"],
)
def test_a_bomb_costs_no_memory(receiver: ScriptedProvider, answer: script.Script) -> None:
    receiver.always(answer)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, receiver.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000


def test_a_black_hole_takes_no_longer_than_the_deadline() -> None:
    with socket.socket() as deaf, ExitStack() as full:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        for _ in range(4):  # the queue is full: further connections are neither taken nor refused
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        done = post(f"http://127.0.0.1:{port}/", timeout_s=0.5)
    assert done.fault is Fault.TIMEOUT
    assert done.total_s < 1.0


def test_a_name_that_fails_and_recovers() -> None:
    with ScriptedProvider() as receiver:
        receiver.always(script.reply(204))
        answers: list[Sequence[str]] = [[], ["127.0.0.1"]]
        port = receiver.url.rpartition(":")[2]
        url = f"http://hooks.internal:{port}/"
        assert post(url, names=lambda _: answers[0]).fault is Fault.DNS
        assert post(url, url, names=lambda _: answers.pop(0)).fault is None


def test_the_deadline_is_for_everything(receiver: ScriptedProvider) -> None:
    receiver.always(script.reply(200, delay_s=0.4))
    assert post(receiver.url, timeout_s=0.8).fault is None
    assert post(receiver.url, timeout_s=0.2).fault is Fault.TIMEOUT


def test_nobody_listens(receiver: ScriptedProvider) -> None:
    url = receiver.url
    receiver.stop()
    done = post(url)
    assert done.fault is Fault.CONNECT
    assert done.address == "127.0.0.1"


# -- names and addresses -------------------------------------------------------------------------------------------


def _names(**known: Sequence[str]) -> Callable[[str], Sequence[str]]:
    def look(host: str) -> Sequence[str]:
        name = host.removesuffix(".").split(".")[0]
        if name not in known:
            raise OSError("no such name")
        return known[name]

    return look


def test_a_name_is_resolved_without_search_domains_and_kept_in_the_host_header(receiver: ScriptedProvider) -> None:
    asked: list[str] = []

    def look(host: str) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    receiver.always(script.reply(200))
    port = receiver.url.rpartition(":")[2]
    public = Rules(ports=frozenset({int(port)}), plain=True)
    assert post(f"http://hooks.example.com:{port}/", rules=public, names=look).fault is Fault.SSRF_BLOCKED
    assert post(f"http://hooks.internal:{port}/", names=look).fault is None
    assert asked == ["hooks.example.com.", "hooks.internal"], "a private name may stand in the hosts file"
    assert receiver.requests[-1].headers["host"] == f"hooks.internal:{port}"


@pytest.mark.parametrize(
    "answers",
    [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["::1"], ["::ffff:127.0.0.1"], ["10.0.0.1"]],
)
def test_a_name_with_a_forbidden_address_is_never_dialled(receiver: ScriptedProvider, answers: list[str]) -> None:
    port = receiver.url.rpartition(":")[2]
    rules = Rules(ports=frozenset({443, int(port)}), plain=True)
    done = post(f"http://rebind.example.com:{port}/", rules=rules, names=lambda _: answers)
    assert done.fault is Fault.SSRF_BLOCKED
    assert done.address is None
    assert done.answer == b""
    assert receiver.connections == 0


def test_a_name_that_changes_its_mind_is_judged_at_each_connection(receiver: ScriptedProvider) -> None:
    port = receiver.url.rpartition(":")[2]
    rules = Rules(ports=frozenset({443, int(port)}), plain=True)
    answers = iter([["192.88.98.255"], ["127.0.0.1"]])
    done = post(
        f"http://rebind.example.com:{port}/",
        f"http://rebind.example.com:{port}/",
        rules=rules,
        names=lambda _: next(answers),
        timeout_s=0.3,
    )
    assert done.fault is Fault.SSRF_BLOCKED
    assert receiver.connections == 0


def test_a_url_stored_before_the_rules_is_refused_at_the_try(receiver: ScriptedProvider) -> None:
    done = post(receiver.url, rules=Rules())
    assert done.fault is Fault.SSRF_BLOCKED
    assert receiver.connections == 0


def test_a_name_that_does_not_resolve_is_no_forbidden_one() -> None:
    assert post("https://nobody.example.com/", names=_names()).fault is Fault.DNS
    assert post("https://empty.example.com/", names=_names(empty=[])).fault is Fault.DNS


def test_a_resolver_that_hangs_does_not_hold_the_try() -> None:
    async def main() -> Try:
        async def hang(_host: str, _port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

        sender = Sender(LOOPBACK, resolve=hang)
        return await sender.post("we_1", "https://slow.example.com/", {}, BODY, timeout_s=0.3)

    begun = time.monotonic()
    assert asyncio.run(main()).fault is Fault.TIMEOUT
    assert time.monotonic() - begun < 2.0


def test_the_environment_names_no_way_around(
    receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ScriptedProvider() as canary:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, canary.url)
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine 127.0.0.1 login user password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        receiver.always(script.reply(200))
        assert post(receiver.url).fault is None
        assert canary.connections == 0
        assert "authorization" not in receiver.requests[0].headers


@pytest.mark.parametrize("value", ["a\r\nhost: evil", "a\nb", "\x00", "ü€"])
def test_a_header_that_cannot_be_sent_is_our_fault_and_reaches_nobody(receiver: ScriptedProvider, value: str) -> None:
    done = post(receiver.url, **{"x-custom": value})
    assert done.fault is Fault.INTERNAL
    assert receiver.requests == []


# -- TLS ------------------------------------------------------------------------------------------------------------


async def _tls_receiver(context: ssl.SSLContext) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)


def _over_tls(path: Path, host: str, trust: ssl.SSLContext | None) -> Try:
    async def main() -> Try:
        async def resolve(_host: str, _port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        async with await _tls_receiver(certificate.serving(path)) as server:
            port: Any = server.sockets[0].getsockname()[1]
            sender = Sender(LOOPBACK, tls=trust, resolve=resolve)
            done = await sender.post("we_1", f"https://{host}:{port}/", {}, BODY, timeout_s=5)
            await sender.aclose()
            return done

    return asyncio.run(main())


def test_the_certificate_is_checked_against_the_name_not_the_address(tmp_path: Path) -> None:
    path = certificate.make(tmp_path, "hooks.internal")
    good = _over_tls(path, "hooks.internal", certificate.trusting(path))
    assert good.fault is None
    assert good.tls_s is not None
    assert _over_tls(path, "other.internal", certificate.trusting(path)).fault is Fault.TLS


def test_a_certificate_that_nobody_vouches_for_or_that_has_expired_is_refused(tmp_path: Path) -> None:
    path = certificate.make(tmp_path, "hooks.internal")
    old = certificate.make(tmp_path, "hooks.internal", days=-1)
    assert _over_tls(path, "hooks.internal", None).fault is Fault.TLS
    assert _over_tls(old, "hooks.internal", certificate.trusting(old)).fault is Fault.TLS
