"""Webhooks with real processes: senders killed at every wrong moment, the broker and the database taken away.

At least once, under the same id, verifiable each time: that is the promise. `WEBHOOK_KILLS=20 WEBHOOK_OUTAGE_S=60`
makes the longest of these as long as it can be.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
import standardwebhooks

from tests.support import scripted_provider as script
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from tests.support.wait import wait_until
from worker.domain.delivery import DEFAULT_EVENTS
from worker.domain.state import JobStatus
from worker.store import delivery_views, jobs, webhook_endpoints
from worker.store.delivery_views import Filter
from worker.store.moment import later
from worker.store.webhook_endpoints import NewEndpoint
from worker.store.webhook_tables import delivery
from worker.webhooks.signature import secret_of

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

QUICK = {
    "COMPLETAR_HEARTBEAT_S": "0.2",
    "COMPLETAR_LEASE_S": "1.5",
    "COMPLETAR_POLL_S": "0.2",
    "COMPLETAR_SECRET_KEY": "k" * 32,
    "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8",
}
SECRET: Final = secret_of(b"\xfb" * 32)
KILLS: Final = int(os.environ.get("WEBHOOK_KILLS", "2"))
OUTAGE_S: Final = float(os.environ.get("WEBHOOK_OUTAGE_S", "4"))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("fine"))
        yield running


@pytest.fixture
def receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.reply(204))
        yield running


@pytest.fixture
def station(postgres_url: str, redis_server: Redis, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(postgres_url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as made:
        yield made


def listen(station: Station, receiver: ScriptedProvider) -> None:
    assert station.deps.vault is not None
    new = NewEndpoint(
        "we_a", station.project_id, receiver.url, DEFAULT_EVENTS, secret=station.deps.vault.seal(SECRET), max_rps=500.0
    )
    with station.deps.database.write() as conn:
        webhook_endpoints.insert(conn, new)


def ended(station: Station, n: int = 1) -> list[str]:
    """Jobs that came to their end without any worker."""
    ids = station.submit(n)
    with station.deps.database.write() as conn:
        for job_id in ids:
            jobs.cancel(conn, station.project_id, job_id)
    return ids


def states(station: Station) -> Counter[str]:
    with station.deps.database.read() as conn:
        page, _ = delivery_views.listed(conn, station.project_id, Filter(limit=1000))
    return Counter(one.state.value for one in page)


def hurry(station: Station) -> None:
    with station.deps.database.write() as conn:
        conn.execute(delivery.update().where(delivery.c.state == "pending").values(due_at=later(-1)))


def told(receiver: ScriptedProvider) -> Counter[str]:
    """How often each job was told of; every single request verifies, and an id is of one body."""
    for request in receiver.requests:
        standardwebhooks.Webhook(SECRET).verify(request.body, dict(request.headers))
    bodies = {(request.headers["webhook-id"], request.body) for request in receiver.requests}
    assert len(bodies) == len({event_id for event_id, _ in bodies})
    return Counter(request.json["data"]["id"] for request in receiver.requests)


def test_2_killed_after_the_2xx_and_before_its_record_is_one_duplicate_under_the_same_id(
    station: Station, receiver: ScriptedProvider, processes: Processes
) -> None:
    listen(station, receiver)
    first = processes.worker(station.env)
    with station.deps.database.write() as conn:  # nobody can record a try while this transaction lasts
        conn.execute(sa.text("LOCK TABLE delivery_attempt IN EXCLUSIVE MODE"))
        (job_id,) = ended(station)
        receiver.wait_for(1)
        wait_until(lambda: _waiting(station), "the record to wait for the lock")
        first.kill()
    processes.worker(station.env)
    wait_until(lambda: states(station) == {"delivered": 1}, "the delivery on record")
    assert told(receiver) == {job_id: 2}


def test_6_killed_in_mid_request_is_sent_again_by_another(
    station: Station, receiver: ScriptedProvider, processes: Processes
) -> None:
    listen(station, receiver)
    receiver.hold(script.reply(204))
    first = processes.worker(station.env)
    (job_id,) = ended(station)
    receiver.wait_for(1)
    first.kill()
    processes.worker(station.env)
    wait_until(lambda: states(station) == {"delivered": 1}, "the delivery on record")
    assert told(receiver) == {job_id: 2}


def test_3_a_wiped_and_a_dead_broker_delay_no_delivery(
    station: Station, receiver: ScriptedProvider, processes: Processes, redis_server: Redis
) -> None:
    listen(station, receiver)
    receiver.always(script.reply(503))
    processes.worker(station.env)
    ids = ended(station, 3)
    receiver.wait_for(3)
    wait_until(lambda: states(station) == {"pending": 3}, "the failures on record")
    redis_server.flushall()
    redis_server.kill()
    receiver.always(script.reply(204))
    hurry(station)
    wait_until(lambda: states(station) == {"delivered": 3}, "the deliveries on record")
    assert told(receiver) == dict.fromkeys(ids, 2)


def test_4_the_database_stopped_while_a_try_is_under_way(
    own_postgres: Postgres,
    migrate: object,
    redis_server: Redis,
    provider: ScriptedProvider,
    receiver: ScriptedProvider,
    tmp_path: Path,
    processes: Processes,
) -> None:
    own_postgres.migrate_once(migrate)  # type: ignore[arg-type]
    url = own_postgres.fresh()
    with closing(Station(url, provider, tmp_path, redis_url=redis_server.url, **QUICK)) as station:
        listen(station, receiver)
        held = receiver.hold(script.reply(204))
        processes.worker({**station.env, "COMPLETAR_LEASE_S": "20"})
        (job_id,) = ended(station)
        receiver.wait_for(1)
        own_postgres.stop("immediate")
        held.release()
        time.sleep(0.5)  # the record is tried while the database is away
        own_postgres.start()
        wait_until(lambda: states(station) == {"delivered": 1}, "the delivery on record")
        assert told(receiver) == {job_id: 1}, "an answer that came meanwhile is recorded without a second try"


def test_senders_killed_again_and_again_while_the_receiver_is_down(
    station: Station, receiver: ScriptedProvider, processes: Processes
) -> None:
    listen(station, receiver)
    ids = ended(station, 40)
    up_at = time.monotonic() + OUTAGE_S
    receiver.stop()
    for n in range(KILLS):
        worker = processes.worker(station.env)
        hurry(station)
        if n == KILLS - 1:
            time.sleep(max(0.0, up_at - time.monotonic()))
            receiver.start()
            hurry(station)
            receiver.wait_for(3)
        worker.kill()
    processes.worker(station.env)

    def over() -> bool:
        hurry(station)
        return states(station) == {"delivered": 40}

    wait_until(over, "every delivery", 40.0, every_s=0.5)
    seen = told(receiver)
    assert set(seen) == set(ids), "each at least once"
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 40


def test_a_cancel_is_heard_and_jobs_run_while_every_receiver_hangs(
    station: Station, receiver: ScriptedProvider, provider: ScriptedProvider, processes: Processes
) -> None:
    listen(station, receiver)
    receiver.always(script.hang())
    processes.worker(station.env)
    station.ended(station.submit(150), within_s=20)
    receiver.wait_for(20)
    asked = len(provider.requests)
    provider.always(script.error(500, "try again", delay_s=0.3))
    job_id = station.one(prompt="stop me")
    provider.wait_for(asked + 1)
    with station.deps.database.write() as conn:
        jobs.cancel(conn, station.project_id, job_id)
    (job,) = station.ended([job_id], within_s=4)
    assert job.status is JobStatus.CANCELLED
    assert states(station)["delivered"] == 0


def _waiting(station: Station) -> bool:
    """Whether somebody waits for a lock of another transaction."""
    with station.deps.database.read() as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(conn.execute(sa.text(query)).scalar_one())
