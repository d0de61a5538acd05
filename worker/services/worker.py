"""A worker process: its row and heartbeat, its engine, its look-outs, its end."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from worker import clock, events
from worker.deps import Deps
from worker.engine.engine import Engine, Run
from worker.limits.gate import Gate, Rates
from worker.providers.formats import SLEEPING
from worker.providers.transport import Transport
from worker.services import sweep as sweeping
from worker.services.course import Bench
from worker.services.deliver import LOOK_S, Deliverer
from worker.services.run import run
from worker.services.tell import BLOCK, tell
from worker.store import jobs, workers
from worker.store.database import Unavailable

RELEASE: Final = "0.1.0"
CANCEL_LOOK_S: Final = 0.5
SWEEP_S: Final = 3.0
# The loop's thread competes with the database threads for the interpreter; the default of 5 ms is a long wait for it.
SWITCH_S: Final = 0.001
BUSY: Final = 100  # calls in flight with which webhooks give way to jobs
YIELD: Final = 16.0  # telling then rests so many times as long as a block of notes took


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
                self._register()
                break
            except Unavailable as exc:
                events.emit("worker.waiting", level="warning", reason=str(exc))
                self._stopping.wait(1.0)
        self.engine.start(self._open)
        look_outs = [
            ("heartbeat", self._settings.heartbeat_s, self._beat),
            ("cancels", CANCEL_LOOK_S, self._look_for_cancels),
            ("sweep", self._sweep_s, self._sweep),
        ]
        if self._settings.webhooks:
            self._deliverer.start()
            if self._deps.addresses.private:
                networks = [str(network) for network in self._deps.addresses.private]
                events.emit("webhooks.private_networks", networks=networks)
            look_outs.append(("outbox", LOOK_S, self._tell))
        for name, every_s, work in look_outs:
            thread = threading.Thread(target=self._every, args=(every_s, work), name=f"completar-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        events.emit("worker.started", worker_id=self._id, lanes=[lane.value for lane in self._settings.lanes])

    def stop(self) -> None:
        """Drain and leave: within `drain_s`, less a second to be gone before the platform kills us."""
        if self._stopping.is_set():
            return
        events.emit("worker.draining", worker_id=self._id)
        self._stopping.set()
        grace_s = max(0.0, self._settings.drain_s - 1.0)
        ending = threading.Thread(target=self._deliverer.stop, args=(grace_s,), name="completar-webhooks-end")
        ending.start()
        self.engine.drain(grace_s)
        ending.join()
        self._drained.set()
        for thread in self._threads:
            thread.join(2.0)
        try:
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
        transport = Transport()
        bench = Bench(engine, catalog, self._gate, transport, self._settings.max_answer_bytes)
        return lambda held, control: run(bench, held, control), transport.aclose

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        while not self._drained.wait(seconds * (0.9 + 0.2 * clock.draw())):
            try:
                work()
            except Unavailable:  # said by those who wait for it
                continue
            except Exception as exc:  # noqa: BLE001 - a look-out that dies is never missed until it is needed
                events.emit("worker.fault", level="error", where=work.__name__, error=repr(exc)[:300])

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
        )


def _tame_collector() -> None:
    """Calls in flight are a large young heap: walking it over and over took a quarter of the worker's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
