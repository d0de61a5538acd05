"""A job's events as they happen, over server-sent events.

Nothing is stored for it: an event is told from the rows, so a stream that is resumed tells what was missed. An event's
id is `version.attempts`: the newest version, and the number up to which the ends of all attempts have been told. Calls
that overlap end in any order, so a stream that is resumed may tell an end twice; it never leaves one out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

from api.desk import Desk
from api.job import attempt_json
from api.operations import Answer, Call, Header, Operations, Reply, encoded
from api.problems import BUSY, GONE, NOT_FOUND, Problem
from api.routes.jobs import find
from worker import clock
from worker.domain.answer import Json
from worker.domain.job import JobView
from worker.domain.state import FINAL, AttemptState, JobStatus
from worker.services.native.answers import job_json
from worker.store import attempts, views
from worker.store.attempts import Attempt
from worker.store.database import Unavailable

LONGEST_S: Final = 240.0  # proxies cut longer ones; clients come back by themselves
COMMENT_S: Final = 15.0
LOOK_S: Final = 1.0  # an attempt changes no version, so it is looked for
RETRY_MS: Final = 1_000
BUSY_S: Final = 5
_POSITION: Final = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
_LAST: Final = Header("Last-Event-ID", "The id of the last event you have; you get what came after.")

job_events: Final = Operations("Jobs")


class EventBody(BaseModel):
    """`data` is JSON: `{type, job_id, version, job | attempt}`; `job` is null where it has moved on since."""

    event: Literal[
        "job.queued",
        "job.in_progress",
        "job.attempt",
        "job.completed",
        "job.failed",
        "job.cancelled",
        "job.expired",
    ]
    id: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+$")]
    data: str


@dataclass(slots=True)
class _Told:
    """What the caller knows: the ends of all attempts up to number `attempts`, and of some after it.

    sent, ended  the numbers of those that he was told of on this stream
    """

    version: int = 0
    attempts: int = 0
    sent: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)


@job_events.add(
    "GET",
    "/v1/jobs/<job:job_id>/events",
    "jobs.events",
    "Follow a job",
    scope="jobs:read",
    headers=(_LAST,),
    answers={
        200: Answer(
            "`job.queued`, `job.in_progress`, `job.attempt`, and at last `job.completed`, `job.failed`, "
            "`job.cancelled` or `job.expired`.",
            EventBody,
            content_type="text/event-stream",
        ),
        204: Answer("The job has ended and you know it: do not come back."),
    },
    problems=(NOT_FOUND, GONE, BUSY),
)
def follow(desk: Desk, call: Call) -> Reply:
    """A stream is closed after 240 seconds and may be resumed; a comment comes every 15."""
    told = _position(call.request.headers.get("Last-Event-ID"))
    job = find(desk, call.project_id, call.path["job_id"])
    if job.status in FINAL and told.version >= job.version:
        return Reply(None, 204)
    if call.request.method == "HEAD":
        return Reply(None, 200)
    leave = desk.waiting.stream(call.project_id)
    if leave is None:
        detail = f"Too many streams are open. Poll /v1/jobs/{job.id}?wait=30 instead, or come again."
        raise Problem(BUSY, detail, headers={"Retry-After": str(BUSY_S)})
    stream = Stream(desk, job, told, leave)
    return Reply(stream, 200, {"X-Accel-Buffering": "no"}, "text/event-stream")


def _position(given: str | None) -> _Told:
    """What is no id of ours counts as none: everything is told from the start."""
    match = _POSITION.fullmatch(given or "")
    return _Told() if match is None else _Told(int(match[1]), int(match[2]))


class Stream:
    """The bytes of one answer. `close` is called by the server however it ends, also when it never began."""

    def __init__(self, desk: Desk, job: JobView, told: _Told, leave: Callable[[], None]) -> None:
        self._desk = desk
        self._job = job
        self._told = told
        self._leave: Callable[[], None] | None = leave
        self._until_s = clock.monotonic_s() + LONGEST_S

    def __iter__(self) -> Iterator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        quiet_since_s = clock.monotonic_s()
        while True:
            try:
                for event in self._news():
                    yield event
                    quiet_since_s = clock.monotonic_s()
            except Unavailable:  # it may be back at the next look
                pass
            now_s = clock.monotonic_s()
            if (self._told.version >= self._job.version and self._job.status in FINAL) or now_s >= self._until_s:
                return
            if now_s - quiet_since_s >= COMMENT_S:
                yield b": still here\n\n"
                quiet_since_s = now_s
            wait_s = min(LOOK_S, COMMENT_S, self._until_s - now_s)
            self._desk.waiting.until_changed(self._job.id, self._job.version, max(0.0, wait_s))

    def close(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def _news(self) -> Iterator[bytes]:
        """What the caller does not know yet, oldest first. Raises Unavailable."""
        with self._desk.deps.database.read() as conn:
            job = views.get(conn, self._job.project_id, self._job.id)
            made = attempts.of_jobs(conn, [self._job.id])[self._job.id]
        if job is None or job.purged:
            self._until_s = 0.0
            return
        self._job = job
        told, version = self._told, job.version
        if told.version < 1:
            told.version = 1
            yield self._moved("job.queued")
        if job.started_at is not None and told.version < 2:
            told.version = 2
            yield self._moved("job.in_progress")
        yield from self._attempts(made)
        if version > told.version:
            told.version = version
            running = job.status in {JobStatus.IN_PROGRESS, JobStatus.CANCELLING}
            yield self._moved("job.in_progress" if running else f"job.{job.status.value}")

    def _attempts(self, made: list[Attempt]) -> Iterator[bytes]:
        told = self._told
        for attempt in made:
            number = attempt.row.number
            over = attempt.row.state is not AttemptState.SENT
            if number <= told.attempts or number in (told.ended if over else told.sent):
                continue
            (told.ended if over else told.sent).add(number)
            while told.attempts + 1 in told.ended:
                told.attempts += 1
            yield self._event("job.attempt", {"attempt": attempt_json(attempt)})

    def _moved(self, kind: str) -> bytes:
        """`job` is there where it still is as the event says."""
        current = self._told.version == self._job.version
        return self._event(kind, {"job": job_json(self._job) if current else None})

    def _event(self, kind: str, told: dict[str, Json]) -> bytes:
        version = self._told.version
        data = encoded({"type": kind, "job_id": self._job.id, "version": version} | told)
        return f"event: {kind}\nid: {version}.{self._told.attempts}\ndata: ".encode() + data + b"\n\n"
