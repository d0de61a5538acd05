"""The books of API keys that have a budget: held before a call, charged after it, in the transactions that say so.

Keys are locked last in a transaction, and in the order of their ids, so that two never wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from worker.domain.answer import Failure
from worker.domain.budget import Balance, Settled, held_in_turn
from worker.store.tables import api_key, job

_mine = api_key.c.id == sa.bindparam("key")
_more = sa.bindparam("nano", type_=sa.BigInteger)
_hold = api_key.update().where(_mine).values(held_nano=api_key.c.held_nano + _more)
_fits = api_key.c.spent_nano + api_key.c.held_nano + _more <= api_key.c.budget_nano
_settle = (
    api_key.update()
    .where(_mine)
    .values(
        held_nano=api_key.c.held_nano - sa.bindparam("released", type_=sa.BigInteger),
        spent_nano=api_key.c.spent_nano + sa.bindparam("charged", type_=sa.BigInteger),
    )
)
_balance = sa.select(api_key.c.budget_nano, api_key.c.spent_nano, api_key.c.held_nano).where(_mine).with_for_update()


def book(
    conn: sa.Connection, over: Iterable[tuple[str, Settled]], wanted: Sequence[tuple[str, int]]
) -> list[Failure | None]:
    """Settle calls that are over, then hold for calls about to be made. Both are by key id; money in nano-dollars.

    Of `wanted`, in its order: None where the money is held, else why it is not.
    """
    settled: defaultdict[str, Settled] = defaultdict(Settled)
    for key_id, change in over:
        settled[key_id] += change
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, (key_id, _) in enumerate(wanted):
        places[key_id].append(place)
    refusals: list[Failure | None] = [None] * len(wanted)
    for key_id in sorted(settled.keys() | places.keys()):
        change = settled[key_id]
        if change != Settled():
            conn.execute(_settle, {"key": key_id, "released": change.released_nano, "charged": change.charged_nano})
        if places[key_id]:
            found = _held(conn, key_id, [wanted[place][1] for place in places[key_id]])
            for place, refusal in zip(places[key_id], found, strict=True):
                refusals[place] = refusal
    return refusals


def _held(conn: sa.Connection, key_id: str, estimates: Sequence[int]) -> list[Failure | None]:
    """All at once where there is room for all; else one by one."""
    if conn.execute(_hold.where(_fits), {"key": key_id, "nano": sum(estimates)}).rowcount:
        return [None] * len(estimates)
    before = Balance(*conn.execute(_balance, {"key": key_id}).one())
    after, refusals = held_in_turn(before, estimates)
    if after != before:
        conn.execute(_hold, {"key": key_id, "nano": after.held_nano - before.held_nano})
    return refusals


def charge_lost(conn: sa.Connection, calls: Sequence[tuple[str, int]]) -> None:
    """Calls (job id, hold) whose worker died: nobody knows what they cost, so they cost what was held for them."""
    if not calls:
        return
    jobs = list({job_id for job_id, _ in calls})
    budgeted = job.join(api_key, sa.and_(api_key.c.id == job.c.key_id, api_key.c.budget_nano.is_not(None)))
    found = conn.execute(sa.select(job.c.id, job.c.key_id).select_from(budgeted).where(job.c.id.in_(jobs)))
    owners = {row.id: row.key_id for row in found}
    book(conn, [(owners[job_id], Settled(held, held)) for job_id, held in calls if job_id in owners], ())
