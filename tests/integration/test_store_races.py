"""Every guarded move of the store meets every move that can come between: two connections, one row.

The first connection makes its move and does not commit. The second makes the other one, and is seen to wait for the
row (or, where the statement skips locked rows, not to wait). The first commits; what the second then finds is the test.
On SQLite the second waits at BEGIN IMMEDIATE, and must come to the same end.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Final

import pytest
import sqlalchemy as sa

from tests.support.wait import wait_until
from worker import clock
from worker.domain.budget import Settled
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import SUSPECT_FROM, AttemptRow, Claimed, Ending, NewJob, Return
from worker.domain.money import Usage
from worker.domain.pause import Cause, PauseKind, Scope
from worker.domain.state import AttemptState, JobStatus
from worker.engine import writer
from worker.engine.writer import Entry, OverBudget
from worker.store import (
    attempts,
    backlog,
    budgets,
    claims,
    deaths,
    endings,
    idempotency,
    jobs,
    keys,
    leases,
    new_jobs,
    notices,
    open_lines,
    orphans,
    parked,
    pauses,
    projects,
    settling,
    usage,
    views,
    workers,
)
from worker.store.database import Database, Unavailable
from worker.store.moment import later
from worker.store.orphans import TakenBack
from worker.store.settling import Settle
from worker.store.tables import api_key, job, worker
from worker.store.tables import pause as paused

S = JobStatus
PROJECT = "proj_a"
WORKER = "wrk_1"
DONE: Final = Ending(S.COMPLETED, result='{"text":"done"}')
NOTHING: Final = TakenBack(0, 0, 0)
SPENT: Final = Scope("account", "a", "acme")


@dataclass
class Ground:
    """One job, `held` where it is claimed, with a call that has left where `call` is set."""

    database: Database
    job_id: str = ""
    held: Claimed | None = None
    call: AttemptRow | None = None
    key_id: str | None = None
    version: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def claim(self) -> Claimed:
        assert self.held is not None
        return self.held

    def row(self) -> Any:
        with self.database.read() as conn:
            return conn.execute(sa.select(job).where(job.c.id == self.job_id)).one()

    def attempts(self) -> list[AttemptRow]:
        with self.database.read() as conn:
            return [past.row for past in attempts.of_jobs(conn, [self.job_id])[self.job_id]]

    def pause(self) -> Any:
        with self.database.read() as conn:
            return conn.execute(sa.select(paused).where(paused.c.id == SPENT.id)).one()

    def key(self) -> Any:
        with self.database.read() as conn:
            return conn.execute(sa.select(api_key).where(api_key.c.id == self.key_id)).one()


Move = Callable[[sa.Connection, Ground], Any]
Check = Callable[[Ground], object]


# -- the moves, as both sides make them --------------------------------------------------------------------------


def claim(conn: sa.Connection, g: Ground) -> list[str]:
    return [j.id for j in claims.claim(conn, [g.job_id], worker_id="wrk_2", claim_id="clm_2")]


def claim_block(conn: sa.Connection, g: Ground) -> list[str]:
    return [j.id for j in claims.claim_block(conn, Lane.BATCH, 10, worker_id="wrk_2", claim_id="clm_2")]


def claim_suspect(conn: sa.Connection, g: Ground) -> list[str]:
    found = claims.claim_suspect(conn, list(Lane), worker_id="wrk_2", claim_id="clm_2")
    return [] if found is None else [found.id]


def claimable(conn: sa.Connection, g: Ground) -> bool:
    return claims.claimable(conn, Lane.BATCH)


def complete(conn: sa.Connection, g: Ground) -> set[str]:
    return settling.settle(conn, [Settle(g.job_id, g.claim.claim_id, DONE, calls=1, rows=1)])


def pass_over(conn: sa.Connection, g: Ground) -> list[bool | Exception]:
    """An end that also puts a target on record which was passed over."""
    skip = AttemptRow(clock.new_id("att"), g.job_id, g.claim.claim_id, 2, AttemptState.SKIPPED, "b/m", "b", "m")
    move = Settle(g.job_id, g.claim.claim_id, DONE, calls=1, rows=2)
    return writer.store(conn, [Entry(g.job_id, g.claim.claim_id, begin=[skip], settle=move)])


def park(conn: sa.Connection, g: Ground) -> set[str]:
    return settling.settle(conn, [Settle(g.job_id, g.claim.claim_id, Return(600.0))])


def cancel(conn: sa.Connection, g: Ground) -> JobStatus | None:
    return jobs.cancel(conn, PROJECT, g.job_id)


def take_back(conn: sa.Connection, g: Ground) -> TakenBack:
    return orphans.take_back(conn, WORKER)


def disown(conn: sa.Connection, g: Ground) -> int:
    return settling.disown(conn, WORKER, ["clm_1"])


def take_over(conn: sa.Connection, g: Ground) -> list[bool | Exception]:
    """The worker is dead, and another has the job and asks again."""
    orphans.take_back(conn, WORKER)
    (again,) = claims.claim(conn, [g.job_id], worker_id="wrk_2", claim_id="clm_2")
    row = AttemptRow(clock.new_id("att"), g.job_id, again.claim_id, 2, AttemptState.SENT, "a/m", "a", "m")
    return writer.store(conn, [Entry(g.job_id, again.claim_id, begin=[row])])


def mark_anew(conn: sa.Connection, g: Ground) -> list[bool | Exception]:
    row = AttemptRow(clock.new_id("att"), g.job_id, "clm_2", 2, AttemptState.SENT, "a/m", "a", "m")
    return writer.store(conn, [Entry(g.job_id, "clm_2", begin=[row])])


def expire(conn: sa.Connection, g: Ground) -> int:
    return jobs.expire(conn)


def purge(conn: sa.Connection, g: Ground) -> int:
    return jobs.purge(conn, -1.0)


def still_ours(conn: sa.Connection, g: Ground) -> set[str]:
    return claims.still_ours(conn, [(g.job_id, g.claim.claim_id)])


def mark(conn: sa.Connection, g: Ground) -> list[bool | Exception]:
    row = AttemptRow(
        clock.new_id("att"), g.job_id, g.claim.claim_id, 2, AttemptState.SENT, "a/m", "a", "m", held_nano=40
    )
    return writer.store(conn, [Entry(g.job_id, g.claim.claim_id, begin=[row], budget_key=g.key_id)])


def mark_at_once(conn: sa.Connection, g: Ground) -> set[str]:
    """As most are: nobody's budget is asked."""
    return attempts.mark(
        conn, [AttemptRow(clock.new_id("att"), g.job_id, g.claim.claim_id, 2, AttemptState.SENT, "a/m", "a", "m")]
    )


