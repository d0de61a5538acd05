"""From what happened to who is told: notes of the outbox become events and deliveries, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from worker import clock, events
from worker.domain.batch import BatchView
from worker.domain.delivery import DeliveryState, NewDelivery, NewEvent, Note, WebhookEndpoint
from worker.domain.job import JobView
from worker.domain.state import JobStatus
from worker.store import batch_views, outbox, views, webhook_endpoints
from worker.store.database import Database
from worker.webhooks.payload import FULL_BYTES, batch_data, envelope, job_data, with_output

BLOCK: Final = 200


def tell(database: Database) -> int:
    """Turn one block of notes into deliveries. Returns how many notes there were; BLOCK: there may be more.

    Raises Unavailable; the notes are then still there.
    """
    with database.write() as conn:
        notes = outbox.take(conn, BLOCK)
        if not notes:
            return 0
        things: dict[str, JobView | BatchView] = {}
        for project_id, ids in _by_project(notes).items():
            things |= views.many(conn, project_id, ids, longest=FULL_BYTES)
        for note in notes:
            if note.object == "batch" and (batch := batch_views.get(conn, note.project_id, note.object_id)) is not None:
                things[batch.id] = batch
        listening = webhook_endpoints.standing(conn, list(_by_project(notes)))
        asked = outbox.subscribers(conn, [note.object_id for note in notes])
        named = webhook_endpoints.many(conn, list({i for ids in asked.values() for i in ids}))
        told: list[NewEvent] = []
        deliveries: list[NewDelivery] = []
        for note in notes:
            thing = things.get(note.object_id)
            if thing is None:
                continue
            own = [named[i] for i in asked.get(note.object_id, ()) if i in named]
            line = isinstance(thing, JobView) and thing.batch_id is not None
            everybody = [] if line else listening.get(note.project_id, [])
            to = [endpoint for endpoint in (*own, *everybody) if note.type in endpoint.event_types]
            if to:
                event = _event(note, thing, full=any(endpoint.payload == "full" for endpoint in to))
                told.append(event)
                deliveries += to_each(event, to)
        outbox.tell(conn, told, deliveries)
    return len(notes)


def to_each(event: NewEvent, endpoints: Iterable[WebhookEndpoint]) -> list[NewDelivery]:
    """One delivery for each endpoint; for a disabled one it is kept as skipped, to be recovered."""
    return [
        NewDelivery(
            clock.new_id("whd"),
            event.project_id,
            endpoint.id,
            event.id,
            event.object_id,
            DeliveryState.PENDING if endpoint.disabled_at is None else DeliveryState.SKIPPED,
        )
        for endpoint in endpoints
    ]


def own_event(project_id: str, event_type: str, object_id: str, data: Mapping[str, Any]) -> NewEvent:
    """An event about the webhooks themselves."""
    event_id = clock.new_id("evt")
    return NewEvent(event_id, project_id, event_type, object_id, envelope(event_id, event_type, clock.now(), data))


def _by_project(notes: Sequence[Note]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for note in notes:
        found.setdefault(note.project_id, []).append(note.object_id)
    return found


def _event(note: Note, thing: JobView | BatchView, *, full: bool) -> NewEvent:
    """What cannot be told in full is told in short: one job must never hold up the news of all others."""
    try:
        return _whole_event(note, thing, full=full)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it would come again with every look at the outbox
        events.emit("webhooks.untold", level="error", object_id=note.object_id, error=type(exc).__name__)
        event_id = clock.new_id("evt")
        data = {"id": note.object_id, "object": note.object, "version": note.version}
        return NewEvent(
            event_id, note.project_id, note.type, note.object_id, envelope(event_id, note.type, note.at, data)
        )


def _whole_event(note: Note, thing: JobView | BatchView, *, full: bool) -> NewEvent:
    event_id = clock.new_id("evt")
    status = note.type.partition(".")[2]
    if isinstance(thing, BatchView):  # its answers are in files: there is nothing to be told in full
        thin = envelope(event_id, note.type, note.at, batch_data(thing, status, note.version))
        return NewEvent(event_id, note.project_id, note.type, note.object_id, thin)
    data = job_data(thing, status, note.version)
    thin = envelope(event_id, note.type, note.at, data)
    whole = None
    if full:
        room = FULL_BYTES - len(thin)
        if thing.status is JobStatus.COMPLETED and thing.result is None:  # it was too long to be read
            room = 0
        whole = envelope(event_id, note.type, note.at, with_output(data, thing.result, room))
    return NewEvent(event_id, note.project_id, note.type, note.object_id, thin, whole)
