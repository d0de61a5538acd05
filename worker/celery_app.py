"""Celery as a doorbell: small messages with ids, delivered fast, safe to lose, to repeat and to reorder.

Why each setting is as it is: docs/architecture.md, "Engine".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Final, NoReturn

from celery import Celery, signals
from kombu import Queue
from kombu.exceptions import OperationalError

from worker import events
from worker.deps import HintsKind, build, said_at_start
from worker.domain.failure import Lane
from worker.services.flavour import discovered
from worker.services.hints import NoHints
from worker.services.last_exit import be_gone_in
from worker.services.watchdog import EXIT_CODE
from worker.services.worker import Worker
from worker.settings import Fault, Settings, SettingsError, read

RUN_JOBS: Final = "completar.run_jobs"
DRAIN: Final = "completar.drain"
# To the database, of a worker. Its fifteen threads share them and hold one for a transaction at a time: two that write,
# two that claim, two of webhooks, one each for heartbeat, cancels, sweep, spool, pauses, lanes, outbox and batches, and
# one that listens where there is no broker, which keeps its own.
CONNECTIONS: Final = 9
UNFIT: Final = 78  # exit code, of sysexits.h: the settings are wrong
PUBLISH_S: Final = 0.5  # the caller waits for its 202, not for the broker
LOOK_EVERY: Final = 1_000  # hints, between two looks at how many nobody has taken
UNHEARD: Final = 10_000  # so many of a lane are thrown away: its rows are found without them
# One try: kombu would rest for 2 s and try again.
_AT_ONCE: Final[dict[str, Any]] = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def make_celery(redis_url: str | None, queues: Iterable[str] = ()) -> Celery:
    """`queues` are those that a worker made of this app consumes. Without a broker nothing ever comes in them, and
    Celery only starts and ends the process.
    """
    app = Celery("completar", broker=redis_url or "memory://", include=["worker.tasks"], set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=Lane.INTERACTIVE.value,
        task_create_missing_queues=True,
        task_queues=[Queue(name) for name in queues] or None,
        task_store_eager_result=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=PUBLISH_S,
        broker_pool_limit=10,
        # A message is only a hint, so it need not be remembered until it is acknowledged: twice the throughput.
        broker_transport_options={
            "ack_emulation": False,
            "global_keyprefix": "completar:",
            "socket_connect_timeout": PUBLISH_S,
            "socket_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class CeleryHints:
    """Publishes hints. While the broker is away one costs at most PUBLISH_S, and then none is tried for a second."""

    kind: HintsKind = "redis"

    def __init__(self, app: Celery) -> None:
        # A broker that is there and silent (frozen, or cut off without a word) holds the caller no longer than one
        # that refuses: posts took 5 s then.
        silent = {"socket_timeout": PUBLISH_S}
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **_AT_ONCE, **silent}
        self._app = app
        self._quiet = threading.Event()
        self._published = count(1)

    def jobs(self, ids: Sequence[str]) -> None:
        self._publish(RUN_JOBS, Lane.INTERACTIVE, [list(ids)])

    def lane(self, lane: Lane) -> None:
        self._publish(DRAIN, lane, [lane.value])

    def alive(self) -> bool:
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(timeout=1, **_AT_ONCE)
        except Exception:  # noqa: BLE001 - whatever is wrong, it is not alive
            return False
        return True

    def _publish(self, name: str, lane: Lane, args: list[Any]) -> None:
        if self._quiet.is_set():
            return
        try:
            self._app.send_task(
                name, args=args, queue=lane.value, retry=False, ignore_result=True, argsrepr="", kwargsrepr=""
            )
        except (OperationalError, OSError):
            self._quiet.set()
            timer = threading.Timer(1.0, self._quiet.clear)
            timer.daemon = True
            timer.start()
            raise
        if next(self._published) % LOOK_EVERY == 0:
            self._look(lane)

    def _look(self, lane: Lane) -> None:
        """Workers that have no REDIS_URL take none, and Redis grew with every job until it was full."""
        with self._app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            waiting = channel.queue_declare(queue=lane.value).message_count
            if waiting > UNHEARD:
                channel.queue_purge(queue=lane.value)
                events.emit("hints.unheard", level="warning", lane=lane.value, hints=waiting)


class Process:
    """The Worker of this process, once Celery has started it."""

    def __init__(self, settings: Settings, faults: Sequence[Fault] = ()) -> None:
        """`faults` end it when it is started: an exception while Celery imports us is a traceback, and exit code 1."""
        self._settings = settings
        self._faults = faults
        self._draining: threading.Thread | None = None
        self.worker: Worker | None = None

    def start(self, **_kw: Any) -> None:
        """Ends the process where it cannot begin: Celery logs what its signals raise and goes on, so that a service
        was there that looked well, took every hint and did nothing.
        """
        events.configure(self._settings.log_level)
        if self._faults:
            _end(UNFIT, faults=[str(fault) for fault in self._faults])
        try:
            deps = build(discovered(self._settings), NoHints(), connections=CONNECTIONS, pings=False)
            for warning in said_at_start(self._settings, deps.catalog):
                events.emit("configuration.warning", level="warning", reason=warning)
            self.worker = Worker(deps)
            self.worker.start()
        except SettingsError as error:
            _end(UNFIT, faults=[str(fault) for fault in error.faults])
        except Exception as exc:  # noqa: BLE001 - whatever it is, there is no worker
            _end(EXIT_CODE, **events.fault(exc))

    def begin_drain(self, **_kw: Any) -> None:
        """SIGTERM, in Celery's signal handler: only set things going. Whatever hangs, the process ends in time."""
        if self._draining is None and self.worker is not None:
            self._draining = threading.Thread(target=self._drain, name="completar-drain")
            self._draining.start()
            be_gone_in(self._settings.drain_s)

    def end_drain(self, **_kw: Any) -> None:
        self.begin_drain()
        if self._draining is not None:
            self._draining.join()

    def _drain(self) -> None:
        assert self.worker is not None
        self.worker.stop()


def _end(code: int, **why: Any) -> NoReturn:
    events.emit("worker.not_started", level="error", exit_code=code, **why)
    os._exit(code)  # threads may run already, and Celery would take an exception for one of a signal's


def _make() -> tuple[Celery, Process]:
    settings, faults = read(os.environ)
    made = Process(settings, faults)
    signals.setup_logging.connect(lambda **_kw: None, weak=False)
    signals.worker_init.connect(made.start, weak=False)
    signals.worker_shutting_down.connect(made.begin_drain, weak=False)
    signals.worker_shutdown.connect(made.end_drain, weak=False)
    broker = settings.broker.get_secret_value() if settings.broker is not None else None
    # A worker that took the hints of a lane it does not serve would swallow them.
    return make_celery(broker, sorted(lane.value for lane in settings.lanes)), made


app, process = _make()
