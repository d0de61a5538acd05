"""What travels with a job between the store, the engine and the API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal

from worker.domain.answer import Failure, JobKind, Json
from worker.domain.failure import FailureKind, Lane
from worker.domain.money import NO_USAGE, Usage
from worker.domain.state import AttemptState, JobStatus

OnInterruption = Literal["retry", "fail"]
STARTS_MAX: Final = 3  # a job whose worker died this often while it had it is not started again
# With this many deaths behind it a job is a suspect: a process runs one at a time, so that the next death convicts the
# right one of many that were in flight.
SUSPECT_FROM: Final = STARTS_MAX - 1
STOPS_MAX: Final = 3  # nor is one whose call was hung up on so often because its worker was stopped
LOWEST: Final = -2  # priority that may be asked for
HIGHEST: Final = 2
# Of the body of a stored request. Raise it with a change that an older release would read wrongly: workers leave rows
# of a newer format to workers that know it, so that two releases can run side by side during a deploy.
FORMAT: Final = 2


def format_of(kind: JobKind) -> int:
    """Of a new job's body: the oldest that can say it, so that older workers take what they understand."""
    return 2 if kind == "prediction" else 1


@lru_cache(1024)
def models_in(column: str) -> tuple[str, ...]:
    """The names that a row holds as JSON. Thousands of jobs hold the same ones."""
    return tuple(json.loads(column))


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it is stored. `models` names a route, a target, or targets in order."""

    id: str
    project_id: str
    kind: JobKind
    lane: Lane
    models: tuple[str, ...]
    input: Mapping[str, Json]
    output_schema: Mapping[str, Json] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    deadline_s: float | None = None
    max_attempts: int | None = None
    on_interruption: OnInterruption = "retry"
    batch_id: str | None = None
    retry_of: str | None = None
    max_cost_nano: int | None = None
    key_id: str | None = None  # the API key that made it
    notify: int = 0  # whether webhooks hear of it although no standing endpoint does: 1 of its end, 2 of every move


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is ours for now. `claim_id` is the fence: a move counts only while the row still holds it.

    max_cost_nano  what its calls may cost in all; None: no bound
    budget_key     the API key that made it, where that has a budget
    """

    id: str
    claim_id: str
    project_id: str
    kind: JobKind
    lane: Lane
    models: str  # JSON list
    body: str  # JSON: {input, output_schema}
    attempts: int
    losses: int
    max_attempts: int | None
    on_interruption: OnInterruption
    remaining_s: float | None  # to its deadline, by the database's clock
    rows: int  # attempt rows so far, skips included
    max_cost_nano: int | None = None
    budget_key: str | None = None
    deaths: int = 0  # claims of it that ended with their worker

    @property
    def suspect(self) -> bool:
        return self.deaths >= SUSPECT_FROM


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One upstream call, or one target passed over, as stored. Times are made by the database.

    held_nano  what it might cost, held before it was made; None: no budget is kept for its job
    member     of a panel, whose call it was
    answer     what a member said: its vote, paid for, survives the worker
    """

    id: str
    job_id: str
    claim_id: str
    number: int
    state: AttemptState
    target: str
    provider: str
    model: str
    key_name: str | None = None
    kind: FailureKind | None = None
    http_status: int | None = None
    returned_model: str | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    retry_after_s: float | None = None
    reason: str | None = None
    usage: Usage = NO_USAGE
    cost_nano: int | None = None
    provider_request_id: str | None = None
    held_nano: int | None = None
    member: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    provider: str
    label: str
    model: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a claimed job leaves its claim for good. `result` is the JSON text of the result, `error` the failure."""

    status: Literal[JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.EXPIRED]
    result: str | None = None
    error: Failure | None = None
    provider: str | None = None  # whose failure the error is, where it is a provider's
    served: Served | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """The claim is given back: run again in `wait_s` (0: at once). Uses up nothing by itself.

    parked_for  the mark of the pauses it waits for: it is woken when one of them ends, before `wait_s`
    """

    wait_s: float = 0.0
    parked_for: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pause that a parked job waits for; `until_at` is its next probe, None where only a person ends it."""

    of: str
    kind: str
    reason: str
    since_at: datetime
    until_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as people see it, all times aware UTC, sums over its attempts; None means unknown."""

    id: str
    project_id: str
    kind: JobKind
    lane: Lane
    status: JobStatus
    version: int
    models: Sequence[str]
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    run_at: datetime
    deadline_at: datetime | None
    attempts: int
    result: Json
    error: Json
    usage: Usage
    cost_nano: int | None
    cost_complete: bool
    served: Served | None
    metadata: Mapping[str, str]
    batch_id: str | None
    retry_of: str | None
    priority: int
    on_interruption: OnInterruption
    max_attempts: int | None
    max_cost_nano: int | None
    purged: bool
    waiting_for: Waiting | None = None
