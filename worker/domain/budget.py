"""Budgets: what a call may cost is held before it is made, and what it did cost is charged when it is over.

A job's budget (`max_cost`) is kept by whoever runs it. An API key's is shared by all its jobs, so its books are in SQL
(`store/budgets.py`). Either is overspent by at most what the calls that were open cost above their estimates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from worker.domain.answer import Failure, JobKind, Json
from worker.domain.failure import FailureKind
from worker.domain.job import AttemptRow
from worker.domain.money import NO_USAGE, Usage, estimate_tokens, in_dollars
from worker.domain.route import output_ceiling
from worker.domain.state import AttemptState
from worker.domain.walk import Closed

OUTPUT_TOKENS: Final = 1_024  # held for an answer to which the caller set no ceiling

# The bytes had left and no answer of use came: the provider may have billed it. One that never left is on record with
# a cost of nothing.
MAYBE_BILLED: Final = frozenset(
    {
        FailureKind.CONNECTION,
        FailureKind.TIMEOUT,
        FailureKind.DEADLINE,
        FailureKind.TRUNCATED,
        FailureKind.BAD_OUTPUT,
        FailureKind.EMPTY_OUTPUT,
        FailureKind.SCHEMA_MISMATCH,
    }
)
GOOD: Final = (200, 299)


# -- one call ----------------------------------------------------------------------------------------------------


def most_tokens(kind: JobKind, request: Mapping[str, Json], size: int) -> Usage:
    """The tokens a call may come to; `size` is the request's length in characters. Of a prediction, given as it is
    stored: each call of its panel, and its judge's.
    """
    ceiling = output_ceiling(request["parameters"] if kind == "prediction" else request)
    output = 0 if kind == "embedding" else OUTPUT_TOKENS if ceiling is None else ceiling
    return Usage(estimate_tokens(size), output)


def is_good(http_status: int | None) -> bool:
    """Whether a provider says with it that it answered, whatever became of the answer on its way."""
    return http_status is not None and GOOD[0] <= http_status <= GOOD[1]


def maybe_billed(row: AttemptRow) -> bool:
    """Whether the provider may have billed a call. One that it refused, or that never left, it has not."""
    match row.state:
        case AttemptState.SKIPPED:
            return False
        case AttemptState.FAILED:
            return row.usage != NO_USAGE or row.kind in MAYBE_BILLED or is_good(row.http_status)
        case AttemptState.CANCELLED:
            return row.kind is not None  # None: stopped before the request left
        case _:
            return True


def charged(row: AttemptRow) -> int:
    """Nano-dollars that a call which is over takes from a budget: its cost, or its hold where the cost is unknown."""
    if row.cost_nano is not None:
        return row.cost_nano
    return row.held_nano if row.held_nano is not None and maybe_billed(row) else 0


# -- a job's budget ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Purse:
    """What one job may spend.

    max_cost_nano  over all its calls; None: it is only the key that has a budget
    spent_nano     so far, over all its claims
    held_nano      for its calls that are open: a panel has several
    """

    max_cost_nano: int | None
    spent_nano: int = 0
    held_nano: int = 0

    @classmethod
    def after(cls, max_cost_nano: int | None, calls: Iterable[AttemptRow]) -> Purse:
        return cls(max_cost_nano, sum(charged(row) for row in calls))

    def hold(self, row: AttemptRow) -> None:
        """A call is about to be made."""
        self.held_nano += row.held_nano or 0

    def release(self, row: AttemptRow) -> None:
        """It is not made after all."""
        self.held_nano -= row.held_nano or 0

    def pay(self, row: AttemptRow) -> None:
        """A call that was held for is over."""
        self.release(row)
        self.spent_nano += charged(row)

    def refusal(self, target: str, estimate_nano: int) -> Failure | None:
        """Why a call of this target must not be made; None: it may."""
        if self.max_cost_nano is None or self.spent_nano + self.held_nano + estimate_nano <= self.max_cost_nano:
            return None
        held = f", {in_dollars(self.held_nano)} is held for open calls" if self.held_nano else ""
        message = (
            f"max_cost is {in_dollars(self.max_cost_nano)}: {in_dollars(self.spent_nano)} is spent{held}, "
            f"and a call of {target} may cost {in_dollars(estimate_nano)}"
        )
        return Failure(FailureKind.BUDGET, message)


def unpriced(target: str) -> Closed:
    """No budget can be kept on a target whose price nobody knows."""
    return Closed(FailureKind.BUDGET, 0.0, f"the price of {target} is not known, and the job has a budget")


# -- an API key's budget -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Balance:
    """The books of a key, in nano-dollars."""

    budget_nano: int
    spent_nano: int
    held_nano: int

    @property
    def room_nano(self) -> int:
        return self.budget_nano - self.spent_nano - self.held_nano

    def refusal(self, estimate_nano: int) -> Failure:
        message = (
            f"the key's budget is {in_dollars(self.budget_nano)}: {in_dollars(self.spent_nano)} is spent, "
            f"{in_dollars(self.held_nano)} is held for open calls, and this call may cost {in_dollars(estimate_nano)}"
        )
        return Failure(FailureKind.BUDGET, message)


def held_in_turn(balance: Balance, estimates: Sequence[int]) -> tuple[Balance, list[Failure | None]]:
    """The balance when each estimate that fits is held, first come, first served; for each, why it does not fit."""
    refusals: list[Failure | None] = []
    for nano in estimates:
        fits = nano <= balance.room_nano
        refusals.append(None if fits else balance.refusal(nano))
        if fits:
            balance = replace(balance, held_nano=balance.held_nano + nano)
    return balance, refusals


@dataclass(frozen=True, slots=True)
class Settled:
    """What a key's books change by when calls are over: holds given back, money charged."""

    released_nano: int = 0
    charged_nano: int = 0

    def __add__(self, other: Settled) -> Settled:
        return Settled(self.released_nano + other.released_nano, self.charged_nano + other.charged_nano)


def settled(before: AttemptState, held_nano: int, row: AttemptRow) -> Settled:
    """`before` is what the call was on record until now, with this hold.

    One that was given up as lost has been charged its hold already, and what is stored twice counts once.
    """
    match before:
        case AttemptState.SENT:
            return Settled(held_nano, charged(row))
        case AttemptState.LOST:
            return Settled(0, charged(row) - held_nano)
        case _:
            return Settled()
