"""What the engine holds of a claimed job before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.domain.job import Claimed
from worker.store import attempts
from worker.store.attempts import Attempt


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed job with the attempts it has behind it (empty for a first run)."""

    job: Claimed
    history: Sequence[Attempt]


def with_history(conn: Any, found: Sequence[Claimed]) -> list[Held]:
    again = [job.id for job in found if job.rows]
    history = attempts.of_jobs(conn, again) if again else {}
    return [Held(job, history.get(job.id, ())) for job in found]
