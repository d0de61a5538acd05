"""A worker process: its row and heartbeat, its engine, its look-outs, its end."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import wraps
from typing import Final

from worker import clock, events
from worker.deps import Deps
from worker.domain.failure import Lane
from worker.domain.release import RELEASE
from worker.engine.control import Control
from worker.engine.engine import Engine, Run
from worker.engine.held import Held
from worker.engine.replay import replay
from worker.engine.spool import Spool
from worker.limits.gate import Gate, Rates, Shared
from worker.providers.formats import SLEEPING
from worker.providers.transport import Transport
from worker.services import deliver, watchdog
from worker.services import sweep as sweeping
from worker.services.batches.keeper import Keeper
from worker.services.course import Bench
from worker.services.deliver import Deliverer
from worker.services.pauses import LOOK_S, PauseWatch
from worker.services.predict import predict
from worker.services.run import run
from worker.services.tell import BLOCK, tell
from worker.services.watchdog import Watchdog
from worker.store import jobs, notices, workers
from worker.store.database import Unavailable

CANCEL_LOOK_S: Final = 0.4  # a cancelled job starts no call in any case; this is when it hears of it
SWEEP_S: Final = 3.0
RECORD_S: Final = 1.0  # at the end of a drain, for the writes of the calls that were hung up on
FRESH: Final = 2 / 3  # of the lease: a call that begins so soon after a beat begins before its job can be taken back
# The loop's thread competes with the database threads for the interpreter; the default of 5 ms is a long wait for it.
SWITCH_S: Final = 0.001
BUSY: Final = 100  # calls in flight with which webhooks give way to jobs
YIELD: Final = 16.0  # telling then rests so many times as long as a block of notes took


class Outage:
    """Whether this process may declare others dead: after an outage of the database all of them look dead.

    They get a lease's time to be heard from. Times are of the steady clock, seconds.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._heard_s: float | None = None
        self._unsure_until_s = 0.0
        self._silent = False

    def silent(self) -> None:
        """The database did not answer."""
        self._silent = True

    def heard(self, now_s: float) -> None:
        """The database took our heartbeat."""
        gap_s = now_s - self._heard_s if self._heard_s is not None else 0.0
        if self._silent or gap_s > self._lease_s / 2:
            self._unsure_until_s = now_s + self._lease_s
        self._heard_s = now_s
        self._silent = False

    def over(self, now_s: float) -> bool:
        """False also before our own first heartbeat after it."""
        lately = self._heard_s is not None and now_s - self._heard_s <= self._lease_s / 2
        return lately and not self._silent and now_s >= self._unsure_until_s


