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


def free(place: asyncio.Semaphore) -> int:
    """How many could be taken at once."""
    return place._value


def test_a_free_place_is_taken_and_a_taken_one_is_waited_for() -> None:
    async def test() -> None:
        place, control = asyncio.Semaphore(1), Control()
        assert await control.take(place, 1.0)
        assert not await control.take(place, 0.01)
        waiting = asyncio.ensure_future(control.take(place, 5.0))
        await asyncio.sleep(0)
        place.release()
        assert await waiting
        assert free(place) == 0

    run(test)


def test_who_is_asked_to_stop_leaves_the_queue_at_once() -> None:
    async def test() -> None:
        place, control = asyncio.Semaphore(0), Control()
        waiting = asyncio.ensure_future(control.take(place, 60.0))
        await asyncio.sleep(0.01)
        control.stop("cancelled")
        assert not await waiting
        place.release()
        assert free(place) == 1
        assert not await Control.take(control, asyncio.Semaphore(0), 60.0), "who is asked to stop does not queue"

    run(test)


@pytest.mark.parametrize("together", ["stop", "hang_up", "time"])
def test_a_place_that_comes_along_with_the_end_of_the_wait_is_not_lost(together: str) -> None:
    async def test() -> None:
        place, control = asyncio.Semaphore(0), Control()
        waiting = asyncio.ensure_future(control.take(place, 0.05 if together == "time" else 60.0))
        control.task = waiting  # type: ignore[assignment]
        await asyncio.sleep(0.05 if together == "time" else 0.01)
        place.release()
        if together == "stop":
            control.stop("draining")
        if together == "hang_up":
            control.hang_up()
        try:
            taken = await waiting
        except asyncio.CancelledError:
            taken = False
        await asyncio.sleep(0.01)
        assert free(place) == (0 if taken else 1)

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


def test_a_cancel_outweighs_a_drain() -> None:
    async def test() -> None:
        control = Control()
        control.stop("draining")
        assert control.asked()
        control.stop("cancelled")
        assert control.why == "cancelled"

    run(test)