def answer(conn: sa.Connection, g: Ground) -> list[bool | Exception]:
    """The whole transaction of a good end: the move, the call closed, the books."""
    assert g.call is not None
    closed = replace(g.call, state=AttemptState.ANSWERED, usage=Usage(10, 5), cost_nano=7)
    move = Settle(g.job_id, g.claim.claim_id, DONE, calls=1, rows=1, usage=Usage(10, 5), cost_nano=7)
    entry = Entry(g.job_id, g.claim.claim_id, close=[closed], settle=move, budget_key=g.key_id)
    return writer.store(conn, [entry])


def beat(conn: sa.Connection, g: Ground) -> bool:
    return workers.beat(conn, WORKER, {})


def bury(conn: sa.Connection, g: Ground) -> int:
    return workers.bury(conn, 15.0)


def take_lease(conn: sa.Connection, g: Ground) -> bool:
    g.notes["holders"] = g.notes.get("holders", 0) + 1
    return leases.take(conn, "sweep", f"holder_{g.notes['holders']}", 60.0)


def remember(conn: sa.Connection, g: Ground) -> bool:
    return idempotency.remember(conn, PROJECT, "jobs", "key", "f", [clock.new_id("job")])


def hold(conn: sa.Connection, g: Ground) -> list[bool]:
    assert g.key_id is not None
    return [refusal is None for refusal in budgets.book(conn, (), [(g.key_id, 60)])]


