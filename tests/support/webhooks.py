"""What tests of webhooks stand on: a provider, a receiver and an installation that may call it.

The fixtures are imported by the functions' names (`a_provider`, `a_receiver`, `a_station`) and asked for by their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import standardwebhooks

from tests.support import scripted_provider as script
from tests.support.scripted_provider import Received, ScriptedProvider
from tests.support.station import Station
from worker.domain.delivery import DEFAULT_EVENTS
from worker.store import delivery_views, webhook_endpoints
from worker.store.delivery_views import Filter
from worker.store.moment import later
from worker.store.webhook_endpoints import NewEndpoint
from worker.store.webhook_tables import delivery
from worker.webhooks.signature import secret_of

KEY = "k" * 32
ENV = {"COMPLETAR_SECRET_KEY": KEY, "COMPLETAR_PRIVATE_NETWORKS": "127.0.0.0/8"}
SECRET, OTHER = secret_of(b"\xfb" * 32), secret_of(b"\xff" * 32)


@pytest.fixture(name="provider")
def a_provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.chat("a secret answer"))
        yield running


@pytest.fixture(name="receiver")
def a_receiver() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as running:
        running.always(script.reply(204))
        yield running


@pytest.fixture(name="station")
def a_station(database_url: str, provider: ScriptedProvider, tmp_path: Path) -> Iterator[Station]:
    with closing(Station(database_url, provider, tmp_path, **ENV)) as made:
        yield made


def seal(station: Station, secret: str) -> str:
    assert station.deps.vault is not None
    return station.deps.vault.seal(secret)


def listen(station: Station, receiver: ScriptedProvider, endpoint_id: str = "we_a", **more: object) -> str:
    """A standing endpoint at the receiver, signed with SECRET; its id."""
    fields: dict[str, object] = {"event_types": DEFAULT_EVENTS, "secret": seal(station, SECRET), **more}
    new = NewEndpoint(endpoint_id, station.project_id, receiver.url + "/hook", **fields)  # type: ignore[arg-type]
    with station.deps.database.write() as conn:
        webhook_endpoints.insert(conn, new)
    return endpoint_id


def verified(request: Received, secret: str = SECRET) -> dict[str, object]:
    body: dict[str, object] = standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    assert body["id"] == request.headers["webhook-id"]
    return body


def states(station: Station) -> list[str]:
    """Of all deliveries, in alphabetical order."""
    with station.deps.database.read() as conn:
        return sorted(d.state.value for d in delivery_views.listed(conn, station.project_id, Filter(limit=100))[0])


def hurry(station: Station) -> None:
    """Nobody waits for the schedule here: what waits is due."""
    with station.deps.database.write() as conn:
        conn.execute(delivery.update().where(delivery.c.state == "pending").values(due_at=later(-1)))
