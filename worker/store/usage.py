"""What calls came to: sums over attempts for as long as these are kept. Unknown is None, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

import sqlalchemy as sa

from worker.domain.budget import GOOD, MAYBE_BILLED
from worker.domain.money import NO_USAGE, Usage, added
from worker.domain.state import AttemptState
from worker.store.moment import begun, utc_day
from worker.store.tables import attempt, job, project

Group = Literal["provider", "model", "key", "day", "project"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)

_COLUMNS: Final[Mapping[Group, sa.ColumnElement[Any]]] = {
    "provider": attempt.c.provider,
    "model": attempt.c.model,
    "key": attempt.c.key_name,
    "day": utc_day(attempt.c.sent_at),
    "project": project.c.name,
}
_TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")

_state = attempt.c.state
_answered = _state.in_([AttemptState.ANSWERED.value, AttemptState.SUPERSEDED.value])
_open = _state == AttemptState.SENT.value
_never_left = sa.and_(_state == AttemptState.CANCELLED.value, attempt.c.kind.is_(None))
# As `budget.maybe_billed`; of calls whose cost is on record nothing else matters.
unknown_cost: Final = sa.and_(
    attempt.c.cost_nano.is_(None),
    _state != AttemptState.SKIPPED.value,
    sa.not_(_never_left),
    sa.or_(
        _state != AttemptState.FAILED.value,
        attempt.c.kind.in_([kind.value for kind in MAYBE_BILLED]),
        attempt.c.http_status.between(*GOOD),
        *(attempt.c[name].is_not(None) for name in _TOKENS),
    ),
)


@dataclass(frozen=True, slots=True)
class Sums:
    """Over calls.

    answered, failed  the rest is open
    usage             over the calls that told of it; None where none did
    known_nano        the cost of those whose cost is known; None where it is of none
    unknown_cost      calls whose cost is not known, and that were perhaps billed
    """

    calls: int = 0
    answered: int = 0
    failed: int = 0
    usage: Usage = NO_USAGE
    known_nano: int | None = None
    unknown_cost: int = 0

    @property
    def cost_nano(self) -> int | None:
        """Nothing where no call was billed; None where something was perhaps, and nothing is known of it."""
        return 0 if self.known_nano is None and not self.unknown_cost else self.known_nano

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.calls + other.calls,
            self.answered + other.answered,
            self.failed + other.failed,
            self.usage + other.usage,
            added(self.known_nano, other.known_nano),
            self.unknown_cost + other.unknown_cost,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """`group` holds what was grouped by, in its order; a key is None where the provider takes none."""

    group: Mapping[Group, str | None]
    sums: Sums


def report(
    conn: sa.Connection, project_id: str | None, by: Sequence[Group], since: datetime, until: datetime
) -> list[Line]:
    """Sums over the calls sent from `since` to before `until` (aware UTC); of every project where `project_id` is None.

    In the order of the groups.
    """
    columns = [_COLUMNS[name].label(f"by_{name}") for name in by]
    where = [
        attempt.c.sent_at >= since,
        attempt.c.sent_at < until,
        sa.not_(_never_left),
        *([job.c.project_id == project_id] if project_id is not None else []),
    ]
    calls = attempt.join(job, job.c.id == attempt.c.job_id)
    if "project" in by:
        calls = calls.join(project, project.c.id == job.c.project_id)
    statement = (
        sa.select(
            *columns,
            sa.func.count().label("calls"),
            _count(_answered).label("answered"),
            _count(sa.not_(sa.or_(_answered, _open))).label("failed"),
            *(_sum(attempt.c[name]).label(name) for name in _TOKENS),
            _sum(attempt.c.cost_nano).label("known_nano"),
            _count(unknown_cost).label("unknown_cost"),
        )
        .select_from(calls)
        .where(*where)
        .group_by(*columns)
        .order_by(*(column.nulls_first() for column in columns))
    )
    return [_line(row, by) for row in conn.execute(statement)]


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.count(sa.case((condition, 1)))


def _sum(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Postgres sums bigint as numeric."""
    return sa.cast(sa.func.sum(column), sa.BigInteger)


def _line(row: Any, by: Sequence[Group]) -> Line:
    usage = Usage(row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens)
    group = {name: getattr(row, f"by_{name}") for name in by}
    return Line(group, Sums(row.calls, row.answered, row.failed, usage, row.known_nano, row.unknown_cost))


_RECENT_S: Final = 3600.0
_RECENT_CALLS: Final = 2_000


def recent_s(conn: sa.Connection, target: str) -> float | None:
    """Seconds that a call of this target took of late, on average; None: it was not asked within the hour."""
    some = (
        sa.select(attempt.c.total_s)
        .where(
            attempt.c.sent_at > begun(-_RECENT_S),
            attempt.c.target == target,
            attempt.c.state == AttemptState.ANSWERED.value,
            attempt.c.total_s.is_not(None),
        )
        .limit(_RECENT_CALLS)
        .subquery()
    )
    found = conn.execute(sa.select(sa.func.avg(some.c.total_s))).scalar_one()
    return None if found is None else float(found)