class Worker:
    """`start()`, then `stop()` once. Thread-safe."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._settings = deps.settings
        self._id = clock.new_id("wrk")
        self._sweep_s = min(SWEEP_S, self._settings.lease_s / 3)
        self._beaten_s = clock.monotonic_s()  # when we last knew ourselves alive
        self._gate: Gate | None = None
        self._live = 1  # worker processes, by their heartbeats: where Redis is away a limit is divided by them
        self._stopping = threading.Event()
        self._drained = threading.Event()  # until then it beats: a drain may last longer than the lease
        self._threads: list[threading.Thread] = []
        self._spool = Spool(self._settings.data_dir / "spool")
        self._outage = Outage(self._settings.lease_s)
        self.engine = Engine(
            deps.database,
            lanes=self._settings.lanes,
            slots=self._settings.slots,
            poll_s=self._settings.poll_s,
            worker_id=lambda: self._id,
            spool=self._spool,
            fresh=self._fresh,
        )
        tags = {(spec.name, key.name): key.tag for spec in deps.catalog.providers.values() for key in spec.keys}
        self._pauses = PauseWatch(deps.database, self.engine, self._settings.lanes, lambda: self._id, tags)
        self._keeper: Keeper | None = None
        if Lane.BATCH in self._settings.lanes:
            self._keeper = Keeper(deps, lambda: self.engine.wake(Lane.BATCH))
        self._deliverer = Deliverer(deps.database, deps.vault, deps.addresses, lambda: self._id, self._busy)

    @property
    def id(self) -> str:
        return self._id

    def start(self) -> None:
        """Register and begin to work. Waits for the database when it is away, and says so."""
        sys.setswitchinterval(SWITCH_S)
        _tame_collector()
        while not self._stopping.is_set():
            try:
                self._pauses.load()
                self._register()
                break
            except Unavailable as exc:
                reason = "; ".join(filter(None, [str(exc), self._settings.unnamed_database]))
                events.emit("worker.waiting", level="warning", reason=reason)
                self._outage.silent()
                self._stopping.wait(1.0)
        self._outage.heard(clock.monotonic_s())
        self._try_replay()  # before a sweep gives back what it is about
        self.engine.start(self._open)
        dog = Watchdog(self.engine, self._deps.database, poll_s=self._settings.poll_s)
        look_outs: list[tuple[str, float, Callable[[], None], threading.Event | None]] = [
            ("heartbeat", self._settings.heartbeat_s, self._beat, None),
            ("cancels", CANCEL_LOOK_S, self._look_for_cancels, None),
            ("sweep", self._sweep_s, self._sweep, None),
            ("spool", self._settings.poll_s, self._replay, None),
            ("pauses", LOOK_S, self._look_at_pauses, self._pauses.stirred),
            ("loop", watchdog.LOOK_S, self._unless_stopping(dog.look_at_loop), None),
            ("lanes", watchdog.LOOK_S, self._unless_stopping(dog.look_at_lanes), None),
        ]
        if self._settings.webhooks:
            self._deliverer.start()
            if self._deps.addresses.private:
                networks = [str(network) for network in self._deps.addresses.private]
                events.emit("webhooks.private_networks", networks=networks)
            look_outs.append(("outbox", deliver.LOOK_S, self._tell, None))
        for name, every_s, work, called in look_outs:
            thread = threading.Thread(
                target=self._every, args=(every_s, work, called), name=f"completar-{name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        if self._settings.broker is None and self._deps.database.dialect == "postgresql":
            threading.Thread(
                target=notices.listen,
                args=(self._deps.database, self.engine.wake, self._stopping),
                name="completar-notices",
                daemon=True,
            ).start()
        if self._keeper is not None:
            self._keeper.start()
        events.emit("worker.started", worker_id=self._id, lanes=[lane.value for lane in self._settings.lanes])

    def stop(self) -> None:
        """Drain and leave: within `drain_s`, less a moment to put on record what was hung up on."""
        if self._stopping.is_set():
            return
        events.emit("worker.draining", worker_id=self._id)
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.stop()
        grace_s = self._settings.drain_s - min(RECORD_S, self._settings.drain_s / 3)
        ending = threading.Thread(target=self._deliverer.stop, args=(grace_s,), name="completar-webhooks-end")
        ending.start()
        self.engine.drain(grace_s)
        ending.join()
        self._drained.set()
        self._pauses.stirred.set()
        self._try_replay()
        for thread in self._threads:
            thread.join(2.0)
        try:
            self._pauses.turn(probes=False)  # what the last calls met
            with self._deps.database.write() as conn:
                workers.leave(conn, self._id)
        except Unavailable:  # the sweep of another worker finds the row stale
            pass
        events.emit("worker.stopped", worker_id=self._id)

    def _register(self) -> None:
        began_s = clock.monotonic_s()
        with self._deps.database.write() as conn:
            workers.register(
                conn,
                worker_id=self._id,
                host=socket.gethostname(),
                pid=os.getpid(),
                lanes=[lane.value for lane in self._settings.lanes],
                release=RELEASE,
            )
            self._live = workers.living(conn, self._settings.lease_s)
        self._beaten_s = began_s

    def _fresh(self) -> bool:
        """Whether nobody can have taken back our claims yet, by our own steady clock. Two beats are always enough."""
        lease_s = self._settings.lease_s
        bound_s = max(FRESH * lease_s, min(lease_s, 2 * self._settings.heartbeat_s))
        return clock.monotonic_s() - self._beaten_s < bound_s

    async def _open(self, engine: Engine) -> tuple[Run, Callable[[], Awaitable[None]]]:
        """On the loop: what every job is run with."""
        catalog = self._deps.catalog
        rates = {
            name: Rates(**asdict(limits)) for spec in catalog.providers.values() for name, limits in spec.limited()
        }
        sleepers = [spec.name for spec in catalog.providers.values() if spec.format in SLEEPING]
        redis_url = self._settings.broker
        shared = Shared(redis_url.get_secret_value(), lambda: self._id) if redis_url is not None else None
        self._gate = gate = Gate(rates, sleepers, slots=self._settings.slots, shared=shared)
        gate.live = self._live
        await gate.start()
        self._pauses.connect(gate)
        transport = Transport()
        bench = Bench(engine, catalog, gate, transport, self._settings.max_answer_bytes)

        async def close() -> None:
            await gate.close()
            await transport.aclose()

        def start(held: Held, control: Control) -> Awaitable[None]:
            return (predict if held.job.kind == "prediction" else run)(bench, held, control)

        return start, close

    def _every(self, seconds: float, work: Callable[[], None], called: threading.Event | None) -> None:
        """Work each so many seconds, and when it is called; until the end of the drain."""
        while True:
            (self._drained if called is None else called).wait(seconds * (0.9 + 0.2 * clock.draw()))
            if self._drained.is_set():
                return
            if called is not None:
                called.clear()
            try:
                work()
            except Unavailable:  # said by those who wait for it
                continue
            except Exception as exc:  # noqa: BLE001 - a look-out that dies is never missed until it is needed
                events.emit("worker.fault", level="error", work=work.__name__, **events.fault(exc))

    def _unless_stopping(self, look: Callable[[], None]) -> Callable[[], None]:
        @wraps(look)
        def looked() -> None:
            if not self._stopping.is_set():
                look()

        return looked

    def _look_at_pauses(self) -> None:
        self._pauses.turn(probes=not self._stopping.is_set())

    def _beat(self) -> None:
        report = self.engine.report()
        if self._gate is not None:
            report |= self._gate.report(clock.monotonic_s())
        began_s = clock.monotonic_s()
        try:
            with self._deps.database.write() as conn:
                alive = workers.beat(conn, self._id, report)
                passed_on = alive or self._id not in workers.dead_holders(conn)
                self._live = workers.living(conn, self._settings.lease_s)
        except Unavailable:
            self._outage.silent()
            raise
        self._outage.heard(clock.monotonic_s())
        if self._gate is not None:
            self._gate.live = self._live
        if alive:
            self._beaten_s = began_s
        elif passed_on:
            # We were away for longer than the lease: what we held has passed on, and its late writes are refused.
            # Not before: a call begun under a claim that is about to be taken back would be made twice.
            events.emit("worker.declared_dead", level="warning", worker_id=self._id)
            self._id = clock.new_id("wrk")
            self._register()

    def _look_for_cancels(self) -> None:
        with self._deps.database.read() as conn:
            ids = jobs.cancelling(conn, self._id)
        if ids:
            self.engine.cancel(ids)

    def _busy(self) -> bool:
        return bool(sum(self.engine.report()["in_flight"].values()) >= BUSY)

    def _tell(self) -> None:
        """All notes; slowly while many calls are in flight, since jobs come first and the notes are safe."""
        while not self._stopping.is_set():
            begun_s = clock.monotonic_s()
            if tell(self._deps.database) < BLOCK:
                return
            if self._busy():
                self._stopping.wait(YIELD * (clock.monotonic_s() - begun_s))

    def _sweep(self) -> None:
        sweeping.sweep(
            self._deps.database,
            self._id,
            lease_s=self._settings.lease_s,
            every_s=self._sweep_s,
            retention_s=self._settings.retention_days * 86400.0,
            buries=self._outage.over(clock.monotonic_s()),
        )

    def _replay(self) -> None:
        if replay(self._deps.database, self._spool):
            self.engine.writer.returned()

    def _try_replay(self) -> None:
        try:
            replay(self._deps.database, self._spool)
        except Unavailable:  # at the next start, or as soon as the database is back
            pass
        except Exception as exc:  # noqa: BLE001 - whatever lies in the spool, the worker starts and stops
            events.emit("worker.fault", level="error", work="replay", **events.fault(exc))


def _tame_collector() -> None:
    """Calls in flight are a large young heap: walking it over and over took a quarter of the worker's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