def pay(conn: sa.Connection, g: Ground) -> None:
    assert g.key_id is not None
    budgets.book(conn, [(g.key_id, Settled(0, 60))], ())


def charge_lost(conn: sa.Connection, g: Ground) -> None:
    budgets.charge_lost(conn, [(g.job_id, 40)])


def revoke(conn: sa.Connection, g: Ground) -> bool:
    assert g.key_id is not None
    return keys.revoke(conn, g.key_id)


def wake(conn: sa.Connection, g: Ground) -> int:
    return parked.wake(conn, SPENT.id, Lane.BATCH, 10)


def claim_one(conn: sa.Connection, g: Ground) -> list[str]:
    found = parked.claim_one(conn, [SPENT.id], list(Lane), worker_id="wrk_2", claim_id="clm_2")
    return [] if found is None else [found.id]


def pause(conn: sa.Connection, g: Ground) -> bool:
    pauses.begin(conn, Cause(SPENT, PauseKind.QUOTA, "no money", 600.0))
    return True


def probe(conn: sa.Connection, g: Ground) -> bool:
    (seen,) = g.notes["pauses"]
    return pauses.take_probe(conn, seen, 600.0)


def end_pause(conn: sa.Connection, g: Ground) -> bool:
    return pauses.end(conn, SPENT)


def pause_by_hand(conn: sa.Connection, g: Ground) -> bool:
    pauses.begin_by(conn, SPENT, "the bank called", "key_1")
    return True


def end_by_hand(conn: sa.Connection, g: Ground) -> bool:
    pauses.end_by(conn, SPENT, "key_1")
    return True


def end_all_by_hand(conn: sa.Connection, g: Ground) -> int:
    return pauses.end_all_by(conn, SPENT.provider, "key_1")


def forget_pauses(conn: sa.Connection, g: Ground) -> int:
    return pauses.forget(conn)


def make_key(conn: sa.Connection, g: Ground) -> str:
    return keys.create(conn, PROJECT, "one", secret="ck_the_same")[0].id


def make_project(conn: sa.Connection, g: Ground) -> str:
    return projects.ensure(conn, "the same")


# -- where a race begins -----------------------------------------------------------------------------------------


def queued(database: Database, **more: Any) -> Ground:
    g = Ground(database, clock.new_id("job"))
    fields: dict[str, Any] = {"kind": "completion", "lane": Lane.BATCH, "models": ("default",), "input": {}, **more}
    with database.write() as conn:
        new_jobs.insert(conn, [NewJob(g.job_id, PROJECT, **fields)])
    return g


def late(database: Database) -> Ground:
    return queued(database, deadline_s=-1.0)


def running(database: Database, **more: Any) -> Ground:
    g = queued(database, **more)
    with database.write() as conn:
        workers.register(conn, worker_id=WORKER, host="h", pid=1, lanes=["batch"], release="1")
        (g.held,) = claims.claim(conn, [g.job_id], worker_id=WORKER, claim_id="clm_1")
    return g


def calling(database: Database) -> Ground:
    """A running job of a key with a budget of 100, of which its open call holds 40."""
    with database.write() as conn:
        key, _ = keys.create(conn, PROJECT, "spender", budget_nano=100)
    g = running(database, key_id=key.id)
    g.key_id = key.id
    g.call = AttemptRow(
        clock.new_id("att"), g.job_id, g.claim.claim_id, 1, AttemptState.SENT, "a/m", "a", "m", held_nano=40
    )
    with database.write() as conn:
        assert writer.store(conn, [Entry(g.job_id, g.claim.claim_id, begin=[g.call], budget_key=key.id)]) == [True]
    return g


def buried(database: Database) -> Ground:
    """The worker of a call is dead, its job taken back."""
    g = calling(database)
    with database.write() as conn:
        assert take_back(conn, g) == TakenBack(1, 0, 0)
    return g


def claimed_anew(database: Database) -> Ground:
    """And another worker has it, and has not asked yet."""
    g = buried(database)
    with database.write() as conn:
        assert claim(conn, g) == [g.job_id]
    return g


def suspect(database: Database) -> Ground:
    g = queued(database)
    with database.write() as conn:
        conn.execute(job.update().values(deaths=SUSPECT_FROM))
    return g


