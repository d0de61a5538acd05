"""Keep an Inference Endpoint up for as long as a batch needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from api.cli.endpoints import Desk, desk_of
from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from worker import clock
from worker.domain.failure import FailureKind
from worker.providers import endpoints as wire
from worker.providers.endpoints import Endpoint

PAUSED: Final = "paused"
ASLEEP: Final = "scaledToZero"
LOOK_S: Final = 5.0
PATIENCE_S: Final = 900.0  # a large model on a fresh machine


@contextmanager
def awake(
    screen: Screen, endpoint: str | None, api_url: str, *, then_sleep: bool, look_s: float = LOOK_S
) -> Iterator[None]:
    """`endpoint` is NAMESPACE/NAME, or None: nothing is done. Raises CliFault where it will not serve."""
    if endpoint is None:
        yield
        return
    namespace, _, name = endpoint.partition("/")
    if not name.strip("."):
        raise CliFault(f"{endpoint!r} is no endpoint.", "Write --endpoint NAMESPACE/NAME.", Exit.USAGE)
    desk = desk_of(screen, namespace, api_url)
    _up(desk, name, look_s)
    yield
    if then_sleep:  # not after an interruption: the lines that are open still want it
        found = desk.ask(desk.management.scale_to_zero(name), wire.read_endpoint)
        screen.say(f"{name}: {found.state}.")


def _up(desk: Desk, name: str, look_s: float) -> None:
    found = desk.ask(desk.management.get(name), wire.read_endpoint)
    if found.state == PAUSED:
        desk.screen.say(f"{name} is paused: resuming it. It costs money from now on.")
        desk.ask(desk.management.resume(name), wire.read_resumed)
        found = desk.ask(desk.management.get(name), wire.read_endpoint)
    if found.state == ASLEEP:
        desk.screen.say(f"{name} sleeps: the first line wakes it.")
        return
    _wait(desk, name, found, look_s)


def _wait(desk: Desk, name: str, found: Endpoint, look_s: float) -> None:
    until_s = clock.monotonic_s() + PATIENCE_S
    while found.kind is not None:
        if found.kind is not FailureKind.LOADING and found.state != PAUSED:
            why = found.message or found.state
            raise CliFault(
                f"{name} will not serve: {why}.", f"{PROGRAM} endpoints status {name} tells more.", Exit.FAILED
            )
        if clock.monotonic_s() > until_s:
            raise CliFault(f"{name} is still {found.state} after {PATIENCE_S:.0f} s.", None, Exit.TIMED_OUT)
        desk.screen.say(f"{name}: {found.state}.")
        threading.Event().wait(look_s)
        found = desk.ask(desk.management.get(name), wire.read_endpoint)
    desk.screen.say(f"{name}: {found.state}.")
