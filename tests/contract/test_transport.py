"""The transport over real sockets: what each misbehaviour of a provider becomes, and what is never done."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest
import uvloop

from tests.support.scripted_provider import (
    ScriptedProvider,
    chat,
    drop,
    hang,
    raw,
    reply,
    reset,
)
from worker.domain.answer import Call, Failure
from worker.domain.failure import FailureKind
from worker.domain.money import Usage
from worker.providers.openai import OpenAIFormat
from worker.providers.transport import Reply, Transport

Send = Callable[..., Awaitable[Reply | Failure]]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as scripted:
        yield scripted


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Transport], Awaitable[object]]], object]:
    """Runs a coroutine function with an open transport, on either loop."""

    def runner(work: Callable[[Transport], Awaitable[object]]) -> object:
        async def main() -> object:
            transport = Transport()
            try:
                return await work(transport)
            finally:
                await transport.aclose()

        return uvloop.run(main()) if request.param == "uvloop" else asyncio.run(main())

    return runner


def post(url: str, content: bytes = b'{"model":"m"}', method: str = "POST") -> httpx.Request:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    headers["User-Agent"] = "test/1"
    return httpx.Request(method, url, headers=headers, content=content)


async def send(transport: Transport, request: httpx.Request | str, **clocks: float) -> Reply | Failure:
    request = post(request) if isinstance(request, str) else request
    limits = {"connect_s": 5.0, "first_byte_s": 5.0, "total_s": 10.0, **clocks}
    return await transport.send(request, **limits)  # type: ignore[arg-type]


def one(run, url, **clocks):
    return run(lambda transport: send(transport, url, **clocks))


def is_failure(outcome, kind, *words):
    assert isinstance(outcome, Failure), outcome
    assert outcome.kind is kind
    for word in words:
        assert word in outcome.message
    return outcome


# What goes out


def test_the_request_goes_out_as_it_was_built(run, provider):
    provider.chat("hello")
    outcome = one(run, provider.url + "/v1/chat/completions?a=b%20c")
    assert isinstance(outcome, Reply)
    (received,) = provider.requests
    assert (received.method, received.path) == ("POST", "/v1/chat/completions?a=b%20c")
    assert received.body == b'{"model":"m"}'
    assert received.headers == {
        "host": provider.url.removeprefix("http://"),
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "test/1",
        "content-length": "13",
    }


def test_the_environment_names_no_proxy_and_no_password(run, provider, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    provider.chat("hello")
    assert isinstance(one(run, provider.url), Reply)
    assert "authorization" not in provider.requests[0].headers


def test_a_redirect_is_a_reply_and_a_cookie_is_forgotten(run, provider):
    provider.answer(307, headers={"location": provider.url + "/elsewhere", "set-cookie": "a=b"})
    provider.chat("hello")

    async def work(transport):
        return [await send(transport, provider.url + path) for path in ("/one", "/two")]

    first, second = run(work)
    assert first.status == 307
    assert second.status == 200
    assert [r.path for r in provider.requests] == ["/one", "/two"]
    assert "cookie" not in provider.requests[1].headers


def test_a_large_body_arrives_whole(run, provider):
    provider.always(lambda received: reply(body=received.body))
    big = bytes(range(256)) * 8192  # 2 MiB: more than any socket buffer
    outcome = run(lambda transport: send(transport, post(provider.url, big)))
    assert outcome.body == big


# What comes back


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_body_in_any_framing(run, provider, framing):
    provider.answer(418, body=b"x" * 100_000, framing=framing, headers={"X-Request-Id": "r1"})
    outcome = one(run, provider.url)
    assert isinstance(outcome, Reply)
    assert (outcome.status, outcome.body) == (418, b"x" * 100_000)
    assert outcome.headers["x-request-id"] == "r1"


@pytest.mark.parametrize("status", [200, 204, 304, 500])
def test_a_reply_without_a_body(run, provider, status):
    provider.queue(raw(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status))
    outcome = one(run, provider.url)
    assert isinstance(outcome, Reply)
    assert (outcome.status, outcome.body) == (status, b"")


def test_repeated_headers_are_joined(run, provider):
    provider.queue(raw(b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nB: \xff\r\ncontent-length: 2\r\n\r\nok"))
    outcome = one(run, provider.url)
    assert outcome.headers["a"] == "1, 2"
    assert outcome.body == b"ok"


def test_an_interim_reply_is_passed_over(run, provider):
    provider.queue(raw(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
    assert one(run, provider.url).body == b"ok"


def test_times_are_measured(run, provider):
    provider.queue(reply(body=b"abcd", delay_s=0.1, drip=(2, 0.1)))
    outcome = one(run, provider.url)
    assert outcome.first_byte_s >= 0.1
    assert outcome.total_s >= outcome.first_byte_s + 0.19


def test_what_was_compressed_unasked_is_decoded(run, provider):
    provider.answer(body=gzip.compress(b"hello" * 1000), headers={"content-encoding": "gzip"})
    assert one(run, provider.url).body == b"hello" * 1000


# Connections


def test_connections_are_kept_and_shared(run, provider):
    provider.always(chat("ok"))

    async def work(transport):
        for _ in range(5):
            await send(transport, provider.url)
        provider.always(chat("ok", delay_s=0.2))
        return await asyncio.gather(*[send(transport, provider.url) for _ in range(150)])

    outcomes = run(work)
    assert all(isinstance(outcome, Reply) for outcome in outcomes)
    assert [received.connection for received in provider.requests[:5]] == [0] * 5
    assert provider.connections == 150  # all at once: there is no limit to wait behind


def test_a_connection_the_server_closed_unannounced_is_not_used_again(run, provider):
    provider.queue(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none", then="close"), chat("two"))

    async def work(transport):
        first = await send(transport, provider.url)
        await asyncio.to_thread(provider.wait_open, 0)
        await asyncio.sleep(0.05)  # the loop must see the end of the connection; nothing else tells of it
        return first, await send(transport, provider.url)

    first, second = run(work)
    assert first.body == b"one"
    assert isinstance(second, Reply)
    assert [received.connection for received in provider.requests] == [0, 1]


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
@pytest.mark.parametrize("how", [drop(), reset()])
def test_a_request_is_never_sent_again_on_a_connection_closed_under_it(run, provider, how, method):
    provider.queue(chat("one"), how)
    provider.always(chat("never asked"))

    async def work(transport):
        await send(transport, provider.url)
        return await send(transport, post(provider.url, b"" if method == "GET" else b"{}", method))

    is_failure(run(work), FailureKind.CONNECTION)
    assert len(provider.requests) == 2
    assert [received.connection for received in provider.requests] == [0, 0]


def test_bytes_nobody_asked_for_answer_no_later_call(run, provider):
    asked = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nasked"
    stray = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray"
    provider.queue(raw(asked + stray, then="keep", drip=(len(asked), 0.02)), chat("two"))

    async def work(transport):
        first = await send(transport, provider.url)
        await asyncio.sleep(0.2)  # the stray bytes must have come; they tell nobody
        return first, await send(transport, provider.url)

    first, second = run(work)
    assert first.body == b"asked"
    assert b'"two"' in second.body
    assert [received.connection for received in provider.requests] == [0, 1]


def test_a_cancelled_call_hangs_up(run, provider):
    provider.always(hang())

    async def work(transport):
        call = asyncio.create_task(send(transport, provider.url))
        await asyncio.to_thread(provider.wait_for, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(provider.wait_open, 0)

    run(work)


def test_a_call_cancelled_in_mid_body_hangs_up(run, provider):
    provider.answer(body=b"x" * 1000, drip=(1, 0.05))

    async def work(transport):
        call = asyncio.create_task(send(transport, provider.url))
        await asyncio.to_thread(provider.wait_for, 1)
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(provider.wait_open, 0)

    run(work)


def test_closing_ends_the_calls_in_flight(run, provider):
    provider.always(hang())

    async def work(transport):
        call = asyncio.create_task(send(transport, provider.url))
        await asyncio.to_thread(provider.wait_for, 1)
        await transport.aclose()
        outcome = await call
        await asyncio.to_thread(provider.wait_open, 0)
        return outcome

    assert not is_failure(run(work), FailureKind.CONNECTION).unsent


# No reply


def test_nobody_listens(run, provider):
    provider.stop()
    assert is_failure(one(run, provider.url), FailureKind.CONNECTION, "127.0.0.1").unsent


def test_the_provider_comes_back(run, provider):
    async def work(transport):
        provider.stop()
        down = await send(transport, provider.url)
        provider.start()
        provider.chat("back")
        return down, await send(transport, provider.url)

    down, up = run(work)
    is_failure(down, FailureKind.CONNECTION)
    assert isinstance(up, Reply)


def test_a_name_that_does_not_exist(run):
    failure = is_failure(one(run, "http://nobody.invalid/v1"), FailureKind.CONNECTION, "nobody.invalid", "resolved")
    assert failure.unsent


def test_no_tls_where_it_was_expected(run):
    async def refuse(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def work(transport):
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            return await send(transport, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert is_failure(run(work), FailureKind.CONNECTION, "no TLS with 127.0.0.1").unsent


@pytest.mark.parametrize("how", [drop(), reset(), raw(b"HTTP/1.1 200 OK\r\ncontent-le")])
def test_a_reply_that_never_began(run, provider, how):
    provider.queue(how)
    failure = is_failure(one(run, provider.url), FailureKind.CONNECTION)
    assert failure.http_status is None
    assert not failure.unsent, "it may have been billed"


@pytest.mark.parametrize("noise", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x01\x02\x03" * 50, b"HTTP/1.1 abc OK\r\n\r\n"])
def test_a_reply_that_is_no_http(run, provider, noise):
    provider.queue(raw(noise))
    assert not is_failure(one(run, provider.url), FailureKind.CONNECTION).unsent


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http:///v1", "http://user:word@127.0.0.1:9/"])
def test_a_request_that_cannot_be_sent(run, url):
    request = post(url)
    request.headers["Authorization"] = "Bearer x"
    failure = is_failure(run(lambda transport: send(transport, request)), FailureKind.INTERNAL)
    assert "word" not in failure.message


def test_a_key_with_a_line_break_is_not_sent(run, provider):
    request = post(provider.url)
    request.headers["Authorization"] = "Bearer secret\r\nX-Evil: 1"
    failure = is_failure(run(lambda transport: send(transport, request)), FailureKind.INTERNAL)
    assert "secret" not in failure.message
    assert not provider.requests


# The clocks


def clock(run, url, **clocks):
    begun = time.monotonic()
    failure = is_failure(one(run, url, **clocks), FailureKind.TIMEOUT)
    return failure, time.monotonic() - begun


def test_the_connect_clock(run):
    # TLS belongs to the connection: this server takes it, and never greets back.
    with socket.create_server(("127.0.0.1", 0)) as server:
        failure, took_s = clock(run, f"https://127.0.0.1:{server.getsockname()[1]}/", connect_s=0.2)
    assert failure.message == "no connection to 127.0.0.1 within 0.2 s (connect)"
    assert 0.2 <= took_s < 2


def test_the_first_byte_clock(run, provider):
    provider.queue(hang())
    failure, took_s = clock(run, provider.url, first_byte_s=0.2)
    assert failure.message == "no reply began within 0.2 s (first byte)"
    assert 0.2 <= took_s < 2


def test_the_first_byte_clock_holds_against_a_dripping_head(run, provider):
    provider.queue(raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500, drip=(1, 0.02)))
    failure, took_s = clock(run, provider.url, first_byte_s=0.3)
    assert "first byte" in failure.message
    assert took_s < 2


def test_the_total_clock_before_the_head(run, provider):
    provider.queue(hang())
    failure, took_s = clock(run, provider.url, first_byte_s=5, total_s=0.2)
    assert failure.message == "no complete reply within 0.2 s (total)"
    assert failure.http_status is None
    assert took_s < 2


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_the_total_clock_holds_against_drip(run, provider, framing):
    provider.answer(body=b"x" * 1000, drip=(1, 0.02), framing=framing)
    failure, took_s = clock(run, provider.url, first_byte_s=5, total_s=0.5)
    assert failure.message == "no complete reply within 0.5 s (total)"
    assert failure.http_status == 200
    assert 0.5 <= took_s < 2


def test_the_first_byte_clock_stops_with_the_head(run, provider):
    provider.answer(body=b"xx", drip=(1, 0.4))
    assert one(run, provider.url, first_byte_s=0.6).body == b"xx"


@pytest.mark.parametrize("how", ["silent", "dripping"])
def test_a_call_out_of_time_hangs_up(run, provider, how):
    provider.queue(hang() if how == "silent" else reply(body=b"x" * 1000, drip=(1, 0.02)))

    async def work(transport):
        outcome = await send(transport, provider.url, first_byte_s=0.2, total_s=0.3)
        await asyncio.to_thread(provider.wait_open, 0)
        return outcome

    is_failure(run(work), FailureKind.TIMEOUT)


# A reply that breaks


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_reply_cut_in_mid_body(run, provider, framing, then):
    provider.answer(body=b"x" * 1000, cut_after=500, framing=framing, then=then, drip=(100, 0.01))
    failure = is_failure(one(run, provider.url), FailureKind.TRUNCATED)
    assert failure.http_status == 200


def test_a_reply_cut_after_its_head(run, provider):
    provider.answer(body=b"x" * 1000, cut_after=0, then="close")
    is_failure(one(run, provider.url), FailureKind.TRUNCATED)


def test_a_broken_chunk(run, provider):
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    provider.queue(raw(head + b"5\r\nhello\r\nzz\r\n", drip=(len(head), 0.05)))
    is_failure(one(run, provider.url), FailureKind.TRUNCATED)


@pytest.mark.parametrize(("encoding", "body"), [("gzip", b"no gzip at all"), ("br", b"?"), ("zstd", b"?")])
def test_a_body_that_cannot_be_decoded(run, provider, encoding, body):
    provider.answer(body=body, headers={"content-encoding": encoding})
    is_failure(one(run, provider.url), FailureKind.BAD_OUTPUT, "decompress")


def test_an_endless_body_is_stopped(run, provider):
    provider.answer(body=b"x" * 65_536, endless=True)

    async def work(transport):
        outcome = await send(transport, provider.url, max_bytes=1_000_000)
        await asyncio.to_thread(provider.wait_open, 0)
        return outcome

    failure = is_failure(run(work), FailureKind.BAD_OUTPUT, "longer than 1000000 bytes")
    assert failure.http_status == 200


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_body_too_long_by_its_own_account_is_not_read(run, provider, size):
    provider.answer(body=b"x" * size)
    is_failure(one(run, provider.url, max_bytes=9), FailureKind.BAD_OUTPUT, "longer than 9 bytes")


def test_a_body_of_just_the_allowed_length(run, provider):
    provider.answer(body=b"x" * 10)
    assert len(one(run, provider.url, max_bytes=10).body) == 10


def test_a_decompression_bomb_is_stopped(run, provider):
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    provider.answer(body=bomb, headers={"content-encoding": "gzip"})
    is_failure(one(run, provider.url, max_bytes=1_000_000), FailureKind.BAD_OUTPUT, "longer than 1000000 bytes")


# One loop, many calls


def test_a_slow_call_holds_up_no_other(run, provider):
    held = provider.hold(chat("late"))
    provider.always(chat("soon"))

    async def work(transport):
        late = asyncio.create_task(send(transport, provider.url))
        await asyncio.to_thread(held.arrived.wait, 5)
        soon = await asyncio.gather(*[send(transport, provider.url) for _ in range(20)])
        assert not late.done()
        held.release()
        return [*soon, await late]

    assert all(isinstance(outcome, Reply) for outcome in run(work))


# With a wire format


def test_calls_from_end_to_end(run, provider):
    wire = OpenAIFormat()
    provider.chat("Hola.", tokens=(5, 2), model="m-1")
    provider.embeddings([[1.0, -0.5]])
    provider.error(429, "slow down", kind="tokens", code="rate_limit_exceeded", headers={"retry-after": "7"})
    provider.always(lambda received: chat(received.json["model"]))

    async def call(transport, **fields):
        kind = "embedding" if "input" in fields else "completion"
        asked = Call(kind, provider.base_url, "m", fields)
        reply = await send(transport, wire.build_request(asked, "key"))
        return wire.read_response(asked, reply.status, reply.headers, reply.body)

    async def work(transport):
        return [await call(transport, **fields) for fields in ({"prompt": "a"}, {"input": "b"}, {}, {})]

    first, second, third, fourth = run(work)
    assert (first.text, first.model, first.usage) == ("Hola.", "m-1", Usage(5, 2))
    assert second.embeddings == [[1.0, -0.5]]
    assert (third.kind, third.wait_s) == (FailureKind.RATE_LIMIT, 7.0)
    assert fourth.text == "m"
    assert [received.path for received in provider.requests[:2]] == ["/v1/chat/completions", "/v1/embeddings"]
    assert provider.requests[0].headers["authorization"] == "Bearer key"
    assert provider.requests[0].json == {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    assert {received.connection for received in provider.requests} == {0}


def test_a_provider_with_nothing_to_say_says_so(run, provider):
    outcome = one(run, provider.url)
    assert (outcome.status, b"nothing is scripted" in outcome.body) == (500, True)
    with pytest.raises(TimeoutError, match="saw 1 requests"):
        provider.wait_for(2, within_s=0.05)
