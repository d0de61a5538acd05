"""Code says what happened; this file writes the line. Ids and numbers only: never a prompt, an answer or a key."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
_log: Any = structlog.get_logger("completar")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_threshold = 20


def emit(event: str, *, level: Level = "info", **fields: Any) -> None:
    """`event` in the past tense or as a state: `attempt.finished`, `writer.waiting`."""
    if _LEVELS[level] >= _threshold:
        getattr(_log, level)(event, **fields)


def fault(exc: BaseException) -> dict[str, Any]:
    """Fields that tell its type and place, which are enough to find it: its text may hold a prompt."""
    frames = traceback.extract_tb(exc.__traceback__)[-6:]
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(exc).__name__, "where": where}


def configure(level: str = "info") -> None:
    """JSON lines where nobody watches, readable ones on a terminal; always on stderr. Nothing below `level` is logged,
    and no event is as grave as `critical`: it is silence.
    """
    global _threshold  # noqa: PLW0603 - set once at start
    _threshold = _LEVELS[level]
    tty = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if tty else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for chatty in ("celery.worker.strategy", "celery.app.trace"):  # a line for each message received and done
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.basicConfig(stream=sys.stderr, level=max(_threshold, logging.INFO), format="%(message)s")
