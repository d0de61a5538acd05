"""GET /v1/workers: the worker processes, as their heartbeats tell. They are of the whole installation: for admins."""

from __future__ import annotations

from typing import Final, Literal

from api.desk import Desk
from api.fields import Out
from api.job import Instant
from api.operations import Answer, Call, Operations, Reply
from worker.services.native.answers import instant
from worker.store import workers as stored

workers: Final = Operations("Operation")


class LaneWork(Out):
    """`in_flight` are jobs, `places` how many there may be just now; null where it has not told yet."""

    lane: Literal["interactive", "batch"]
    in_flight: int | None
    places: int | None


class WorkerBody(Out):
    """`state`: `alive`; `silent`, which was not heard of for longer than the lease and that no other worker has found
    dead yet; `gone`, stopped or found dead at `gone_at`.
    """

    id: str
    object: Literal["worker"]
    state: Literal["alive", "silent", "gone"]
    host: str
    pid: int
    release: str
    lanes: list[LaneWork]
    started_at: Instant
    heard_at: Instant
    gone_at: Instant | None


class WorkerList(Out):
    object: Literal["list"]
    alive: int
    data: list[WorkerBody]


@workers.add(
    "GET",
    "/v1/workers",
    "workers.list",
    "List worker processes",
    scope="admin",
    answers={200: Answer("The newest first; those that are gone for a day.", WorkerList)},
)
def list_workers(desk: Desk, _call: Call) -> Reply:
    """Where none is alive, jobs are taken and wait."""
    with desk.deps.database.read() as conn:
        seen = stored.listed(conn, desk.deps.settings.lease_s)
    data = [
        {
            "id": one.id,
            "object": "worker",
            "state": one.state,
            "host": one.host,
            "pid": one.pid,
            "release": one.release,
            "lanes": [
                {"lane": lane, **{name: one.report.get(name, {}).get(lane) for name in ("in_flight", "places")}}
                for lane in one.lanes
            ],
            "started_at": instant(one.started_at),
            "heard_at": instant(one.heartbeat_at),
            "gone_at": instant(one.dead_at),
        }
        for one in seen
    ]
    return Reply({"object": "list", "alive": sum(one.state == "alive" for one in seen), "data": data})
