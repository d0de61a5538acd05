"""Dead letters: jobs that ended through no fault of a provider or a caller, with the cause, to be run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api import preference
from api.desk import Desk
from api.fields import DIGITS, JOB_ID, Out, fault
from api.job import Count, Instant, JobBody
from api.operations import Answer, Call, Operations, Reply
from api.page import page_json
from api.problems import CONFLICT, GONE, KEY_REUSED, NOT_FOUND, UNKNOWN_MODEL, Problem
from api.routes.jobs import JOB_MADE, find, made
from worker.domain.answer import Json
from worker.domain.failure import DEAD_LETTERS
from worker.domain.job import JobView
from worker.services.native.answers import instant, job_json
from worker.services.retry import retry as retry_job
from worker.store import deaths as stored
from worker.store import views
from worker.store.deaths import Death
from worker.store.views import Filter

dead_letters: Final = Operations("Dead letters")


class DeathBody(Out):
    """A worker that died while it had the job. `open_target` null: no call of this job was open.

    `in_flight` counts the jobs it had, this one included; `heartbeat_at` was its last sign of life.
    """

    worker_id: str
    host: str | None
    pid: int | None
    heartbeat_at: Instant | None
    found_at: Instant
    in_flight: Count
    open_target: str | None


class DeadLetterBody(Out):
    """`job.error` says why it was given up; `deaths` is empty where no worker died; `replays` are ids of new runs."""

    id: Annotated[str, Field(pattern=JOB_ID)]
    object: Literal["dead_letter"]
    job: JobBody
    deaths: list[DeathBody]
    replays: list[str]


class DeadLetterListBody(Out):
    """Newest first. The next page is asked for with `after=` the id in `last_id`."""

    object: Literal["list"]
    data: list[DeadLetterBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


def _yes_or_no(value: object) -> object:
    if value not in {"true", "false"}:
        raise fault("must be true or false", "Leave it out for both.")
    return value == "true"


class DeadLettersQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    replayed: Annotated[
        bool | None,
        Field(description="Only those that were run again, or only those that were not."),
        BeforeValidator(_yes_or_no),
    ] = None
    after: Annotated[str, Field(pattern=JOB_ID, description="The last id of the page before.")] | None = None
    limit: Annotated[int, Field(ge=1, le=100), DIGITS] = 20


@dead_letters.add(
    "GET",
    "/v1/dead_letters",
    "dead_letters.list",
    "List dead letters",
    scope="jobs:read",
    query=DeadLettersQuery,
    answers={200: Answer("A page of dead letters.", DeadLetterListBody)},
)
def list_dead_letters(desk: Desk, call: Call) -> Reply:
    """Jobs that failed as `poison` (their workers died) or `internal` (a fault of Completar), newest first."""
    query: DeadLettersQuery = call.query
    wanted = Filter(after=query.after, limit=query.limit, dead_letter=True, replayed=query.replayed)
    with desk.deps.database.read() as conn:
        page, more = views.listed(conn, call.project_id, wanted)
        ids = [job.id for job in page]
        deaths = stored.of_jobs(conn, ids)
        replays = views.replays(conn, call.project_id, ids)
    return Reply(page_json((_json(job, deaths[job.id], replays) for job in page), more=more))


@dead_letters.add(
    "GET",
    "/v1/dead_letters/<job:job_id>",
    "dead_letters.retrieve",
    "Look at a dead letter",
    scope="jobs:read",
    answers={200: Answer("The job and what became of its workers.", DeadLetterBody)},
    problems=(NOT_FOUND, GONE),
)
def retrieve(desk: Desk, call: Call) -> Reply:
    """What was asked and answered stands at the job's `attempts`."""
    job = _find(desk, call)
    with desk.deps.database.read() as conn:
        deaths = stored.of_jobs(conn, [job.id])
        replays = views.replays(conn, call.project_id, [job.id])
    return Reply(_json(job, deaths[job.id], replays))


@dead_letters.add(
    "POST",
    "/v1/dead_letters/<job:job_id>/replay",
    "dead_letters.replay",
    "Run a dead letter again",
    scope="jobs:write",
    headers=(preference.PREFER, preference.IDEMPOTENCY_KEY),
    answers={
        200: Answer("The new job ended while the request waited.", JobBody, JOB_MADE),
        202: Answer("The new job is stored, and will run.", JobBody, JOB_MADE),
    },
    problems=(NOT_FOUND, GONE, CONFLICT, UNKNOWN_MODEL, KEY_REUSED),
)
def replay(desk: Desk, call: Call) -> Reply:
    """Makes a new job with `retry_of`, with three starts of its own; the dead letter stays on record."""
    job = _find(desk, call)
    key = preference.idempotency_key(call, "dead_letters.replay", {"retry_of": job.id})
    return made(desk, call, lambda: retry_job(desk.deps, call.project_id, job, key, key_id=call.key_id))


def _find(desk: Desk, call: Call) -> JobView:
    job = find(desk, call.project_id, call.path["job_id"])
    if job.error is None or job.error["kind"] not in DEAD_LETTERS:
        raise Problem(NOT_FOUND, "This job is no dead letter. GET /v1/dead_letters lists those of your project.")
    return job


def _json(job: JobView, deaths: Sequence[Death], replays: Mapping[str, Sequence[str]]) -> dict[str, Json]:
    return {
        "id": job.id,
        "object": "dead_letter",
        "job": job_json(job),
        "deaths": [
            {
                "worker_id": death.worker_id,
                "host": death.host,
                "pid": death.pid,
                "heartbeat_at": instant(death.heartbeat_at),
                "found_at": instant(death.found_at),
                "in_flight": death.in_flight,
                "open_target": death.open_target,
            }
            for death in deaths
        ],
        "replays": list(replays[job.id]),
    }