def waiting(database: Database) -> Ground:
    """A job that is parked for a spent account."""
    g = running(database)
    with database.write() as conn:
        settling.settle(conn, [Settle(g.job_id, g.claim.claim_id, Return(600.0, SPENT.id))])
    return g


def spent(database: Database) -> Ground:
    """An account whose pause is due for a probe."""
    g = Ground(database)
    with database.write() as conn:
        pause(conn, g)
        conn.execute(paused.update().values(until_at=later(-1.0)))
        g.notes["pauses"] = pauses.current(conn)
    return g


def over_long_ago(database: Database) -> Ground:
    g = spent(database)
    with database.write() as conn:
        conn.execute(paused.update().values(closed_at=later(-3 * 86_400.0)))
    return g


def called(database: Database) -> Ground:
    """A running job whose one call is over and on record, but not yet in the sums."""
    g = running(database)
    row = AttemptRow("att_1", g.job_id, g.claim.claim_id, 1, AttemptState.SENT, "a/m", "a", "m")
    over = AttemptRow(
        "att_1", g.job_id, g.claim.claim_id, 1, AttemptState.FAILED, "a/m", "a", "m", kind=FailureKind.SERVER_ERROR
    )
    with database.write() as conn:
        attempts.begin(conn, [row])
        attempts.close(conn, [over])
    return g


def ended(database: Database) -> Ground:
    g = running(database)
    with database.write() as conn:
        assert complete(conn, g)
    return g


def silent(database: Database) -> Ground:
    g = running(database)
    with database.write() as conn:
        conn.execute(worker.update().values(heartbeat_at=later(-60.0)))
    return g


def with_key(database: Database) -> Ground:
    g = Ground(database)
    with database.write() as conn:
        key, _ = keys.create(conn, PROJECT, "spender", budget_nano=100)
    g.key_id = key.id
    return g


def lease_over(database: Database) -> Ground:
    g = Ground(database)
    with database.write() as conn:
        leases.take(conn, "sweep", "long gone", -1.0)
    return g


# -- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Race:
    """`first` is made and not committed, then `second`; `found` is what `second` must return."""

    start: Callable[[Database], Ground]
    first: Move
    second: Move
    found: Any
    then: Check = lambda _: True
    waits: bool = True  # for the row; False: it skips what is locked, or there is nothing to wait for

    @property
    def name(self) -> str:
        return f"{self.second.__name__}-after-{self.first.__name__}-of-{self.start.__name__}"


def _is(status: JobStatus, version: int | None = None) -> Check:
    def check(g: Ground) -> None:
        row = g.row()
        assert row.status == status
        assert version is None or row.version == version

    return check


def _sums(g: Ground) -> None:
    """What the job says of its calls is what its attempts say."""
    row, calls = g.row(), g.attempts()
    assert row.status == S.COMPLETED
    assert (row.attempts, row.input_tokens, row.cost_nano) == (len(calls), 10, 7)
    assert [call.state for call in calls] == [AttemptState.ANSWERED]
    assert (g.key().held_nano, g.key().spent_nano) == (0, 7)


def _late_answer(g: Ground) -> None:
    """Charged by its cost in place of its hold, kept, and not the result: another call is open."""
    assert (g.row().status, g.row().claim_id) == (S.IN_PROGRESS, "clm_2")
    assert [call.state for call in g.attempts()] == [AttemptState.SUPERSEDED, AttemptState.SENT]
    assert (g.key().held_nano, g.key().spent_nano) == (0, 7)


def _kept_with_the_end(g: Ground) -> None:
    """Paid, kept, and without a say in what has ended otherwise."""
    assert g.row().status == S.CANCELLED
    assert [call.state for call in g.attempts()] == [AttemptState.SUPERSEDED]
    assert (g.key().held_nano, g.key().spent_nano) == (0, 7)


def _paused(kind: PauseKind | None, probes: int = 0) -> Check:
    """None: it is over."""

    def check(g: Ground) -> None:
        row = g.pause()
        assert (row.kind if row.closed_at is None else None) == kind
        assert row.probes == probes

    return check


