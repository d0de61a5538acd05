"""The end of a process that was told to stop, whatever hangs: a database, a broker, a provider, a library."""

from __future__ import annotations

import os
import threading
from typing import Final

from worker import events

MARGIN_S: Final = 0.25  # before the platform's own clock runs out
TELL_S: Final = 0.1


def be_gone_in(seconds: float) -> None:
    """End this process a moment before so many seconds have passed, unless it ended by itself. Set before the drain."""
    timer = threading.Timer(seconds - min(MARGIN_S, seconds / 10), _be_gone)
    timer.daemon = True
    timer.start()


def _be_gone() -> None:
    # Even the log may hang. What is held here is taken back by the sweep of another worker.
    telling = threading.Thread(target=events.emit, args=("process.cut_off",), kwargs={"level": "warning"}, daemon=True)
    telling.start()
    telling.join(TELL_S)
    os._exit(0)
