"""Claims for a worker, on threads of their own: the loop goes on while the database answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from worker import clock
from worker.domain.failure import Lane
from worker.domain.job import Claimed
from worker.engine.doubts import Doubts
from worker.engine.held import Held, with_history
from worker.store import claims
from worker.store.database import Database, Unavailable


class Claimer:
    """Its coroutines run on the engine's loop, and raise Unavailable while the database is away.

    A claim need not wait for the disk: no call leaves before its mark is there, and the claim with it.
    """

    def __init__(self, database: Database, worker_id: Callable[[], str]) -> None:
        self._database = database
        self._worker_id = worker_id
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="completar-claims")
        self._doubts = Doubts()

    async def ids(self, ids: Sequence[str]) -> list[Held]:
        """Those of these jobs that are due."""
        return await self._claimed(
            lambda conn, worker, claim: claims.claim(conn, ids, worker_id=worker, claim_id=claim)
        )

    async def block(self, lane: Lane, room: int, turn: claims.Turn) -> list[Held]:
        """Whatever is due in the lane, at most `room` jobs."""
        return await self._claimed(
            lambda conn, worker, claim: claims.claim_block(
                conn, lane, room, worker_id=worker, claim_id=claim, turn=turn
            )
        )

    async def suspect(self, lanes: Sequence[Lane]) -> Held | None:
        def take(conn: Any, worker: str, claim: str) -> list[Claimed]:
            found = claims.claim_suspect(conn, lanes, worker_id=worker, claim_id=claim)
            return [found] if found is not None else []

        return next(iter(await self._claimed(take)), None)

    def doubt(self, claim_id: str) -> None:
        """This claim was made elsewhere, and perhaps committed: the next claims look for it. From any thread."""
        self._doubts.add(claim_id)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _claimed(self, take: Callable[[Any, str, str], list[Claimed]]) -> list[Held]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._take, take)

    def _take(self, take: Callable[[Any, str, str], list[Claimed]]) -> list[Held]:
        worker_id, claim_id = self._worker_id(), clock.new_id("clm")
        reached = False
        try:
            with self._database.write(durable=False) as conn:
                reached = True
                self._doubts.resolve(conn, worker_id)
                return with_history(conn, take(conn, worker_id, claim_id))
        except Unavailable:
            if reached:
                self._doubts.add(claim_id)
            raise
