"""Send what is due to be told. A thread and a loop of its own, so that no receiver is ever in a job's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from worker import clock, events
from worker.domain.delivery import DeliveryState, Due, Tried
from worker.services.letter import Letter, post, written
from worker.services.tell import own_event, to_each
from worker.store import deliveries, outbox, webhook_endpoints
from worker.store.database import Connection, Database, Unavailable
from worker.webhooks.address import Rules
from worker.webhooks.sender import Sender
from worker.webhooks.vault import Vault

PLACES: Final = 100  # tries in flight of one process
LOOK_S: Final = 0.2  # between two looks when nothing was found
GATHER_S: Final = 0.005  # what is over in this time is recorded together
HELD_BACK_S: Final = 0.05  # when an endpoint's rate is what is waited for
GENTLY: Final = 10  # deliveries that are begun at once while the process is busy with jobs ...
GENTLE_S: Final = 0.1  # ... and how long it then waits before the next: 100 a second take a fifth of its CPU
AWAY_S: Final = 1.0  # the database is away
STRAYS_S: Final = 3.0  # between two looks for what is ours in the database and unknown here
UNRECORDED_S: Final = 300.0  # a try whose record the database did not take is made again after this

Result = TypeVar("Result")


class Deliverer:
    """`start()`, then `stop()` once, from any thread."""

    def __init__(
        self,
        database: Database,
        vault: Vault | None,
        rules: Rules,
        worker_id: Callable[[], str],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`worker_id` is asked at each claim: it changes when the worker was declared dead and registered anew. While
        the process is `busy` with jobs, deliveries give way to them.
        """
        self._busy = busy
        self._database = database
        self._vault = vault
        self._rules = rules
        self._worker_id = worker_id
        self._thread = threading.Thread(target=self._main, name="completar-webhooks", daemon=True)
        self._stopping = threading.Event()
        self._grace_s = 0.0
        self._sending: set[asyncio.Task[None]] = set()
        self._over: list[Tried] = []
        self._held: set[tuple[str, str]] = set()  # delivery and claim: in flight, or over and not yet recorded
        self._strays_looked_s: float | None = None
        self._ended: asyncio.Event  # something is over and not yet recorded
        self._freed: asyncio.Event
        self._after = ""  # the endpoint after which the next claim looks, so that each has its turn

    def start(self) -> None:
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Claim nothing more. Tries in flight may end within `grace_s`; the sweep has the rest sent again."""
        self._grace_s = grace_s
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(grace_s + 2.0)

    def _main(self) -> None:
        with ThreadPoolExecutor(2, thread_name_prefix="completar-webhooks-sql") as threads:
            while not self._stopping.is_set():
                try:
                    asyncio.run(self._run(threads))
                except Exception as exc:  # noqa: BLE001 - said, and begun anew: nobody else might be there to send
                    events.emit("webhooks.broken", level="error", error=type(exc).__name__)
                    self._stopping.wait(AWAY_S)

    async def _run(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._ended = asyncio.Event()
        self._freed = asyncio.Event()
        self._held = {_claim_of(tried.due) for tried in self._over}  # all others of a run that broke have ended
        self._strays_looked_s = None
        sender = Sender(self._rules)
        recording = asyncio.create_task(self._record())
        try:
            while not self._stopping.is_set():
                await self._rest(await self._claim(sender))
            if self._sending:
                await asyncio.wait(self._sending, timeout=self._grace_s)
            for task in self._sending:
                task.cancel()
        finally:
            recording.cancel()
            await asyncio.gather(recording, *self._sending, return_exceptions=True)
            await self._flush()
            await sender.aclose()

    async def _rest(self, seconds: float) -> None:
        """Until it is worth looking again: after `seconds`, or as soon as a record has freed a place."""
        self._freed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._freed.wait()

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # -- claim and send ----------------------------------------------------------------------------------------------

    async def _claim(self, sender: Sender) -> float:
        """Begin as many tries as there is room for. Returns the seconds until it is worth looking again."""
        room = PLACES - len(self._sending)
        if self._busy():
            await asyncio.sleep(GENTLE_S)
            room = min(room, GENTLY)
        if room <= 0:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            return 0.0
        try:
            letters, held_back = await self._in_thread(lambda: self._take(room))
        except Unavailable as exc:
            events.emit("webhooks.waiting", level="warning", reason=str(exc))
            return AWAY_S
        for letter in letters:
            self._held.add(_claim_of(letter.due))
            task = asyncio.create_task(self._send(sender, letter))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        if letters or self._after:
            return 0.0
        return HELD_BACK_S if held_back else LOOK_S  # a place that is freed wakes us

    def _take(self, room: int) -> tuple[list[Letter], bool]:
        worker_id, now_s = self._worker_id(), clock.monotonic_s()
        looks = self._strays_looked_s is None or now_s - self._strays_looked_s >= STRAYS_S
        with self._database.write() as conn:
            if looks:
                self._free_strays(conn, worker_id)
            taken = deliveries.claim(conn, room, after=self._after, worker_id=worker_id, claim_id=clock.new_id("clm"))
            endpoints = webhook_endpoints.many(conn, list({due.endpoint_id for due in taken.due}))
            shared = {
                endpoint.project_id: webhook_endpoints.project_secrets(conn, endpoint.project_id)
                for endpoint in endpoints.values()
                if endpoint.secrets is None
            }
        if looks:
            self._strays_looked_s = now_s
        self._after = taken.after
        letters = []
        for due in taken.due:
            endpoint = endpoints[due.endpoint_id]
            letters.append(written(self._vault, due, endpoint, endpoint.secrets or shared[endpoint.project_id]))
        return letters, taken.held_back

    def _free_strays(self, conn: Connection, worker_id: str) -> None:
        """Claims whose commit we were not told of, and what a run that broke was sending: no sweep would free them,
        since this worker lives.
        """
        strays = [claim for claim in deliveries.claimed(conn, worker_id) if claim not in self._held]
        deliveries.give_back(conn, strays)
        if strays:
            events.emit("deliveries.taken_back", level="warning", count=len(strays))

    async def _send(self, sender: Sender, letter: Letter) -> None:
        try:
            tried = await post(sender, letter)
        except Exception as exc:  # noqa: BLE001 - a fault of ours; the delivery must not stay with us for ever
            events.emit("webhooks.unsent", level="error", delivery_id=letter.due.id, error=type(exc).__name__)
            with suppress(Unavailable):
                await self._in_thread(lambda: self._give_back(letter.due))
            self._held.discard(_claim_of(letter.due))
            return
        self._over.append(tried)  # apart: what is over by now is another list than before the wait
        self._ended.set()

    # -- record ------------------------------------------------------------------------------------------------------

    async def _record(self) -> None:
        """Write what is over, many at once. A try whose record is lost is made again, under the same id.

        It sleeps while nothing is over: when it looked each GATHER_S, it took a tenth of the interpreter's time from
        the jobs of a process that had nothing to deliver.
        """
        while True:
            await self._ended.wait()
            self._ended.clear()
            await asyncio.sleep(GATHER_S)
            if not await self._flush():
                await asyncio.sleep(AWAY_S)
                self._ended.set()

    async def _flush(self) -> bool:
        over, self._over = self._over, []
        if not over:
            return True
        try:
            await self._write(over)
        except Unavailable as exc:
            self._over = over + self._over
            events.emit("webhooks.waiting", level="warning", reason=str(exc))
            return False
        self._held.difference_update(_claim_of(tried.due) for tried in over)
        self._freed.set()
        return True

    async def _write(self, over: Sequence[Tried]) -> None:
        """Record them; one that the database does not take must not keep the others from it. Raises Unavailable."""
        try:
            await self._in_thread(lambda: self._settle(over))
        except Unavailable:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is one record's
            if len(over) > 1:
                for tried in over:
                    await self._write([tried])
                return
            (tried,) = over
            events.emit("webhooks.unrecorded", level="error", delivery_id=tried.due.id, error=type(exc).__name__)
            await self._in_thread(lambda: self._give_back(tried.due))

    def _give_back(self, due: Due) -> None:
        with self._database.write() as conn:
            deliveries.give_back(conn, [_claim_of(due)], UNRECORDED_S)

    def _settle(self, over: Sequence[Tried]) -> None:
        with self._database.write() as conn:
            moved, silent = deliveries.settle(conn, over)
            for tried in over:
                if tried.due.id not in moved:
                    continue
                if tried.disable is not None:
                    self._disable(conn, tried.due.project_id, tried.due.endpoint_id, tried.disable)
                if tried.state is DeliveryState.EXHAUSTED and tried.due.trigger == "auto":  # who resends looks himself
                    self._tell(
                        conn,
                        tried.due.project_id,
                        tried.due.endpoint_id,
                        "webhook_delivery.exhausted",
                        {"id": tried.due.id, "object": "webhook_delivery", "event_id": tried.due.event_id},
                    )
            projects = {tried.due.endpoint_id: tried.due.project_id for tried in over}
            for endpoint_id in silent:
                self._disable(conn, projects[endpoint_id], endpoint_id, "nothing but failures for five days")
        for tried in over:
            _log(tried, recorded=tried.due.id in moved)

    def _disable(self, conn: Connection, project_id: str, endpoint_id: str, reason: str) -> None:
        if webhook_endpoints.disable(conn, endpoint_id, reason):
            events.emit("webhooks.disabled", level="warning", endpoint_id=endpoint_id, reason=reason)
            data = {"id": endpoint_id, "object": "webhook_endpoint", "reason": reason}
            self._tell(conn, project_id, endpoint_id, "webhook_endpoint.disabled", data)

    @staticmethod
    def _tell(conn: Connection, project_id: str, about: str, event_type: str, data: dict[str, str]) -> None:
        """To the project's other endpoints: the one it is about does not listen."""
        others = [
            endpoint
            for endpoint in webhook_endpoints.standing(conn, [project_id]).get(project_id, [])
            if endpoint.id != about and endpoint.disabled_at is None and event_type in endpoint.event_types
        ]
        if others:
            event = own_event(project_id, event_type, data["id"], data)
            outbox.tell(conn, [event], to_each(event, others))


def _claim_of(due: Due) -> tuple[str, str]:
    return due.id, due.claim_id


def _log(tried: Tried, *, recorded: bool) -> None:
    events.emit(
        "delivery.tried",
        level="info" if recorded else "warning",
        delivery_id=tried.due.id,
        endpoint_id=tried.due.endpoint_id,
        state=tried.state.value,
        http_status=tried.http_status,
        fault=tried.fault,
        total_s=tried.phases.get("total_s"),
        recorded=recorded,
    )
