"""What the engine has in hand, without a database: who is next."""

from __future__ import annotations

import asyncio
import json
from collections import deque

from worker.domain.failure import Lane
from worker.domain.job import Claimed
from worker.engine.engine import Engine
from worker.engine.governor import Governor
from worker.engine.held import Held
from worker.engine.lane import LaneState
from worker.store.database import Database


def held(project: str, number: int) -> Held:
    fields = {"attempts": 0, "losses": 0, "max_attempts": None, "on_interruption": "retry", "remaining_s": None}
    job = Claimed(
        id=f"job_{project}{number}",
        claim_id="clm_1",
        project_id=project,
        kind="completion",
        lane=Lane.BATCH,
        models=json.dumps(["default"]),
        body="{}",
        rows=0,
        **fields,  # type: ignore[arg-type]
    )
    return Held(job, ())


def test_who_comes_late_does_not_wait_for_a_block_that_is_in_hand() -> None:
    async def block(*_: object) -> list[Held]:
        return [held("small", n) for n in range(2)]

    async def claimed() -> list[str]:
        engine = Engine(
            Database("sqlite:///never-opened.sqlite3"),
            lanes=[Lane.BATCH],
            slots=10,
            poll_s=1.0,
            worker_id=lambda: "wrk_1",
            spool=None,
        )
        engine.loop = asyncio.get_running_loop()
        state = LaneState(Lane.BATCH, Governor(10))
        state.buffer = deque(held("large", n) for n in range(100))
        engine._lanes = {Lane.BATCH: state}
        engine._claimer.block = block  # type: ignore[method-assign]
        await engine._claim(state)
        return [one.job.id for one in state.buffer]

    found = asyncio.run(claimed())
    assert found[:5] == ["job_large0", "job_small0", "job_large1", "job_small1", "job_large2"]
    assert len(found) == 102
