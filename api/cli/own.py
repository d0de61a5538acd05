"""A server of a command's own, in its process."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Iterator
from typing import Final

from api.cli.database import unavailable_told
from api.cli.fault import CliFault, Exit
from api.cli.local import faults_told
from api.cli.screen import Screen
from api.embedded import Embedded, KeyRevoked
from worker import events
from worker.settings import Settings

LOOK_S: Final = 0.2  # a signal is heard between two waits


@contextlib.contextmanager
def embedded(screen: Screen, told: Settings, *, work: bool = True) -> Iterator[Embedded]:
    """Running. Its log is silent unless --verbose: the command says what matters."""
    events.configure(told.log_level if screen.verbose else "error")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the client says it in its own words
    own = started(told, work=work)
    try:
        yield own
    finally:
        stop(own)


def stop(own: Embedded) -> None:
    """Drain, and hear Ctrl-C meanwhile: one long wait of the main thread would not, on Windows never."""
    stopping = threading.Thread(target=own.stop, name="completar-stop", daemon=True)
    stopping.start()
    while stopping.is_alive():
        stopping.join(LOOK_S)


def started(told: Settings, *, work: bool = True) -> Embedded:
    """What keeps it from starting is told in words."""
    with faults_told(), unavailable_told():
        own = Embedded(told, work=work)
        try:
            return own.start()
        except KeyRevoked:
            raise CliFault("The key in COMPLETAR_API_KEY was revoked.", "Set another, or none.", Exit.CONFIG) from None
        except OSError as fault:
            if fault.filename is not None:
                raise
            why = "is taken" if fault.errno == errno.EADDRINUSE else f"cannot be bound: {fault.strerror}"
            raise CliFault(
                f"Port {told.port} of {told.host} {why}.", "Choose another with --port, or PORT; 0 takes a free one."
            ) from None
