"""What the attempts of many jobs add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from worker.domain.state import AttemptState
from worker.store.attempts import Attempt


@dataclass(frozen=True, slots=True)
class Calls:
    """made       calls that were sent
    retries     calls of the target that was called just before
    fallbacks   calls of another target than the one before
    passed_over targets that were not asked, with a reason on record
    took_s      per job, from its first call to the end of its last, in seconds, sorted
    """

    made: int
    retries: int
    fallbacks: int
    passed_over: int
    took_s: Sequence[float]

    @classmethod
    def of(cls, jobs: Iterable[Sequence[Attempt]]) -> Calls:
        """Of each job its attempts, in the order they were made."""
        made = retries = fallbacks = passed_over = 0
        took_s: list[float] = []
        for attempts in jobs:
            sent = [attempt for attempt in attempts if attempt.row.state is not AttemptState.SKIPPED]
            passed_over += len(attempts) - len(sent)
            made += len(sent)
            same = sum(one.row.target == two.row.target for one, two in pairwise(sent))
            retries += same
            fallbacks += max(0, len(sent) - 1) - same
            begun, ended = (sent[0].sent_at, sent[-1].ended_at) if sent else (None, None)
            if begun is not None and ended is not None:
                took_s.append((ended - begun).total_seconds())
        return cls(made, retries, fallbacks, passed_over, sorted(took_s))

    def within_s(self, share: float) -> float | None:
        """The time in which this share of the jobs was through; None: there were none."""
        return self.took_s[min(len(self.took_s) - 1, int(share * len(self.took_s)))] if self.took_s else None