def _marked_call_is_lost(g: Ground) -> None:
    assert [call.state for call in g.attempts()] == [AttemptState.LOST, AttemptState.LOST]
    assert (g.key().held_nano, g.key().spent_nano) == (0, 80)


def _both_calls_are_lost(g: Ground) -> None:
    assert [call.state for call in g.attempts()] == [AttemptState.LOST, AttemptState.LOST]


def _no_second_call(g: Ground) -> None:
    assert len(g.attempts()) == 1
    assert g.key().held_nano + g.key().spent_nano == 40


def _books(held: int, spent: int) -> Check:
    def check(g: Ground) -> None:
        assert (g.key().held_nano, g.key().spent_nano) == (held, spent)

    return check


def _one_key(g: Ground) -> None:
    with g.database.read() as conn:
        assert len(keys.listed(conn)) == 1


def _counted_once(g: Ground) -> None:
    assert g.row().status == S.COMPLETED
    assert (g.row().attempts, g.row().rows) == (1, len(g.attempts())) == (1, 2)


RACES: Final = (
    # claim: queued -> in_progress
    Race(queued, claim, claim, [], _is(S.IN_PROGRESS, 2)),
    Race(queued, claim_block, claim, [], _is(S.IN_PROGRESS, 2)),
    Race(queued, cancel, claim, [], _is(S.CANCELLED, 2)),
    Race(late, expire, claim, [], _is(S.EXPIRED, 2)),
    Race(running, park, claim, [], _is(S.QUEUED, 3), waits=False),
    Race(queued, claim, claim_block, [], _is(S.IN_PROGRESS, 2), waits=False),
    Race(queued, claim_block, claim_block, [], _is(S.IN_PROGRESS, 2), waits=False),
    Race(queued, cancel, claim_block, [], _is(S.CANCELLED, 2), waits=False),
    # settle: in_progress -> an end, or back
    Race(running, complete, complete, set(), _is(S.COMPLETED, 3)),
    Race(running, park, complete, set(), _is(S.QUEUED, 3)),
    Race(running, take_back, complete, set(), _is(S.QUEUED, 3)),
    Race(running, take_back, park, set(), _is(S.QUEUED, 3)),
    # a late answer: right where nobody has asked again, kept where somebody has
    Race(calling, take_back, answer, [True], _sums),
    Race(calling, take_over, answer, [False], _late_answer),
    Race(claimed_anew, mark_anew, answer, [False], _late_answer),
    Race(buried, cancel, answer, [False], _kept_with_the_end),
    Race(buried, claim, answer, [True], _sums),
    Race(buried, answer, claim, [], _sums),
    Race(claimed_anew, answer, mark_anew, [False], _sums),
    # disown: a claim whose worker does not know of it
    Race(running, disown, disown, 0, _is(S.QUEUED, 3)),
    Race(running, disown, still_ours, set(), _is(S.QUEUED, 3)),
    Race(running, complete, disown, 0, _is(S.COMPLETED, 3)),
    Race(running, cancel, disown, 1, _is(S.CANCELLED, 4)),
    Race(running, take_back, disown, 0, _is(S.QUEUED, 3)),
    # suspects: one at a time, and by this way alone
    Race(suspect, claim_suspect, claim_suspect, [], _is(S.IN_PROGRESS, 2), waits=False),
    Race(suspect, claim_suspect, claim, [], _is(S.IN_PROGRESS, 2), waits=False),
    Race(suspect, cancel, claim_suspect, [], _is(S.CANCELLED, 2), waits=False),
    Race(suspect, claim_suspect, cancel, S.CANCELLING, _is(S.CANCELLING, 3)),
    Race(queued, claim, claimable, False, waits=False),
    # still_ours and the mark that stands on it: no call starts once the claim is lost or a stop was asked for
    Race(running, cancel, still_ours, set(), _is(S.CANCELLING, 3)),
    Race(running, take_back, still_ours, set(), _is(S.QUEUED, 3)),
    Race(calling, cancel, mark, [False], _no_second_call),
    Race(calling, take_back, mark, [False], _no_second_call),
    Race(calling, cancel, mark_at_once, set(), _no_second_call),
    Race(calling, take_back, mark_at_once, set(), _no_second_call),
    Race(calling, mark_at_once, take_back, TakenBack(1, 0, 0), _both_calls_are_lost),
    Race(calling, mark, take_back, TakenBack(1, 0, 0), _marked_call_is_lost),
    Race(running, still_ours, cancel, S.CANCELLING, _is(S.CANCELLING, 3)),
    # cancel: whatever it meets, it is not lost
    Race(queued, claim, cancel, S.CANCELLING, _is(S.CANCELLING, 3)),
    Race(running, park, cancel, S.CANCELLED, _is(S.CANCELLED, 4)),
    Race(running, take_back, cancel, S.CANCELLED, _is(S.CANCELLED, 4)),
    Race(running, complete, cancel, S.COMPLETED, _is(S.COMPLETED, 3)),
    Race(running, cancel, cancel, S.CANCELLING, _is(S.CANCELLING, 3)),
    Race(queued, cancel, cancel, S.CANCELLED, _is(S.CANCELLED, 2)),
    Race(late, expire, cancel, S.EXPIRED, _is(S.EXPIRED, 2)),
    # take_back: a worker that was only slow ends its job at the same moment
    Race(running, complete, take_back, NOTHING, _is(S.COMPLETED, 3)),
    Race(running, take_back, take_back, NOTHING, _is(S.QUEUED, 3)),
    Race(running, cancel, take_back, TakenBack(0, 1, 0), _is(S.CANCELLED, 4)),
    Race(called, pass_over, take_back, NOTHING, _counted_once),
    Race(calling, answer, take_back, NOTHING, _sums),
    # expire: only what still waits; what is just being claimed ends where it runs
    Race(late, claim, expire, 0, _is(S.IN_PROGRESS, 2), waits=False),
    Race(late, cancel, expire, 0, _is(S.CANCELLED, 2), waits=False),
    Race(late, expire, expire, 0, _is(S.EXPIRED, 2), waits=False),
    # purge
    Race(ended, purge, purge, 0, _is(S.COMPLETED, 4)),
    # workers
    Race(silent, bury, beat, False),
    Race(silent, beat, bury, 0),
    Race(silent, bury, bury, 0),
    # parked jobs: woken or taken out, once
    Race(waiting, wake, wake, 0, _is(S.QUEUED, 4), waits=False),
    Race(waiting, wake, claim_one, [], _is(S.QUEUED, 4), waits=False),
    Race(waiting, claim_one, claim_one, [], _is(S.IN_PROGRESS, 4), waits=False),
    Race(waiting, claim_one, wake, 0, _is(S.IN_PROGRESS, 4), waits=False),
    Race(waiting, cancel, claim_one, [], _is(S.CANCELLED, 4), waits=False),
    Race(waiting, cancel, wake, 0, _is(S.CANCELLED, 4), waits=False),
    Race(waiting, wake, cancel, S.CANCELLED, _is(S.CANCELLED, 5)),
    # pauses: one row for a scope, one probe for all workers, and a person's word above a failure's
    Race(Ground, pause, pause, True, _paused(PauseKind.QUOTA)),
    Race(Ground, pause, pause_by_hand, True, _paused(PauseKind.OPERATOR)),
    Race(Ground, pause_by_hand, pause, True, _paused(PauseKind.OPERATOR)),
    Race(Ground, pause, end_by_hand, True, _paused(None)),
    Race(spent, probe, probe, False, _paused(PauseKind.QUOTA, 1)),
    Race(spent, pause, probe, False, _paused(PauseKind.QUOTA)),
    Race(spent, end_pause, probe, False, _paused(None)),
    Race(spent, pause_by_hand, probe, False, _paused(PauseKind.OPERATOR)),
    Race(spent, end_pause, end_pause, False, _paused(None)),
    Race(spent, pause_by_hand, end_pause, False, _paused(PauseKind.OPERATOR)),
    Race(spent, end_pause, end_all_by_hand, 0, _paused(None)),
    Race(over_long_ago, forget_pauses, pause, True, _paused(PauseKind.QUOTA)),
    Race(over_long_ago, pause, forget_pauses, 0, _paused(PauseKind.QUOTA)),
    # leases, idempotency keys, API keys, projects
    Race(lease_over, take_lease, take_lease, False),
    Race(with_key, take_lease, take_lease, False),
    Race(with_key, remember, remember, False),
    Race(with_key, revoke, revoke, False),
    Race(Ground, make_key, make_key, None, _one_key),
    Race(Ground, make_project, make_project, None),
    # budgets: the second of two holds that fit only one by one is refused
    Race(with_key, hold, hold, [False], _books(60, 0)),
    Race(with_key, pay, hold, [False], _books(0, 60)),
    Race(with_key, pay, pay, None, _books(0, 120)),
    Race(calling, charge_lost, charge_lost, None, _books(-40, 80)),
)

