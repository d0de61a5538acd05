"""Claims for a worker, on threads of their own: the loop goes on while the database answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from worker import clock
from worker.domain.failure import Lane
from worker.domain.job import Claimed
from worker.engine.doubts import Doubts
from worker.engine.held import Held, with_history
from worker.store import claims
from worker.store.database import Connection, Database, Unavailable

_Lent = Callable[[], AbstractContextManager[Connection]]
_Take = Callable[[Connection, str, str], list[Claimed]]


class Claimer:
    """Its coroutines run on the engine's loop, and raise Unavailable while the database is away."""

    def __init__(self, database: Database, worker_id: Callable[[], str]) -> None:
        self._database = database
        self._worker_id = worker_id
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="completar-claims")
        self._doubts = Doubts()

    async def ids(self, ids: Sequence[str]) -> list[Held]:
        """Those of these jobs that are due."""
        return await self._claimed(
            self._database.each, lambda conn, worker, claim: claims.claim(conn, ids, worker_id=worker, claim_id=claim)
        )

    async def block(self, lane: Lane, room: int, turn: claims.Turn) -> list[Held]:
        """Whatever is due in the lane, at most `room` jobs."""
        return await self._claimed(
            self._database.write,
            lambda conn, worker, claim: claims.claim_block(
                conn, lane, room, worker_id=worker, claim_id=claim, turn=turn
            ),
        )

    async def suspect(self, lanes: Sequence[Lane]) -> Held | None:
        def take(conn: Connection, worker: str, claim: str) -> list[Claimed]:
            found = claims.claim_suspect(conn, lanes, worker_id=worker, claim_id=claim)
            return [found] if found is not None else []

        return next(iter(await self._claimed(self._database.write, take)), None)

    def doubt(self, claim_id: str) -> None:
        """This claim was made elsewhere, and perhaps committed: the next claims look for it. From any thread."""
        self._doubts.add(claim_id)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _claimed(self, lent: _Lent, take: _Take) -> list[Held]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._taken, lent, take)

    def _taken(self, lent: _Lent, take: _Take) -> list[Held]:
        worker_id, claim_id = self._worker_id(), clock.new_id("clm")
        if self._doubts:
            with self._database.write() as conn:
                self._doubts.resolve(conn, worker_id)
        reached = False
        try:
            with lent() as conn:
                reached = True
                return with_history(conn, take(conn, worker_id, claim_id))
        except Unavailable:
            if reached:
                self._doubts.add(claim_id)
            raise
