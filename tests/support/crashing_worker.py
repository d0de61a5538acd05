"""A worker, or one that takes a job in, which dies at a named point: `python -m tests.support.crashing_worker POINT N`.

The product knows nothing of this: named functions of it are wrapped here, and the Nth call of the wrapped one ends the
process by `os._exit`, before or after the deed, as a power cut would. Then the ordinary worker runs.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from worker import events
from worker.deps import build
from worker.domain.failure import Lane
from worker.engine import claimer, writer
from worker.providers.transport import Transport
from worker.services.hints import NoHints
from worker.services.idempotency import IdempotencyKey
from worker.services.submit import JobRequest, submit
from worker.services.worker import Worker
from worker.settings import load
from worker.store import claims, idempotency, new_jobs, projects

DEAD: Final = 137
Act = Callable[..., Any]


class Fuse:
    """Dies at the Nth call that is counted."""

    def __init__(self, n: int) -> None:
        self._left = n
        self._lock = threading.Lock()

    def burn(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os._exit(DEAD)


def _before(fuse: Fuse, act: Act) -> Act:
    def dying(*args: Any, **kw: Any) -> Any:
        fuse.burn()
        return act(*args, **kw)

    return dying


def _after(fuse: Fuse, act: Act, when: Callable[[Any, Any], Any] = lambda _args, _made: True) -> Act:
    def dying(*args: Any, **kw: Any) -> Any:
        made = act(*args, **kw)
        if when(args, made):
            fuse.burn()
        return made

    return dying


def _after_await(
    fuse: Fuse, act: Callable[..., Awaitable[Any]], when: Callable[[Any, Any], Any] = lambda _args, _made: True
) -> Callable[..., Awaitable[Any]]:
    async def dying(*args: Any, **kw: Any) -> Any:
        made = await act(*args, **kw)
        if when(args, made):
            fuse.burn()
        return made

    return dying


def _found(_args: Any, made: Any) -> bool:
    return bool(made)


def _marks(args: Any, _made: Any) -> bool:
    return any(entry.settle is None and entry.begin for entry in args[1])


def _settles(args: Any, _made: Any) -> bool:
    return any(entry.settle is not None for entry in args[1])


class _Dying(NoHints):
    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def jobs(self, ids: Any) -> None:
        self._fuse.burn()


def wrap(point: str, fuse: Fuse) -> None:
    """Put the fuse where the point says. Raises KeyError for a point that is not known."""
    POINTS[point](fuse)


def _set(owner: Any, name: str, wrapped: Callable[..., Any], *more: Any) -> Callable[[Fuse], None]:
    return lambda fuse: setattr(owner, name, wrapped(fuse, getattr(owner, name), *more))


# In the order in which a job meets them. `Writer._store` returns once its transaction is committed.
POINTS: Final[dict[str, Callable[[Fuse], None]]] = {
    "submit.before_rows": _set(new_jobs, "insert", _before),
    "submit.before_commit": _set(new_jobs, "insert", _after),
    "submit.between_key_and_rows": _set(idempotency, "remember", _after),
    "submit.after_commit_before_hint": lambda _fuse: None,  # the hints burn it
    "claim.before_commit": _set(claims, "claim", _after),
    "claim.after_commit": _set(claimer.Claimer, "block", _after_await, _found),
    "mark.before_commit": _set(writer, "store", _after, _marks),
    "mark.after_commit": _set(writer.Writer, "_store", _after, _marks),
    "send.before": _set(Transport, "send", _before),
    "send.after_before_record": _set(Transport, "send", _after_await),
    "record.before_commit": _set(writer, "store", _after, _settles),
    "record.after_commit": _set(writer.Writer, "_store", _after, _settles),
}


def main(point: str, n: int) -> None:
    fuse = Fuse(n)
    wrap(point, fuse)
    settings = load(os.environ)
    events.configure(settings.log_level)
    if point.startswith("submit."):
        deps = build(settings, _Dying(fuse) if point.endswith("before_hint") else NoHints(), connections=2)
        with deps.database.write() as conn:
            project_id = projects.ensure(conn)
        request = JobRequest("completion", ("default",), {"prompt": "once"}, lane=Lane.INTERACTIVE)
        submit(deps, project_id, [request], IdempotencyKey("jobs", "k", "f"))
        return
    Worker(build(settings, NoHints(), connections=8)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
