"""Take jobs in: one transaction for the rows and the idempotency key, then a hint. The order is the promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from worker import clock, events
from worker.deps import Deps
from worker.domain.answer import JobKind, Json
from worker.domain.delivery import Webhook, notify_of
from worker.domain.failure import Lane
from worker.domain.job import NewJob, OnInterruption
from worker.domain.panel import read_panel
from worker.services import listeners, pictures
from worker.services.idempotency import IdempotencyKey, earlier, once
from worker.services.listeners import vault_of
from worker.services.outcomes import learned
from worker.store import new_jobs
from worker.store.database import Connection
from worker.webhooks.vault import Vault


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as asked for, validated in form."""

    kind: JobKind
    models: tuple[str, ...]
    input: Mapping[str, Json]
    lane: Lane = Lane.INTERACTIVE
    output_schema: Mapping[str, Json] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    deadline_s: float | None = None
    max_attempts: int | None = None
    on_interruption: OnInterruption = "retry"
    retry_of: str | None = None
    max_cost_nano: int | None = None
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """Ids in the order of the requests; `replayed`: made by an earlier request with the same idempotency key."""

    ids: tuple[str, ...]
    replayed: bool = False


def submit(
    deps: Deps,
    project_id: str,
    requests: Sequence[JobRequest],
    idempotent: IdempotencyKey | None = None,
    *,
    key_id: str | None = None,
) -> Submitted:
    """Store jobs and tell the workers. The rows are committed when this returns. `key_id`: the caller's API key.

    Raises, with nothing stored: UnknownModel, ForbiddenPicture, KeyReused, QueueFull, NoKey (a webhook is asked for,
    and there is nothing to encrypt its secret with), Unavailable (database away).
    """
    for n, request in enumerate(requests):
        deps.catalog.resolve(request.models)
        pictures.check(n if len(requests) > 1 else None, request.input, deps.addresses)
    known = earlier(deps.database, project_id, idempotent)
    if known is not None:
        return Submitted(known.ids, replayed=True)
    requests = [weighed(deps, project_id, request) for request in requests]
    deps.intake.admit(project_id, Counter(request.lane for request in requests))
    vault = vault_of(deps) if any(request.webhook for request in requests) else None
    new = [_new_job(deps, project_id, key_id, request) for request in requests]
    ids = tuple(job.id for job in new)

    def store(conn: Connection) -> None:
        _listen(conn, vault, project_id, requests, new)
        new_jobs.insert(conn, new)

    known = once(deps.database, project_id, idempotent, ids, store)
    if known is not None:
        return Submitted(known.ids, replayed=True)
    hint(deps, [job.id for job in new if job.lane is Lane.INTERACTIVE], {job.lane for job in new})
    return Submitted(ids)


def _listen(
    conn: Connection, vault: Vault | None, project_id: str, requests: Sequence[JobRequest], new: list[NewJob]
) -> None:
    """Who is to be told, noted on the jobs before they are stored: already that a job is queued may be told."""
    if vault is not None:
        wanted = [(job.id, request.webhook) for job, request in zip(new, requests, strict=True) if request.webhook]
        listeners.subscribe(conn, vault, project_id, wanted)
    for n, job in enumerate(new):
        if job.retry_of is not None:
            new[n] = replace(job, notify=listeners.inherit(conn, job.id, job.retry_of))


def hint(deps: Deps, interactive: Sequence[str], lanes: set[Lane]) -> None:
    """Wake the workers. A failure is logged and left to their own looking."""
    try:
        if interactive:
            deps.hints.jobs(interactive)
        if Lane.BATCH in lanes:
            deps.hints.lane(Lane.BATCH)
    except Exception as exc:  # noqa: BLE001 - the broker's troubles are never the caller's
        events.emit("hint.lost", level="warning", error=type(exc).__name__)


def weighed(deps: Deps, project_id: str, request: JobRequest) -> JobRequest:
    """Weights that are learned are those of the day the question is put: a prediction is judged by one scale."""
    if request.kind != "prediction" or request.input["consensus"]["weights"] != "learned":
        return request
    panel = read_panel(request.input)
    return replace(request, input=replace(panel, learned=learned(deps, project_id, panel)).stored())


def _new_job(deps: Deps, project_id: str, key_id: str | None, request: JobRequest) -> NewJob:
    return NewJob(
        id=clock.new_id("job"),
        project_id=project_id,
        kind=request.kind,
        lane=request.lane,
        models=request.models,
        input=request.input,
        output_schema=request.output_schema,
        metadata=request.metadata,
        priority=request.priority,
        deadline_s=request.deadline_s if request.deadline_s is not None else deps.settings.deadline_s,
        max_attempts=request.max_attempts,
        on_interruption=request.on_interruption,
        retry_of=request.retry_of,
        max_cost_nano=request.max_cost_nano,
        key_id=key_id,
        notify=0 if request.webhook is None else notify_of(request.webhook.events),
    )
