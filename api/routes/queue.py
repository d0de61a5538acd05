"""GET /v1/queue: what of the project waits, and how much may."""

from __future__ import annotations

from typing import Final, Literal

from api.desk import Desk
from api.fields import Out
from api.job import Count
from api.operations import Answer, Call, Operations, Reply
from worker.domain.intake import judge

queue: Final = Operations("Operation")


class LaneBody(Out):
    """`waiting` are jobs that are `queued`, counted no further than a little past `most`, or 10,000 without it.

    `oldest_s` is how long the first of them has been due. `most` and `longest_s` are null where there is no bound.
    `full`: one more job would be refused with 429.
    """

    lane: Literal["interactive", "batch"]
    waiting: Count
    most: Count | None
    oldest_s: float
    longest_s: float | None
    full: bool


class QueueBody(Out):
    object: Literal["queue"]
    lanes: list[LaneBody]


@queue.add(
    "GET",
    "/v1/queue",
    "queue.retrieve",
    "What waits, and how much may",
    scope="jobs:read",
    answers={200: Answer("Each lane of the project.", QueueBody)},
)
def retrieve(desk: Desk, call: Call) -> Reply:
    """As this web process saw it within the last second or so; jobs that run do not wait."""
    lanes = [
        {
            "lane": lane.value,
            "waiting": backlog.waiting,
            "most": bounds.depth,
            "oldest_s": round(backlog.oldest_s, 3),
            "longest_s": bounds.age_s,
            "full": judge(backlog, bounds, 1) is not None,
        }
        for lane, (backlog, bounds) in desk.deps.intake.state(call.project_id).items()
    ]
    return Reply({"object": "queue", "lanes": lanes})
