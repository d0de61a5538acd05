"""What the workers of a fleet know in common, in Redis: two scripts, a short patience, and whether it is there.

Redis is asked for limits and never for truth. One that does not answer within PATIENCE_S is as good as away: then
`run` returns None at once until `knock` has found it well again, and each process lives on its own share.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from worker import events

PATIENCE_S: Final = 0.25
UNKNOWN: Final = "Redis was not asked yet"
PREFIX: Final = "completar:limit:"
_SCRIPTS: Final = {name: files("worker.limits").joinpath(f"{name}.lua").read_text() for name in ("take", "doors")}


class Shared:
    """Made and used on the engine's loop. `worker` tells the id of this worker, which may change.

    on_away  called at the moment when Redis turns out to be away
    """

    def __init__(self, url: str, worker: Callable[[], str]) -> None:
        self.worker = worker
        self.on_away: Callable[[], None] = _nobody
        self.up = False
        self.why = UNKNOWN
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=PATIENCE_S,
            socket_connect_timeout=PATIENCE_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._scripts = {name: self._redis.register_script(text) for name, text in _SCRIPTS.items()}

    async def run(self, script: str, keys: Sequence[str], told: Mapping[str, Any]) -> Any:
        """The script's reply; None: Redis is away."""
        return await self._run(script, keys, told) if self.up else None

    async def knock(self, script: str, keys: Sequence[str], told: Mapping[str, Any]) -> Any:
        """As `run`, whether it was away or not: this finds out that it is back."""
        if not self.up:  # a connection from before its death looks well until it is used
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
        reply = await self._run(script, keys, told)
        if reply is not None and not self.up:
            self.up, self.why = True, ""
            events.emit("limits.shared")
        return reply

    async def close(self) -> None:
        self.up = False
        await self._redis.aclose()

    async def _run(self, script: str, keys: Sequence[str], told: Mapping[str, Any]) -> Any:
        try:
            async with asyncio.timeout(PATIENCE_S + 0.1):  # connecting and asking each have their own clock
                return await self._scripts[script](keys=list(keys), args=[json.dumps(told)])
        except (RedisError, OSError, TimeoutError) as exc:
            was_up, unknown = self.up, self.why == UNKNOWN
            self.up, self.why = False, f"Redis does not answer in time ({type(exc).__name__})"
            if was_up or unknown:
                events.emit("limits.alone", level="warning", reason=type(exc).__name__)
            if was_up:
                self.on_away()
            return None


def _nobody() -> None:
    pass