_MOVES: Final = {
    claims: {
        "claim": claim,
        "claim_block": claim_block,
        "claim_suspect": claim_suspect,
        "claimable": claimable,
        "still_ours": still_ours,
    },
    settling: {"adopt": answer, "disown": disown, "settle": complete},
    jobs: {"cancel": cancel, "expire": expire, "purge": purge},
    orphans: {"take_back": take_back},
    workers: {"beat": beat, "bury": bury},
    parked: {"wake": wake, "claim_one": claim_one},
    pauses: {
        "begin": pause,
        "take_probe": probe,
        "end": end_pause,
        "begin_by": pause_by_hand,
        "end_by": end_by_hand,
        "end_all_by": end_all_by_hand,
        "forget": forget_pauses,
    },
    leases: {"take": take_lease},
    idempotency: {"remember": remember},
    keys: {"revoke": revoke, "create": make_key},
    projects: {"ensure": make_project},
    budgets: {"book": hold, "charge_lost": charge_lost},
    attempts: {"close": answer, "begin": mark, "mark": mark_at_once, "recorded": answer},
    **{module: {} for module in (backlog, deaths, endings, new_jobs, notices, open_lines, usage, views)},
}
# Functions of the store that race with nobody, and why.
_ALONE: Final = {
    **dict.fromkeys((new_jobs.insert, new_jobs.insert_inputs, jobs.refuse), "rows that nobody knows of yet"),
    endings.add: "of jobs that the same transaction has ended",
    jobs.end_queued: "what expire and open_lines.end have in common",
    **dict.fromkeys((jobs.cancelling, open_lines.any_left), "only reads"),
    **dict.fromkeys(
        (open_lines.end, open_lines.stop, open_lines.park, open_lines.unpark),
        "of the one who tends the batch; they pass by what others hold, and race in test_batches and test_batch_runs",
    ),
    orphans.recount: "made where the job's row is locked: by take_back, and by an adoption that has moved it",
    orphans.forget: "made where the job's row is locked: by the end of a job that a fault of ours has ended",
    deaths.add: "rows of its own, made by take_back once it holds the jobs",
    deaths.of_jobs: "only reads",
    notices.send: "changes nothing, a hint",
    parked.marks: "only reads",
    **dict.fromkeys((backlog.look, backlog.ended_per_s, backlog.own_bounds), "only reads"),
    **dict.fromkeys((pauses.current, pauses.holding), "only reads"),
    **dict.fromkeys((projects.limit_depth, projects.limit_age), "of two people who say a bound the later one is right"),
    projects.listed: "only reads",
    workers.living: "only reads",
    workers.register: "a row that nobody knows of yet",
    workers.leave: "of two that end a worker either may win",
    workers.dead_holders: "only reads; take_back has its own guard",
    **dict.fromkeys((workers.reports, workers.listed), "only reads"),
    workers.forget: "drops rows of workers dead for a day, which no other move changes",
    idempotency.find: "only reads",
    jobs.forget: "drops tombstones, which no other move changes",
    idempotency.prune: "drops rows that no reader finds any more",
    idempotency.note: "a row that nobody else makes",
    idempotency.take: "races with itself alone, in test_batches",
    keys.find: "only reads",
    keys.used: "a date for people",
    keys.listed: "only reads",
    projects.names: "only reads",
    attempts.of_jobs: "only reads",
    **dict.fromkeys((usage.report, usage.recent_s), "only reads"),
    **dict.fromkeys(
        (views.get, views.many, views.listed, views.versions, views.costs, views.request_of, views.replays),
        "only reads",
    ),
}


