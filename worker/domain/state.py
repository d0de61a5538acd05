"""The life of a job.

    queued ──────────▶ in_progress ──▶ completed | failed | cancelled | expired
      ▲  │                │   │
      │  ├▶ cancelled     │   └──────▶ cancelling ──▶ cancelled
      │  │  expired       │
      │  └▶ completed     │  by an answer of a worker that was thought dead
      └───────────────────┘  give back, retry later, worker lost

`queued`       stored and waiting; `run_at` says from when it may run
`in_progress`  one claim (`claim_id`) owns it
`cancelling`   somebody asked to stop; no further call starts, the open one may still answer
`completed`    has a result        `failed`   has an error
`cancelled`    stopped on request  `expired`  its deadline passed

A final state never changes. Every move adds one to `version`, the number in the ETag, the events and the webhooks.
Only `claims`, `parked`, `settling`, `orphans`, `open_lines` and `jobs` of the store make moves, one function each, each
a guarded UPDATE; `new_jobs` inserts jobs, and `shared` such as have ended already.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobStatus(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_S = JobStatus

FINAL: Final = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED, _S.EXPIRED})
HELD: Final = (_S.IN_PROGRESS, _S.CANCELLING)  # by a claim

MOVES: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        _S.QUEUED: frozenset({_S.IN_PROGRESS, _S.CANCELLED, _S.EXPIRED, _S.COMPLETED}),
        _S.IN_PROGRESS: frozenset({_S.QUEUED, _S.CANCELLING, _S.COMPLETED, _S.FAILED, _S.CANCELLED, _S.EXPIRED}),
        _S.CANCELLING: frozenset({_S.CANCELLED}),
        _S.COMPLETED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.EXPIRED: frozenset(),
    }
)


class AttemptState(StrEnum):
    """What became of one call, or of a target that was passed over.

    skipped     the target was not asked; `reason` says why
    sent        committed just before the request's bytes leave; after a crash it is unknown whether the provider acted
    answered    a good answer          failed  a failure, `kind` says which
    lost        its worker died with the call open; what was billed is unknown
    cancelled   hung up: the job was cancelled, its worker stopped, or another call of it answered first
    superseded  an answer that is not the result, but paid for and kept: it came after the claim had passed to another
                worker, or along with the one that won the race
    """

    SKIPPED = "skipped"
    SENT = "sent"
    ANSWERED = "answered"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
