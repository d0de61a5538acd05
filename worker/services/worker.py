"""A worker process: its row and heartbeat, its engine, its look-outs, its end."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final

from worker import clock, events
from worker.deps import Deps
from worker.engine.control import Control
from worker.engine.engine import Engine, Held, Run
from worker.limits.gate import Gate, Rates
from worker.providers.formats import SLEEPING
from worker.providers.transport import Transport
from worker.services import sweep as sweeping
from worker.services import watchdog
from worker.services.course import Bench
from worker.services.pauses import LOOK_S, PauseWatch
from worker.services.predict import predict
from worker.services.run import run
from worker.services.watchdog import Watchdog
from worker.store import jobs, notices, workers
from worker.store.database import Unavailable

RELEASE: Final = "0.1.0"
CANCEL_LOOK_S: Final = 0.4  # a cancelled job starts no call in any case; this is when it hears of it
SWEEP_S: Final = 3.0
RECORD_S: Final = 1.0  # at the end of a drain, for the writes of the calls that were hung up on
# The loop's thread competes with the database threads for the interpreter; the default of 5 ms is a long wait for it.
SWITCH_S: Final = 0.001


class Worker:
    """`start()`, then `stop()` once. Thread-safe."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._settings = deps.settings
        self._id = clock.new_id("wrk")
        self._sweep_s = min(SWEEP_S, self._settings.lease_s / 3)
        self._gate: Gate | None = None
        self._stopping = threading.Event()
        self._drained = threading.Event()  # until then it beats: a drain may last longer than the lease
        self._threads: list[threading.Thread] = []
        self.engine = Engine(
            deps.database,
            lanes=self._settings.lanes,
            slots=self._settings.slots,
            poll_s=self._settings.poll_s,
            worker_id=lambda: self._id,
        )
        tags = {(spec.name, key.name): key.tag for spec in deps.catalog.providers.values() for key in spec.keys}
        self._pauses = PauseWatch(deps.database, self.engine, self._settings.lanes, lambda: self._id, tags)

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
                events.emit("worker.waiting", level="warning", reason=str(exc))
                self._stopping.wait(1.0)
        self.engine.start(self._open)
        dog = Watchdog(self.engine, self._deps.database, poll_s=self._settings.poll_s)
        for name, every_s, work, called in (
            ("heartbeat", self._settings.heartbeat_s, self._beat, None),
            ("cancels", CANCEL_LOOK_S, self._look_for_cancels, None),
            ("sweep", self._sweep_s, self._sweep, None),
            ("pauses", LOOK_S, self._look_at_pauses, self._pauses.stirred),
            ("loop", watchdog.LOOK_S, self._unless_stopping(dog.look_at_loop), None),
            ("lanes", watchdog.LOOK_S, self._unless_stopping(dog.look_at_lanes), None),
        ):
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
        events.emit("worker.started", worker_id=self._id, lanes=[lane.value for lane in self._settings.lanes])

    def stop(self) -> None:
        """Drain and leave: within `drain_s`, less a moment to put on record what was hung up on."""
        if self._stopping.is_set():
            return
        events.emit("worker.draining", worker_id=self._id)
        self._stopping.set()
        self.engine.drain(self._settings.drain_s - min(RECORD_S, self._settings.drain_s / 3))
        self._drained.set()
        self._pauses.stirred.set()
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
        with self._deps.database.write() as conn:
            workers.register(
                conn,
                worker_id=self._id,
                host=socket.gethostname(),
                pid=os.getpid(),
                lanes=[lane.value for lane in self._settings.lanes],
                release=RELEASE,
            )

    async def _open(self, engine: Engine) -> tuple[Run, Callable[[], Awaitable[None]]]:
        """On the loop: what every job is run with."""
        catalog = self._deps.catalog
        rates = {
            spec.name: Rates(spec.limits.rpm, spec.limits.tpm, spec.limits.concurrency)
            for spec in catalog.providers.values()
        }
        sleepers = [spec.name for spec in catalog.providers.values() if spec.format in SLEEPING]
        self._gate = Gate(rates, sleepers)
        self._pauses.connect(self._gate)
        transport = Transport()
        bench = Bench(engine, catalog, self._gate, transport, self._settings.max_answer_bytes)

        def start(held: Held, control: Control) -> Awaitable[None]:
            return (predict if held.job.kind == "prediction" else run)(bench, held, control)

        return start, transport.aclose

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
                events.emit("worker.fault", level="error", where=work.__name__, error=repr(exc)[:300])

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
        with self._deps.database.write() as conn:
            alive = workers.beat(conn, self._id, report)
        if not alive:
            # We were away for longer than the lease: what we held has passed on, and its late writes are refused.
            events.emit("worker.declared_dead", level="warning", worker_id=self._id)
            self._id = clock.new_id("wrk")
            self._register()

    def _look_for_cancels(self) -> None:
        with self._deps.database.read() as conn:
            ids = jobs.cancelling(conn, self._id)
        if ids:
            self.engine.cancel(ids)

    def _sweep(self) -> None:
        sweeping.sweep(
            self._deps.database,
            self._id,
            lease_s=self._settings.lease_s,
            every_s=self._sweep_s,
            retention_s=self._settings.retention_days * 86400.0,
        )


def _tame_collector() -> None:
    """Calls in flight are a large young heap: walking it over and over took a quarter of the worker's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
