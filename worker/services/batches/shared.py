"""Lines that ask what another one asks: in their batch (`dedupe`), or before it in the project (`cache`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from worker import clock
from worker.services.batches.desk import Desk, Turns
from worker.services.batches.digest import digest
from worker.services.batches.lines import Line
from worker.store import lines as stored
from worker.store import shared
from worker.store.tending import Tended

AT_ONCE: Final = 500  # twins that get their ends in one transaction; each gets a copy of its leader's answer
COPIED: Final = 4 * 1024 * 1024  # bytes of these
LOOK_S: Final = 0.2
SHARE: Final = 10  # a look that took a second is good for ten


def placed(desk: Desk, batch: Tended, page: Sequence[Line]) -> list[stored.Line]:
    """Each line as it will be stored, and whether it makes a call of its own. Of lines that ask the same the first one
    stands for all of its batch; the others are its twins where `dedupe` was asked for. A line that names whom it tells
    is a job of its own: its events are of its run.
    """
    own = [stored.Line(line.number, clock.new_id("job"), line.custom_id, line.encoding) for line in page]
    if not batch.dedupe and batch.cache_age_s is None:
        return own
    digests = [digest(desk.deps.catalog, batch.project_id, batch.endpoint, line.request) for line in page]
    wanted = set(digests)
    known: dict[str, str] = {}
    with desk.deps.database.read() as conn:
        first = shared.leaders(conn, batch.id, wanted)
        if batch.cache_age_s is not None:
            known = shared.answered(conn, batch.project_id, wanted, batch.cache_age_s)
    found = []
    for asked, line, mark in zip(page, own, digests, strict=True):
        if asked.request.webhook is not None or asked.unread is not None:
            found.append(line)
        elif batch.dedupe and mark in first:
            found.append(replace(line, shared="awaited", source_id=first[mark]))
        elif mark in known:
            found.append(replace(line, shared="cached", source_id=known[mark]))
        elif mark in first:
            found.append(line)
        else:
            first[mark] = line.job_id
            found.append(replace(line, digest=mark))
    return found


def along(desk: Desk, batch: Tended, turns: Turns) -> Turns:
    """The same turns, and between them twins get the ends of their leaders."""
    due_s = 0.0
    for rest_s in turns:
        now_s = clock.monotonic_s()
        if not batch.dedupe or now_s < due_s:
            yield rest_s
            continue
        n, full = _share(desk, batch)
        after_s = clock.monotonic_s()
        due_s = after_s if full else after_s + max(LOOK_S, SHARE * (after_s - now_s))
        yield 0.0 if n else rest_s


def all_shared(desk: Desk, batch: Tended) -> Turns:
    """Until no twin waits. Only where no line is open: then every leader has ended."""
    while batch.dedupe and _share(desk, batch)[0]:
        yield 0.0


def _share(desk: Desk, batch: Tended) -> tuple[int, bool]:
    """How many twins have their ends now, and whether these were as many as may be at once."""
    with desk.deps.database.read() as conn:
        ended = shared.ended_leaders(conn, batch.id, AT_ONCE)
        largest = max(stored.sizes(conn, ended).values(), default=1) if ended else 1
    if not ended:
        return 0, False
    most = max(1, min(AT_ONCE, COPIED // max(1, largest)))
    with desk.deps.database.write() as conn:
        n = shared.share(conn, batch.id, ended, most)
    return n, n == most
