"""Jobs: made, watched, stopped, run again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal

import flask
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
)

from api import body as bodies
from api import preference
from api.desk import Desk
from api.fields import (
    DIGITS,
    JOB_ID,
    Moment,
    Strict,
)
from api.job import AttemptListBody, JobBody, JobListBody, MadeListBody, attempt_json, etag, retry_after
from api.operations import Answer, Body, Call, Header, Operations, Reply, validated
from api.page import page_json
from api.problems import (
    CONFLICT,
    GONE,
    INVALID,
    KEY_REUSED,
    NO_SECRET_KEY,
    NOT_FOUND,
    QUEUE_FULL,
    UNKNOWN_MODEL,
    Fault,
    Problem,
    invalid,
    unknown_model,
)
from api.webhook_fields import refusal
from worker.domain.answer import JobKind
from worker.domain.failure import Lane
from worker.domain.job import JobView
from worker.domain.question import BadQuestion
from worker.domain.state import FINAL, JobStatus
from worker.providers.catalog import NoProvider, UnknownModel
from worker.services.cancel import cancel as cancel_job
from worker.services.native.answers import instant, job_json, url_of
from worker.services.native.questions import QuestionFields
from worker.services.native.requests import AnyJob, JobOptions, NewJob, PredictionJob, request_of
from worker.services.native.requests import prediction_request as questioned
from worker.services.retry import retry as retry_job
from worker.services.submit import JobRequest, Submitted, submit
from worker.store import attempts, views
from worker.store.views import Filter

MAX_BULK: Final = 1_000
_JOB_ID: Final = re.compile(JOB_ID)

jobs: Final = Operations("Jobs")


_NEW_JOB: Final[TypeAdapter[AnyJob]] = TypeAdapter(NewJob)


class NewJobs(Strict):
    """Or one job a line, as `application/x-ndjson`."""

    jobs: Annotated[list[NewJob], Field(min_length=1, max_length=MAX_BULK)]


def _request(desk: Desk, job: AnyJob, lane: Lane) -> JobRequest:
    """Raises Problem where the question of a prediction cannot be taken, UnknownModel."""
    if isinstance(job, PredictionJob):
        return prediction_request(desk, job.input, job, lane, within="input.")
    return request_of(job, desk.deps.settings.panels, lane)


def prediction_request(
    desk: Desk, question: QuestionFields, options: JobOptions, lane: Lane, *, within: str = ""
) -> JobRequest:
    """`within`: where the question stands in the body. Raises Problem, UnknownModel."""
    try:
        made_request = questioned(question, options, desk.deps.settings.panels, lane)
    except BadQuestion as exc:
        raise invalid(Fault(f"{within}{exc.field}", exc.says, exc.remedy)) from None
    desk.deps.catalog.resolve(made_request.models)
    return made_request


def _guarded(desk: Desk, requests: Iterable[tuple[int | None, JobRequest]]) -> list[Fault]:
    """The webhooks that may not be called, judged together: looking up their names takes no longer than one would."""
    wanted = [(line, request.webhook.url) for line, request in requests if request.webhook is not None]
    refused = desk.guard.refused(url for _, url in wanted) if wanted else {}
    return [refusal(refused[url], "webhook.url", line) for line, url in wanted if url in refused]


# -- making them --------------------------------------------------------------------------------------------------

LOCATION: Final = Header("Location", "The job's address.")
RETRY_AFTER: Final = Header(
    "Retry-After", "Seconds until it is worth asking again.", {"type": "integer", "minimum": 1, "maximum": 60}
)
ETAG: Final = Header("ETag", "Names this version of the job.")
JOB_MADE: Final = (LOCATION, RETRY_AFTER, ETAG, preference.APPLIED, preference.REPLAYED)


@jobs.add(
    "POST",
    "/v1/jobs",
    "jobs.create",
    "Make a job",
    scope="jobs:write",
    body=Body(NewJob),
    headers=(preference.PREFER, preference.IDEMPOTENCY_KEY),
    answers={
        200: Answer("The job ended while the request waited.", JobBody, JOB_MADE),
        202: Answer("The job is stored, and will run.", JobBody, JOB_MADE),
    },
    problems=(UNKNOWN_MODEL, KEY_REUSED, QUEUE_FULL, NO_SECRET_KEY),
)
def create(desk: Desk, call: Call) -> Reply:
    """The job is committed before the answer. A caller who goes away cancels nothing."""
    key = preference.idempotency_key(call, "jobs.create", call.given)
    requests = [_request(desk, call.body, Lane.INTERACTIVE)]
    if faults := _guarded(desk, [(None, requests[0])]):
        raise invalid(*faults)
    return made(desk, call, lambda: submit(desk.deps, call.project_id, requests, key, key_id=call.key_id))


def made(desk: Desk, call: Call, make: Callable[[], Submitted]) -> Reply:
    """The answer to a request that makes one job, waited for where the caller prefers so and there is room."""
    wait_s = preference.wait_s(call.request)
    with desk.waiting.seat(call.project_id, wanted=wait_s is not None) as seated:
        submitted = make()
        (job_id,) = submitted.ids
        if seated and wait_s is not None:
            desk.waiting.until_final(job_id, wait_s)
    job = find(desk, call.project_id, job_id)
    headers = {"Location": url_of(job.id), "ETag": etag(job)} | retry_after(job)
    if seated:
        headers["Preference-Applied"] = f"wait={wait_s}"
    headers |= preference.replay_header(replayed=submitted.replayed)
    return Reply(job_json(job), 200 if seated and job.status in FINAL else 202, headers)


def _read_bulk(desk: Desk, request: flask.Request) -> tuple[list[JobRequest], list[Any]]:
    """Every job of the body, judged one by one. Raises Problem with the faults of all bad ones."""
    text = bodies.read(request, (*bodies.JSON_TYPES, *bodies.LINES_TYPES))
    faults: list[Fault] = []
    requests: list[JobRequest] = []
    lines: list[int] = []
    given: list[Any] = []
    for line, read in _entries(request, text):
        if len(given) == MAX_BULK:
            faults.append(Fault("jobs", f"are more than {MAX_BULK}", "Send the rest in another request.", line))
            break
        try:
            entry = read()
            job = validated(_NEW_JOB, NewJob, entry, line)
            made_request = _request(desk, job, Lane.BATCH)
            desk.deps.catalog.resolve(made_request.models)
        except Problem as problem:
            faults += [replace(one, line=line) for one in problem.faults]
            given.append(None)
        except NoProvider:
            raise
        except UnknownModel as exc:
            found = unknown_model(exc, _field_of_models(job))
            faults.append(Fault(found.field, found.message, found.remedy, line))
            given.append(None)
        else:
            requests.append(made_request)
            lines.append(line)
            given.append(entry)
    faults += _guarded(desk, zip(lines, requests, strict=True))
    if faults:
        raise Problem(INVALID, f"{len({f.line for f in faults})} jobs are faulty; nothing was stored.", faults=faults)
    if not requests:
        raise invalid(Fault("jobs", "are missing", f"Send 1 to {MAX_BULK} jobs."))
    return requests, given


def _field_of_models(job: AnyJob) -> str:
    if isinstance(job, PredictionJob):
        return "input.model" if job.input.panel is None else "input.panel"
    return "models" if job.models else "model"


def _entries(request: flask.Request, text: str) -> list[tuple[int, Callable[[], Any]]]:
    """The place of each job, from 1, and how to read it."""
    if request.mimetype in bodies.LINES_TYPES:
        return [(line, partial(bodies.parsed, entry, line)) for line, entry in bodies.lines(text)]
    given = bodies.parsed(text)
    listed = given.get("jobs") if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(listed, list):
        remedy = 'Send {"jobs": [...]}, or one job a line as application/x-ndjson.'
        raise invalid(Fault("jobs", "must be a list, and the body's only field", remedy))
    return [(place, partial(_same, entry)) for place, entry in enumerate(listed, 1)]


def _same(entry: Any) -> Any:
    return entry


@jobs.add(
    "POST",
    "/v1/jobs/bulk",
    "jobs.create_bulk",
    "Make many jobs at once",
    scope="jobs:write",
    body=Body(NewJobs, (*bodies.JSON_TYPES, *bodies.LINES_TYPES), _read_bulk),
    headers=(preference.IDEMPOTENCY_KEY,),
    answers={202: Answer("All are stored, and will run.", MadeListBody, (preference.REPLAYED,))},
    problems=(KEY_REUSED, QUEUE_FULL, NO_SECRET_KEY),
)
def create_bulk(desk: Desk, call: Call) -> Reply:
    """Up to 1,000 jobs in one transaction: all are stored, or none, and then every faulty one is named.

    They go to the lane `batch` unless they say otherwise. UTF-16, byte order marks and CRLF are read too.
    """
    key = preference.idempotency_key(call, "jobs.create_bulk", call.given)
    submitted = submit(desk.deps, call.project_id, call.body, key, key_id=call.key_id)
    with desk.deps.database.read() as conn:
        found = views.many(conn, call.project_id, submitted.ids)
    headers = preference.replay_header(replayed=submitted.replayed)
    return Reply({"object": "list", "data": [job_json(found[i]) for i in submitted.ids if i in found]}, 202, headers)


# -- watching them ------------------------------------------------------------------------------------------------


def find(desk: Desk, project_id: str, job_id: str) -> JobView:
    """Raises Problem: 404 where it is unknown or another project's, 410 where only its tombstone is left."""
    job = None
    if _JOB_ID.fullmatch(job_id):
        with desk.deps.database.read() as conn:
            job = views.get(conn, project_id, job_id)
    if job is None:
        raise Problem(NOT_FOUND, "There is no such job. GET /v1/jobs lists those of your project.")
    if job.purged:
        tombstone = {
            "id": job.id,
            "object": "job",
            "status": job.status.value,
            "version": job.version,
            "created_at": instant(job.created_at),
            "ended_at": instant(job.ended_at),
        }
        detail = "The job ended long ago; its request, answer and attempts are no longer kept."
        raise Problem(GONE, detail, members={"job": tombstone})
    return job


class WaitQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wait: Annotated[
        int, Field(ge=0, le=60, description="Seconds to wait for the next change, while the job is not final."), DIGITS
    ] = 0


@jobs.add(
    "GET",
    "/v1/jobs/<job:job_id>",
    "jobs.retrieve",
    "Look at a job",
    scope="jobs:read",
    query=WaitQuery,
    headers=(Header("If-None-Match", "The ETag you have; 304 while it is current."),),
    answers={
        200: Answer("The job, failed or not.", JobBody, (ETAG, RETRY_AFTER)),
        304: Answer("The job has not changed.", None, (ETAG, RETRY_AFTER)),
    },
    problems=(NOT_FOUND, GONE),
)
def retrieve(desk: Desk, call: Call) -> Reply:
    """With `wait`, the answer comes at the next change, or at the latest after that many seconds."""
    job = find(desk, call.project_id, call.path["job_id"])
    known = call.request.if_none_match
    wait_s = call.query.wait
    if wait_s and job.status not in FINAL and (not known or known.contains_weak(_bare(job))):
        with desk.waiting.seat(call.project_id) as seated:
            if seated and desk.waiting.until_changed(job.id, job.version, wait_s):
                job = find(desk, call.project_id, job.id)
    headers = {"ETag": etag(job)} | retry_after(job)
    if known and known.contains_weak(_bare(job)):
        return Reply(None, 304, headers)
    return Reply(job_json(job), 200, headers)