def _of(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(module, inspect.isfunction):
        if member.__module__ == module.__name__ and not name.startswith("_"):
            parameters = list(inspect.signature(member).parameters)
            if parameters[:1] == ["conn"]:
                yield name, member


def test_every_move_of_the_store_has_a_race_or_a_reason() -> None:
    """A new function that takes a connection fails here until it is in the table above."""
    import pkgutil

    import worker.store

    raced = {race.second for race in RACES}
    found = {info.name for info in pkgutil.iter_modules(worker.store.__path__)}
    known = {module.__name__.rpartition(".")[2] for module in _MOVES}
    without = {"blocks", "database", "intake", "migrate", "moment", "pulse", "rows", "text"}
    without |= {"columns", "schema", "tables", "batch_tables", "webhook_tables"}
    # Their moves have owners and cursors of their own, and race in tests of their own: test_batches, test_batch_runs,
    # test_store_deliveries, test_deliver, test_predict.
    without |= {"batches", "batch_views", "tending", "files", "lines", "tallies", "uploads"}
    without |= {"deliveries", "delivery_views", "outbox"}
    without |= {"shared", "urgent", "retired_endpoints"}  # test_shared_lines, test_batch_window, test_retired_endpoints
    without |= {"webhook_endpoints", "predictions", "outcomes", "scores"} & found
    assert found - known == without, "a new module of the store"
    for module, moves in _MOVES.items():
        public = dict(_of(module))
        silent_ones = {name for name, member in public.items() if member in _ALONE}
        assert set(public) == set(moves) | silent_ones, module.__name__
        assert all(move in raced for move in moves.values()), module.__name__


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.name)
def test_the_second_of_two_moves_finds_what_the_first_left(database: Database, race: Race) -> None:
    ground = race.start(database)
    outcome: list[Any] = []
    began = threading.Event()

    def second() -> None:
        began.set()
        with database.write() as conn:
            outcome.append(race.second(conn, ground))

    thread = threading.Thread(target=second)
    with database.write() as conn:
        first = race.first(conn, ground)
        thread.start()
        began.wait()
        if database.dialect == "postgresql" and race.waits:
            wait_until(lambda: _waits(database), "the second move to wait for the first", 5.0)
        elif database.dialect == "postgresql":
            thread.join(5.0)
            assert outcome, "it waited for a row that it should have passed by"
    thread.join()
    assert outcome == [first if race.found is None else race.found]
    race.then(ground)


