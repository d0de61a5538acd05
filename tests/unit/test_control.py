"""What the engine holds of a running job: its waits end when it is asked to stop, and no place is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from worker.engine.control import Control


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 5.0)

    asyncio.run(bounded())


def test_what_is_waited_for_ends_the_wait_and_so_does_its_time() -> None:
    async def test() -> None:
        control, coming = Control(), asyncio.get_running_loop().create_future()
        await control.until(coming, 0.01)
        assert not coming.done()
        waiting = asyncio.ensure_future(control.until(coming, 60.0))
        await asyncio.sleep(0)
        coming.set_result(None)
        await waiting
        await control.until(coming, 60.0)

    run(test)


@pytest.mark.parametrize("how", ["stop", "hang_up"])
def test_who_is_asked_to_stop_waits_for_nothing_and_leaves_it_alone(how: str) -> None:
    async def test() -> None:
        control, coming = Control(), asyncio.get_running_loop().create_future()
        control.task = asyncio.ensure_future(control.until(coming, 60.0))
        await asyncio.sleep(0.01)
        if how == "stop":
            control.stop("cancelled")
        else:
            control.hang_up()
        await asyncio.gather(control.task, return_exceptions=True)
        assert control.task.cancelled() is (how == "hang_up")
        assert not coming.done(), "others may wait for it"
        if how == "stop":
            await control.until(coming, 60.0)

    run(test)


def test_a_sleep_ends_when_it_is_asked_to_stop() -> None:
    async def test() -> None:
        control = Control()
        asleep = asyncio.ensure_future(control.sleep(60.0))
        await asyncio.sleep(0)
        control.stop("cancelled")
        assert await asleep
        assert await control.sleep(60.0)
        control.stop("draining")
        assert control.why == "cancelled"

    run(test)


@pytest.mark.parametrize("turns", range(3))
def test_a_hang_up_right_behind_a_stop_is_heard(turns: int) -> None:
    async def test() -> None:
        control = Control()

        async def job() -> None:
            await control.sleep(60.0)
            await asyncio.sleep(0.05)

        control.task = asyncio.ensure_future(job())
        await asyncio.sleep(0)
        control.stop("cancelled")
        for _ in range(turns):
            await asyncio.sleep(0)
        control.hang_up()
        await asyncio.wait([control.task])
        assert control.task.cancelled()

    run(test)


def test_a_cancel_outweighs_a_drain() -> None:
    async def test() -> None:
        control = Control()
        control.stop("draining")
        assert control.asked()
        control.stop("cancelled")
        assert control.why == "cancelled"

    run(test)
