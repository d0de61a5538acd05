"""A round of the sweep: no part of it holds up another, and none does too much at once."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from worker import events
from worker.services import sweep as sweeping
from worker.store import idempotency, leases, workers
from worker.store.database import Database, Unavailable
from worker.store.moment import later
from worker.store.tables import idempotency as keys
from worker.store.tables import worker
from worker.store.webhook_tables import outbox


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit", lambda event, **fields: lines.append({"event": event, **fields}))
    return lines


def sweep(database: Database) -> bool:
    with database.write() as conn:
        leases.take(conn, sweeping.LEASE, "long gone", -1.0)
    return sweeping.sweep(database, "wrk_1", lease_s=15.0, every_s=1.0, retention_s=86400.0)


def test_a_part_that_fails_holds_up_no_other_and_is_said(
    database: Database, monkeypatch: pytest.MonkeyPatch, said: list[dict[str, Any]]
) -> None:
    def too_long(*_: object) -> int:
        raise Unavailable("canceling statement due to statement timeout")

    monkeypatch.setattr(idempotency, "prune", too_long)
    with database.write() as conn:
        workers.register(conn, worker_id="wrk_old", host="h", pid=1, lanes=["batch"], release="1")
        conn.execute(worker.update().values(dead_at=later(-2 * sweeping.WORKERS_KEPT_S)))
    assert sweep(database)
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(worker)).scalar_one() == 0
    (line,) = said
    assert (line["event"], line["part"], line["level"]) == ("sweep.failed", "idempotency", "error")
    assert "statement timeout" in line["reason"]


def test_idempotency_keys_go_a_block_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.write() as conn:
        for n in range(5):
            idempotency.remember(conn, "proj_a", "jobs", f"k{n}", "f", [])
        conn.execute(keys.update().where(keys.c.key != "k4").values(created_at=later(-2 * idempotency.KEPT_S)))

    def left() -> list[str]:
        sweep(database)
        with database.read() as conn:
            return sorted(conn.execute(sa.select(keys.c.key)).scalars())

    monkeypatch.setattr(sweeping, "FORGOTTEN_AT_ONCE", 3)
    monkeypatch.setattr(sweeping, "FORGET_S", 0.0)
    assert len(left()) == 2
    assert left() == ["k4"]


def test_notes_that_no_worker_sends_are_dropped_with_all_else(database: Database) -> None:
    def note(object_id: str, age_s: float) -> None:
        values = {
            "project_id": "proj_a",
            "object": "job",
            "object_id": object_id,
            "type": "job.completed",
            "version": 3,
        }
        with database.write() as conn:
            conn.execute(outbox.insert().values(**values, at=later(-age_s)))

    note("job_old", 2 * 86400.0)
    note("job_new", 60.0)
    assert sweep(database)
    with database.read() as conn:
        assert conn.execute(sa.select(outbox.c.object_id)).scalars().all() == ["job_new"]
