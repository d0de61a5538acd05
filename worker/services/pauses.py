"""Pauses of the fleet: what a process saw is written, what others wrote is mirrored, due probes are sent out, and jobs
whose pause has ended are woken.

One round for the whole process each LOOK_S, and at once when something happened here. A million parked jobs cost it
nothing: of a pause that holds only the row is read, and a probe takes one job out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from worker import clock, events
from worker.domain.failure import Lane
from worker.domain.pause import Cause, Pause, PauseKind, Scope, ids_in, is_replaced, probe_after_s
from worker.engine.engine import Engine
from worker.engine.held import Held
from worker.limits.gate import Gate
from worker.limits.pauses import Answered, Due, News
from worker.store import attempts, parked, pauses
from worker.store.database import Database, Unavailable

LOOK_S: Final = 0.6
HEARD_S: Final = 0.8  # after its end every process has heard of it: jobs that are woken earlier would be parked again
WOKEN: Final = 2_000  # per mark and round: more than a worker ends meanwhile, and few if the pause comes back
YIELD_S: Final = 1.5  # two rounds: another worker may have the leave to probe what stands beside a pause
STRAYS: Final = 50  # rounds from one look for parked jobs that no pause holds to the next

_Marks = Sequence[tuple[str, Lane]]
_Wish = Literal["open", "close"]


class PauseWatch:
    """One per worker process. `load` before the engine starts, `connect` on its loop, then `turn` from one thread."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        lanes: Collection[Lane],
        worker_id: Callable[[], str],
        tags: Mapping[tuple[str, str], str],
    ) -> None:
        """`tags` of the keys there are, by provider and name."""
        self.stirred: Final = threading.Event()  # there is something to write
        self._database = database
        self._engine = engine
        self._lanes = tuple(lanes)
        self._worker_id = worker_id
        self._tags = tags
        self._round = 0
        self._gate: Gate | None = None
        self._known: Sequence[Pause] = ()
        self._missing: dict[str, float] = {}  # what jobs wait for and is not on record, since when
        self._wished: dict[str, tuple[_Wish, datetime]] = {}

    def load(self) -> None:
        """What holds as the process starts, so that its first call knows. Raises Unavailable.

        A key that was replaced meanwhile is no longer the one that was refused: who waited for it goes on.
        """
        with self._database.write() as conn:
            for pause in pauses.holding(conn):
                if is_replaced(pause.scope, self._tags) and pauses.end(conn, pause.scope):
                    events.emit("pause.ended", of=str(pause.scope), by="a new key")
            self._known = pauses.current(conn)

    def connect(self, gate: Gate) -> None:
        """On the loop, before the first claim."""
        gate.pauses.mirror(self._known, 0, clock.monotonic_s())
        gate.pauses.stir = self.stirred.set
        self._gate = gate
        for target, to in self._wishes(self._known):
            gate.force(target, to)

    def turn(self, *, probes: bool = True) -> None:
        """One round; without `probes` no job is taken on. Raises Unavailable: the news are kept for the next round."""
        gate = self._gate
        if gate is None:
            return
        news = list(gate.pauses.news)
        self._write(news)
        for _ in news:
            gate.pauses.news.popleft()
        with self._database.read() as conn:
            found = pauses.current(conn)
            self._round += 1
            # Where nothing is paused nothing is parked either, unless all workers were away when the last pause ended.
            marks = parked.marks(conn) if found or self._missing or self._round % STRAYS == 1 else []
        self._engine.on_loop(_mirror, gate, found, news[-1].number if news else 0)
        for target, to in self._wishes(found):
            self._engine.on_loop(gate.force, target, to)
        self._wake(found, marks)
        if probes:
            asked = {one.what.scope for one in news if isinstance(one.what, Due)}
            due = [pause for pause in found if _due(pause, asked, marks, self._lanes)]
            self._probe(gate, [pause for pause in due if not _yields(pause, found, gate)], marks)

    def _write(self, news: Sequence[News]) -> None:
        """In the order of their scopes: of two processes that write the same ones neither waits for the other."""
        told = [one.what for one in news if not isinstance(one.what, Due)]
        if not told:
            return
        with self._database.write() as conn:
            for what in sorted(told, key=lambda what: what.scope.id):
                if isinstance(what, Answered):
                    if pauses.end(conn, what.scope):
                        events.emit("pause.ended", of=str(what.scope), by="probe")
                else:
                    pauses.begin(conn, what)
        for what in told:
            if isinstance(what, Cause):
                events.emit("pause.seen", level="warning", of=str(what.scope), kind=what.kind.value)

    def _probe(self, gate: Gate, due: Sequence[Pause], marks: _Marks) -> None:
        for pause in due:
            next_s = probe_after_s(pause.kind, pause.probes + 1)
            claim_id = clock.new_id("clm")
            held: Held | None = None
            try:
                with self._database.write() as conn:
                    if not pauses.take_probe(conn, pause, next_s):
                        continue
                    mine = {mark for mark, _ in marks if pause.scope.id in ids_in(mark)}
                    job = parked.claim_one(conn, mine, self._lanes, worker_id=self._worker_id(), claim_id=claim_id)
                    if job is not None:
                        held = Held(job, attempts.of_jobs(conn, [job.id])[job.id])
            except Unavailable:
                self._engine.doubt(claim_id)
                raise
            events.emit("pause.probed", of=str(pause.scope), probe=pause.probes + 1, next_s=next_s)
            self._engine.on_loop(gate.pauses.grant, pause.scope, clock.monotonic_s() + next_s)
            if held is not None:
                self._engine.adopt(held)

    def _wake(self, found: Sequence[Pause], marks: _Marks) -> None:
        """Jobs that wait for several pauses go on with the first that ends.

        What is not on record ended long ago, or the process that saw it has yet to write it: the job may be parked
        first, and was once woken only to be parked again.
        """
        now_s = clock.monotonic_s()
        holding = {pause.scope.id for pause in found if pause.over_s is None or pause.over_s < HEARD_S}
        missing = {one for mark, _ in marks for one in ids_in(mark)}.difference(pause.scope.id for pause in found)
        self._missing = {one: self._missing.get(one, now_s) for one in missing}
        holding.update(one for one, since_s in self._missing.items() if now_s - since_s < HEARD_S)
        woken: set[Lane] = set()
        for mark, lane in marks:
            if all(one in holding for one in ids_in(mark)):
                continue
            with self._database.write() as conn:
                if parked.wake(conn, mark, lane, WOKEN):
                    woken.add(lane)
        for lane in woken:
            self._engine.wake(lane)

    def _wishes(self, found: Sequence[Pause]) -> list[tuple[str, _Wish | None]]:
        """What people want of circuit breakers and the gate has not been told yet."""
        wishes: dict[str, tuple[_Wish, datetime]] = {}
        for pause in found:
            if pause.scope.covers == "target" and pause.kind is PauseKind.OPERATOR:
                over = pause.closed_at
                wishes[pause.scope.name] = ("open", pause.since_at) if over is None else ("close", over)
        told, self._wished = self._wished, wishes
        lost: list[tuple[str, _Wish | None]] = [
            (t, None) for t, (to, _) in told.items() if t not in wishes and to == "open"
        ]
        return lost + [(t, wish[0]) for t, wish in wishes.items() if told.get(t) != wish]


def _mirror(gate: Gate, found: Sequence[Pause], number: int) -> None:
    gate.pauses.mirror(found, number, clock.monotonic_s())


def _yields(pause: Pause, found: Sequence[Pause], gate: Gate) -> bool:
    """Whether another worker should go first. Where a key is refused and its account is spent, a call must pass both:
    whoever may probe the one, and has not, is to probe the other too.
    """
    if pause.wait_s <= -YIELD_S or gate.pauses.may_probe(pause.scope.provider):
        return False
    beside = (other for other in found if other.over_s is None and other.scope != pause.scope)
    return any(o.scope.provider == pause.scope.provider and o.probes > 0 and o.wait_s > 0.0 for o in beside)


def _due(pause: Pause, asked: Collection[Scope], marks: _Marks, lanes: Collection[Lane]) -> bool:
    """Whether it is time to look, and somebody here has a use for it."""
    if pause.over_s is not None or pause.wait_s > 0.0:
        return False
    waiting = any(lane in lanes and pause.scope.id in ids_in(mark) for mark, lane in marks)
    return waiting or pause.scope in asked
