"""Addresses that came with requests go when nothing refers to them, and never one that a request has just found."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from worker.services import sweep
from worker.store import outbox, projects, retired_endpoints, webhook_endpoints
from worker.store.database import Database
from worker.store.moment import later
from worker.store.tables import lease
from worker.store.webhook_endpoints import NewEndpoint
from worker.store.webhook_tables import delivery, subscription, webhook_endpoint

E = webhook_endpoint.c


@pytest.fixture
def project(database: Database) -> str:
    with database.write() as conn:
        return projects.ensure(conn)


def wish(project: str, n: int) -> NewEndpoint:
    return NewEndpoint(f"we_{n}", project, "https://example.com/", ("job.completed",), fingerprint=f"f{n}")


def made(database: Database, project: str, count: int) -> None:
    """The first is asked for by a job, the second has a delivery, the others nobody refers to."""
    with database.write() as conn:
        for n in range(count):
            webhook_endpoints.ensure(conn, wish(project, n))
        standing = NewEndpoint("we_standing", project, "https://example.com/", ("job.completed",), secret="sealed")
        webhook_endpoints.insert(conn, standing)
        outbox.subscribe(conn, [("job_1", "we_0")])
        conn.execute(
            delivery.insert().values(
                id="whd_1",
                project_id=project,
                endpoint_id="we_1",
                event_id="evt_1",
                object_id="job_2",
                state="delivered",
                tries=1,
                attempts=1,
                trigger="auto",
                due_at=later(0),
                created_at=later(0),
            )
        )


def pass_by(database: Database, seconds: float) -> None:
    with database.write() as conn:
        conn.execute(webhook_endpoint.update().values(created_at=later(-seconds)))
        conn.execute(webhook_endpoint.update().where(E.retired_at.is_not(None)).values(retired_at=later(-seconds)))
        conn.execute(lease.delete())


def ids(database: Database) -> list[str]:
    with database.read() as conn:
        return list(conn.execute(sa.select(E.id).order_by(E.id)).scalars())


def test_what_nothing_refers_to_is_retired_and_then_purged_block_by_block(database: Database, project: str) -> None:
    made(database, project, 7)
    with database.write() as conn:
        assert retired_endpoints.purge(conn, "", most=3) is None, "they are too young"
    pass_by(database, 3600)
    for _ in range(2):
        after: str | None = ""
        blocks = 0
        while after is not None:
            with database.write() as conn:
                after = retired_endpoints.purge(conn, after, most=3)
            blocks += 1
        assert blocks > 1
        if _ == 0:
            assert len(ids(database)) == 8, "only retired"
            pass_by(database, 3600)
    assert ids(database) == ["we_0", "we_1", "we_standing"]


def test_a_request_that_had_found_it_keeps_it_and_the_next_gets_another(database: Database, project: str) -> None:
    made(database, project, 3)
    pass_by(database, 3600)
    with database.write() as conn:
        retired_endpoints.purge(conn, "")
    with database.write() as conn:
        outbox.subscribe(conn, [("job_3", "we_2")])  # of one that had found it before
        again = NewEndpoint("we_9", project, "https://example.com/", ("job.completed",), fingerprint="f2")
        assert webhook_endpoints.ensure(conn, again) == "we_9"
    pass_by(database, 3600)
    with database.write() as conn:
        retired_endpoints.purge(conn, "")
        assert [*webhook_endpoints.many(conn, ["we_2"])] == ["we_2"], "its events are still told"
        conn.execute(subscription.delete().where(subscription.c.object_id == "job_3"))
        retired_endpoints.purge(conn, "")
        assert not webhook_endpoints.many(conn, ["we_2"])


def test_the_sweep_does_it_once_in_its_time_for_all_workers(database: Database, project: str) -> None:
    made(database, project, 3)

    def swept(holder: str) -> None:
        assert sweep.sweep(database, holder, lease_s=15.0, every_s=0.0, retention_s=86400.0)

    pass_by(database, 3600)
    swept("wrk_1")
    with database.write() as conn:
        conn.execute(webhook_endpoint.update().where(E.retired_at.is_not(None)).values(retired_at=later(-3600)))
    swept("wrk_1")
    assert "we_2" in ids(database), "not again so soon"
    pass_by(database, 3600)
    swept("wrk_2")
    assert ids(database) == ["we_0", "we_1", "we_standing"]