def _bare(job: JobView) -> str:
    return etag(job).strip('"')


class ListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    status: Literal["queued", "in_progress", "cancelling", "completed", "failed", "cancelled", "expired"] | None = None
    kind: JobKind | None = None
    batch_id: Annotated[str, Field(pattern="^batch_[0-9a-z]{26}$")] | None = None
    created_after: Annotated[Moment, Field(description="RFC 3339.")] | None = None
    after: Annotated[str, Field(pattern=JOB_ID, description="The last id of the page before.")] | None = None
    limit: Annotated[int, Field(ge=1, le=100), DIGITS] = 20


@jobs.add(
    "GET",
    "/v1/jobs",
    "jobs.list",
    "List jobs",
    scope="jobs:read",
    query=ListQuery,
    answers={200: Answer("A page of jobs.", JobListBody)},
)
def list_jobs(desk: Desk, call: Call) -> Reply:
    """Newest first. A page of long answers may hold fewer than `limit`: go on while `has_more` says so."""
    query: ListQuery = call.query
    since: datetime | None = query.created_after
    wanted = Filter(
        JobStatus(query.status) if query.status is not None else None,
        query.kind,
        query.batch_id,
        since,
        query.after,
        query.limit,
    )
    with desk.deps.database.read() as conn:
        page, more = views.listed(conn, call.project_id, wanted)
    return Reply(page_json((job_json(job) for job in page), more=more))


