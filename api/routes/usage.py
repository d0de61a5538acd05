"""GET /v1/usage: what calls came to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.desk import Desk
from api.fields import Moment, Out
from api.job import CostBody, Count, Instant, UsageBody
from api.operations import Answer, Call, Operations, Reply
from api.problems import NO_SCOPE, Problem
from worker.domain.answer import Json
from worker.domain.money import cost_json, usage_json
from worker.services.native.answers import instant
from worker.store import usage as stored
from worker.store.moment import instant as database_clock
from worker.store.usage import GROUPS, Group, Sums

DEFAULT_TIME: Final = timedelta(days=30)
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)  # no call is older
_ONE: Final = f"({'|'.join(GROUPS)})"
_Since = Annotated[Moment, Field(description="RFC 3339; 30 days before `to` where not said.")]
_Until = Annotated[Moment, Field(description="RFC 3339; calls before it. Now, where not said.")]

usage: Final = Operations("Usage")


class UsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    group_by: Annotated[
        str,
        Field(
            pattern=f"^{_ONE}(,{_ONE})*$",
            max_length=100,
            description=f"Of {', '.join(GROUPS)}, with commas. `key` is the provider's key; `project` is for admins.",
        ),
    ] = "provider,model"
    since: _Since | None = Field(default=None, alias="from")
    until: _Until | None = Field(default=None, alias="to")


class UsageSums(Out):
    """`calls` that neither answered nor failed are open. `usage` is of the calls whose provider told it.

    `unknown_cost` counts the calls that were perhaps billed, nobody knows how much: they are not in `cost`, which is
    then not `complete`.
    """

    calls: Count
    answered: Count
    failed: Count
    usage: UsageBody
    cost: CostBody
    unknown_cost: Count


class UsageLine(UsageSums):
    """With what was grouped by, and nothing else; `key` is null where the provider takes none, `day` is UTC's."""

    provider: str = ""
    model: str = ""
    key: str | None = None
    day: str = ""
    project: str = ""


class UsageReport(Out):
    object: Literal["usage"]
    since: Annotated[Instant, Field(alias="from")]
    to: Instant
    group_by: list[Group]
    data: list[UsageLine]
    total: UsageSums


@usage.add(
    "GET",
    "/v1/usage",
    "usage.retrieve",
    "Calls, tokens and cost",
    scope="jobs:read",
    query=UsageQuery,
    answers={200: Answer("Sums over the calls of the project.", UsageReport)},
)
def retrieve(desk: Desk, call: Call) -> Reply:
    """Sums over the calls sent in a time, also of jobs that failed; calls are kept as long as their jobs.

    Grouped by `project`, it tells of every project, and needs the scope `admin`.
    """
    query: UsageQuery = call.query
    by: Any = tuple(dict.fromkeys(query.group_by.split(",")))
    everyone = "project" in by
    assert call.caller is not None, "it has a scope"
    if everyone and "admin" not in call.caller.scopes:
        raise Problem(NO_SCOPE, "Only a key with the scope admin sees other projects. Leave project out of group_by.")
    with desk.deps.database.read() as conn:
        until = query.until if query.until is not None else database_clock(conn)
        since = query.since if query.since is not None else max(until, _EARLIEST) - DEFAULT_TIME
        lines = stored.report(conn, None if everyone else call.project_id, by, since, until)
    body = {
        "object": "usage",
        "from": instant(since),
        "to": instant(until),
        "group_by": list(by),
        "data": [{**line.group, **_sums(line.sums)} for line in lines],
        "total": _sums(reduce(add, (line.sums for line in lines), Sums())),
    }
    return Reply(body)


def _sums(sums: Sums) -> dict[str, Json]:
    return {
        "calls": sums.calls,
        "answered": sums.answered,
        "failed": sums.failed,
        "usage": usage_json(sums.usage),
        "cost": cost_json(sums.cost_nano, complete=not sums.unknown_cost),
        "unknown_cost": sums.unknown_cost,
    }
