"""What one job has to say to the database, and how much of it may wait on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worker.domain.failure import FailureKind
from worker.domain.job import AttemptRow, Ending
from worker.domain.state import AttemptState
from worker.store.settling import Settle


@dataclass(slots=True)
class Entry:
    """What one job has to say. `settle` ends its claim; without it `begin` is stored only while the claim holds.

    budget_key  the API key whose budget pays for its calls; None: there is none
    """

    job_id: str
    claim_id: str
    begin: Sequence[AttemptRow] = ()
    close: Sequence[AttemptRow] = ()
    settle: Settle | None = None
    budget_key: str | None = None

    @property
    def is_mark(self) -> bool:
        """Whether a call waits for it: such a write is of no use later."""
        return any(row.state is AttemptState.SENT for row in self.begin)

    @property
    def is_plain_mark(self) -> bool:
        """Whether it says no more than that calls are about to be made, and nobody's budget is asked."""
        plain = self.settle is None and self.budget_key is None and not self.close and bool(self.begin)
        return plain and all(row.state is AttemptState.SENT for row in self.begin)

    @property
    def is_fault(self) -> bool:
        """Whether it ends the job by a fault of our own: who ran it may not have said what became of its calls."""
        end = self.settle.to if self.settle is not None else None
        return isinstance(end, Ending) and end.error is not None and end.error.kind is FailureKind.INTERNAL

    @property
    def size(self) -> int:
        """Characters of what was answered. All else is small."""
        size = 0
        for row in self.close:
            if row.answer is not None:
                size += len(row.answer)
        if self.settle is not None and isinstance(self.settle.to, Ending) and self.settle.to.result is not None:
            size += len(self.settle.to.result)
        return size

    def without_mark(self) -> Entry | None:
        """What is true even if the call is never made; None: nothing."""
        if not self.is_mark:
            return self
        kept = [row for row in self.begin if row.state is not AttemptState.SENT]
        return replace(self, begin=kept) if kept or self.close or self.settle is not None else None
