"""Which connections are kept between tries, whose they are, and that none is left open."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.support import scripted_provider as script
from tests.support.scripted_provider import ScriptedProvider
from worker.settings.address import networks
from worker.webhooks import line, sender
from worker.webhooks.address import Rules
from worker.webhooks.sender import Sender, Try

LOOPBACK = Rules(private=networks(["127.0.0.0/8"]))


@pytest.fixture
def receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.reply(204))
        yield running


async def crowd(to: Sender, url: str, endpoints: list[str]) -> list[Try]:
    return await asyncio.gather(*(to.post(one, url, {}, b"{}", timeout_s=5.0) for one in endpoints))


def test_as_many_are_kept_as_were_in_use_and_no_endpoint_takes_anothers(receiver: ScriptedProvider) -> None:
    async def main() -> None:
        made = Sender(LOOPBACK)
        endpoints = ["we_1"] * 20 + ["we_2"] * 10
        for _ in range(2):
            assert all(done.fault is None for done in await crowd(made, receiver.url, endpoints))
        assert receiver.connections == 30
        await crowd(made, receiver.url, ["we_3"])
        assert receiver.connections == 31
        await made.aclose()

    asyncio.run(main())
    gc.collect()  # a connection that was left open says so here


def test_a_connection_that_has_rested_for_long_is_closed_and_not_used_again(
    receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "KEEPALIVE_S", 0.05)

    async def main() -> None:
        made = Sender(LOOPBACK)
        await crowd(made, receiver.url, ["we_1"] * 3)
        await asyncio.sleep(0.1)
        await crowd(made, receiver.url, ["we_1"] * 3)
        await asyncio.sleep(0.1)
        await crowd(made, receiver.url, ["we_2"])
        assert receiver.connections == 7
        assert len(made._lines) == 1, "the line of an endpoint that nobody writes to any more is gone"
        await made.aclose()

    asyncio.run(main())
    gc.collect()


def test_beyond_a_number_of_endpoints_those_that_rest_lose_their_connections_and_no_try_does(
    receiver: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "LINES", 4)

    async def main() -> None:
        made = Sender(LOOPBACK)
        done = await crowd(made, receiver.url, [f"we_{n}" for n in range(20)])
        assert [one.status for one in done] == [204] * 20
        await crowd(made, receiver.url, ["we_20"])
        assert len(made._lines) <= 4
        await made.aclose()

    asyncio.run(main())
    gc.collect()


def test_a_try_that_is_cut_leaves_no_connection(receiver: ScriptedProvider) -> None:
    receiver.always(script.reply(204, delay_s=5.0))

    async def main() -> None:
        made = Sender(LOOPBACK)
        done = await asyncio.gather(*(made.post("we_1", receiver.url, {}, b"{}", timeout_s=0.1) for _ in range(5)))
        assert {one.fault for one in done} == {sender.Fault.TIMEOUT}
        assert not made._lines.popitem()[1]._rest
        await made.aclose()

    asyncio.run(main())
    gc.collect()
