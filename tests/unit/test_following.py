"""Following a batch: few requests, and every end seen soon."""

from __future__ import annotations

import io
import json
import random
from bisect import bisect_left
from typing import Any

import httpx
import pytest

from api.cli.follow import LATEST_S, STRETCH, Schedule, look
from api.cli.results import Output, Sums
from api.cli.screen import money


def ids(count: int, first: int = 0) -> list[str]:
    return [f"job_{number:026d}" for number in range(first, first + count)]


class Server:
    """The list and the look-up of the API over jobs that have ended so far; others' jobs may stand between."""

    def __init__(self, known: list[str]) -> None:
        self.known = sorted(known)
        self.ended: set[str] = set()
        self.requests = 0

    def get(self, path: str, params: dict[str, Any] | None = None, *, patience_s: float) -> httpx.Response:
        self.requests += 1
        assert patience_s > 0
        if params is None:
            return httpx.Response(200, json=self._job(path.rpartition("/")[2]))
        end = bisect_left(self.known, params["after"])
        start = max(0, end - params["limit"])
        page = [self._job(one) for one in reversed(self.known[start:end])]
        return httpx.Response(200, json={"data": page, "has_more": start > 0})

    def _job(self, job_id: str) -> dict[str, Any]:
        return {"id": job_id, "status": "completed" if job_id in self.ended else "queued"}


def follow(server: Server, mine: list[str], pages: int, ended_per_s: float) -> tuple[float, int]:
    """Seconds between the last end and its being seen, and the requests it took, by a clock of our own."""
    schedule, now_s, seen = Schedule(), 0.0, set()
    for start in range(0, len(mine), pages):
        schedule.add(mine[start : start + pages], now_s)
    while (due_s := schedule.next_s()) is not None:
        now_s = max(now_s, due_s)
        server.ended = set(mine[: int(now_s * ended_per_s)])
        for stretch in schedule.due(now_s):
            found = look(server, stretch)  # type: ignore[arg-type]
            schedule.looked(stretch, len(found), now_s)
            seen |= {job["id"] for job in found}
            now_s += 0.01
    assert seen == set(mine)
    assert schedule.open == 0
    return now_s - len(mine) / ended_per_s, server.requests


def test_twenty_thousand_jobs_take_few_requests_and_the_last_end_is_seen_soon() -> None:
    mine = ids(20_000)
    late_s, requests = follow(Server(mine), mine, 1000, ended_per_s=800.0)
    assert requests < 1500
    assert late_s < LATEST_S


@pytest.mark.parametrize("count", [1, 2, STRETCH - 1, STRETCH, STRETCH + 1, 1001])
def test_every_job_is_seen_however_many_there_are(count: int) -> None:
    mine = ids(count)
    follow(Server(mine), mine, 1000, ended_per_s=500.0)


def test_jobs_of_others_between_ours_do_not_hide_them() -> None:
    everybody = ids(3000)
    mine = sorted(random.Random(1).sample(everybody, 300))
    follow(Server(everybody), mine, 150, ended_per_s=200.0)


def test_jobs_that_end_out_of_order_are_seen_too() -> None:
    mine = ids(1000)
    server, schedule = Server(mine), Schedule()
    schedule.add(mine, 0.0)
    server.ended = set(mine[900:])
    now_s = 0.0
    while schedule.open > 900:
        due_s = schedule.next_s()
        assert due_s is not None
        now_s = max(now_s, due_s)
        assert now_s < 2 * LATEST_S, "the last stretch was not looked at"
        for stretch in schedule.due(now_s):
            schedule.looked(stretch, len(look(server, stretch)), now_s)  # type: ignore[arg-type]


def test_one_straggler_is_asked_for_by_itself() -> None:
    mine = ids(STRETCH)
    server, schedule = Server(mine), Schedule()
    schedule.add(mine, 0.0)
    (stretch,) = schedule.due(1.0)
    server.ended = set(mine) - {mine[7]}
    assert len(look(server, stretch)) == STRETCH - 1  # type: ignore[arg-type]
    before = server.requests
    server.ended.add(mine[7])
    assert [job["id"] for job in look(server, stretch)] == [mine[7]]  # type: ignore[arg-type]
    assert server.requests == before + 1


def record(line: int, status: str = "completed", cost: float | None = None) -> dict[str, Any]:
    failed = None if status == "completed" else {"kind": "timeout"} if status == "failed" else None
    return {
        "line": line,
        "status": status,
        "provider": "groq",
        "model": "m",
        "error": failed,
        "cost": {"amount": cost, "currency": "USD", "complete": cost is not None},
    }


def test_ordered_output_comes_in_the_order_of_the_lines_and_as_soon_as_it_can() -> None:
    stream = io.StringIO()
    output = Output(stream, ordered=True)
    for number in (2, 5, 9):
        output.expect(number)
    output.write(record(5))
    assert stream.getvalue() == ""
    output.write(record(2))
    assert [json.loads(line)["line"] for line in stream.getvalue().splitlines()] == [2, 5]
    output.write(record(9))
    assert [json.loads(line)["line"] for line in stream.getvalue().splitlines()] == [2, 5, 9]


def test_sums_name_what_went_wrong_and_what_is_not_known() -> None:
    sums = Sums()
    for one in (record(1, cost=0.5), record(2, "failed", cost=0.25), record(3, "cancelled", cost=0.0)):
        sums.add(one)
    assert (sums.ended, sums.done, sums.failed) == (3, 1, 2)
    assert dict(sums.failures) == {"timeout": 1, "cancelled": 1}
    assert sums.spent == "$0.750"
    sums.add(record(4))
    assert sums.spent == "$0.750 and what is not known"


@pytest.mark.parametrize(
    ("amount", "said"),
    [(None, "unknown"), (0.0, "$0"), (12.345, "$12.35"), (0.00134485, "$0.00134"), (1e-07, "$0.000000100")],
)
def test_money_is_not_rounded_away(amount: float | None, said: str) -> None:
    assert money(amount) == said