def _waits(database: Database) -> bool:
    with database.read() as conn:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        return bool(conn.execute(sa.text(waiting)).scalar_one())


def test_a_hold_that_no_longer_fits_refuses_the_call(database: Database) -> None:
    """The budget of 100 holds 40 for an open call: of two more at once one fits."""
    g = calling(database)
    with database.write() as conn:
        jobs.cancel(conn, PROJECT, "job_of_nobody")
        assert mark(conn, g) == [True]
        (refused,) = mark(conn, g)
    assert isinstance(refused, OverBudget)
    assert g.key().held_nano == 80


def test_a_database_that_stays_busy_is_said_to_be_away(sqlite_url: str) -> None:
    with closing(Database(sqlite_url)) as holder, closing(Database(sqlite_url, connections=1)) as other:
        g = queued(other)
        with other.read() as conn:
            conn.exec_driver_sql("PRAGMA busy_timeout=50")  # the product waits 10 s
        with holder.write() as conn:
            assert claim(conn, g)
            with pytest.raises(Unavailable, match="locked"), other.write() as late_conn:
                claim(late_conn, g)
            with other.read() as reader:
                assert views.versions(reader, [g.job_id]) == {g.job_id: (1, S.QUEUED)}, "readers do not wait"
        with other.write() as conn:
            assert claim(conn, g) == []