@jobs.add(
    "GET",
    "/v1/jobs/<job:job_id>/attempts",
    "jobs.attempts",
    "Every call that was made for a job",
    scope="jobs:read",
    answers={200: Answer("The attempts in order.", AttemptListBody)},
    problems=(NOT_FOUND, GONE),
)
def list_attempts(desk: Desk, call: Call) -> Reply:
    """Targets that were passed over are listed too, with the reason."""
    job = find(desk, call.project_id, call.path["job_id"])
    with desk.deps.database.read() as conn:
        found = attempts.of_jobs(conn, [job.id])[job.id]
    return Reply({"object": "list", "data": [attempt_json(attempt) for attempt in found]})


# -- stopping them, running them again ----------------------------------------------------------------------------


@jobs.add(
    "POST",
    "/v1/jobs/<job:job_id>/cancel",
    "jobs.cancel",
    "Stop a job",
    scope="jobs:write",
    answers={
        200: Answer("The job is final: cancelled, or ended before.", JobBody, (ETAG,)),
        202: Answer("The job is stopping.", JobBody, (ETAG, RETRY_AFTER)),
    },
    problems=(NOT_FOUND, GONE),
)
def cancel(desk: Desk, call: Call) -> Reply:
    """A call that is open may still end; no further one starts."""
    job_id = find(desk, call.project_id, call.path["job_id"]).id
    job = cancel_job(desk.deps, call.project_id, job_id)
    assert job is not None, "rows are never deleted"
    return Reply(job_json(job), 200 if job.status in FINAL else 202, {"ETag": etag(job)} | retry_after(job))


@jobs.add(
    "POST",
    "/v1/jobs/<job:job_id>/retry",
    "jobs.retry",
    "Run a job again",
    scope="jobs:write",
    headers=(preference.PREFER, preference.IDEMPOTENCY_KEY),
    answers={
        200: Answer("The new job ended while the request waited.", JobBody, JOB_MADE),
        202: Answer("The new job is stored, and will run.", JobBody, JOB_MADE),
    },
    problems=(NOT_FOUND, GONE, CONFLICT, UNKNOWN_MODEL, KEY_REUSED, QUEUE_FULL),
)
def retry(desk: Desk, call: Call) -> Reply:
    """Makes a new job with `retry_of`; only a failed, expired or cancelled one can be run again."""
    job = find(desk, call.project_id, call.path["job_id"])
    key = preference.idempotency_key(call, "jobs.retry", {"retry_of": job.id})
    return made(desk, call, lambda: retry_job(desk.deps, call.project_id, job, key, key_id=call.key_id))
