"""Write what the spool kept, now that the database is back: through the same fence as any other write."""

from __future__ import annotations

from worker import events
from worker.engine.entry import Entry
from worker.engine.spool import Spool
from worker.engine.writer import store
from worker.store.database import Database, Unavailable


def replay(database: Database, spool: Spool) -> int:
    """Write every entry that waits; how many. Raises Unavailable when the database is away: they wait on.

    Each has a transaction of its own, and one that was written before changes nothing.
    """
    written = 0
    for file, entries in spool.take():
        refused: list[Entry] = []
        late = 0
        for entry in entries:
            try:
                with database.write() as conn:
                    (outcome,) = store(conn, [entry], again=True)
                late += outcome is not True
            except Unavailable:
                spool.put_back(file)
                raise
            except Exception as exc:  # noqa: BLE001 - one bad row must not hold up the others
                events.emit("spool.refused", level="error", job_id=entry.job_id, error=type(exc).__name__)
                refused.append(entry)
        if refused:
            spool.set_aside(refused)
        spool.remove(file)
        written += len(entries) - len(refused)
        events.emit("spool.replayed", level="warning", entries=len(entries), late=late, refused=len(refused))
    return written
