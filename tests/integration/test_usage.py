"""What calls came to, by whatever one asks: in SQL, over HTTP and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Final

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.cli.main import root
from api.cli.screen import Screen
from tests.support.scripted_provider import ScriptedProvider
from tests.support.wait import wait_until
from tests.support.web import Web, web
from worker import clock
from worker.domain.budget import maybe_billed
from worker.domain.failure import FailureKind, Lane
from worker.domain.job import AttemptRow, Claimed, NewJob
from worker.domain.money import NANO, Usage
from worker.domain.state import AttemptState
from worker.store import attempts, claims, keys, new_jobs, projects, usage
from worker.store.database import Database
from worker.store.tables import attempt as attempt_table
from worker.store.usage import GROUPS, Group, Line, Sums

K, S = FailureKind, AttemptState
DAY: Final = datetime(2026, 11, 20, tzinfo=UTC)
EVER: Final = (DAY - timedelta(days=300), DAY + timedelta(days=300))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        yield started


@pytest.fixture
def site(database_url: str, tmp_path: Path, provider: ScriptedProvider) -> Iterator[Web]:
    with web(database_url, tmp_path, provider) as made:
        yield made


def project(database: Database, name: str = projects.DEFAULT) -> str:
    with database.write() as conn:
        return projects.ensure(conn, name)


def claimed(database: Database, project_id: str) -> Claimed:
    job = NewJob(clock.new_id("job"), project_id, "completion", Lane.BATCH, ("m",), {})
    with database.write() as conn:
        new_jobs.insert(conn, [job])
        return claims.claim(conn, [job.id], worker_id="wrk", claim_id=clock.new_id("clm"))[0]


def calls(database: Database, project_id: str, *made: Mapping[str, Any], at: datetime = DAY) -> None:
    """Attempts of one job, each with the fields of an AttemptRow that are told, all sent `at`."""
    job = claimed(database, project_id)
    for number, fields in enumerate(made, 1):
        told = {"target": "", "provider": "groq", "model": "small", "key_name": "GROQ_API_KEY", **fields}
        row = AttemptRow(clock.new_id("att"), job.id, job.claim_id, number, S.SENT, **_begun(told))
        state = told.pop("state", S.ANSWERED)
        with database.write() as conn:
            if state is S.SKIPPED:
                attempts.begin(conn, [AttemptRow(row.id, job.id, job.claim_id, number, state, **_begun(told))])
                continue
            attempts.begin(conn, [row])
            sent = attempt_table.update().where(attempt_table.c.id == row.id).values(sent_at=told.pop("at", at))
            conn.execute(sent)
            if state is not S.SENT:
                attempts.close(conn, [AttemptRow(row.id, job.id, job.claim_id, number, state, **told)])


def _begun(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ("target", "provider", "model", "key_name")}


def reported(
    database: Database, project_id: str | None, *by: Group, time: tuple[datetime, datetime] = EVER
) -> list[Line]:
    with database.read() as conn:
        return usage.report(conn, project_id, by, *time)


def sums(database: Database, project_id: str | None, *by: Group, **more: Any) -> dict[tuple[str | None, ...], Sums]:
    return {tuple(line.group.values()): line.sums for line in reported(database, project_id, *by, **more)}


# -- in SQL ---------------------------------------------------------------------------------------------------------


def test_calls_are_summed_by_what_was_asked(database: Database) -> None:
    mine = project(database)
    good: dict[str, Any] = {"usage": Usage(100, 50, 10, 5), "cost_nano": 7}
    calls(database, mine, good, good, {"state": S.FAILED, "kind": K.OVERLOADED})
    calls(database, mine, {**good, "provider": "kimi", "model": "big", "key_name": None})
    calls(database, mine, {**good, "model": "big"}, at=DAY + timedelta(days=1))
    assert sums(database, mine, "provider", "model") == {
        ("groq", "big"): Sums(1, 1, 0, Usage(100, 50, 10, 5), 7, 0),
        ("groq", "small"): Sums(3, 2, 1, Usage(200, 100, 20, 10), 14, 0),
        ("kimi", "big"): Sums(1, 1, 0, Usage(100, 50, 10, 5), 7, 0),
    }
    assert [line.group for line in reported(database, mine, "key", "day")] == [
        {"key": None, "day": "2026-11-20"},
        {"key": "GROQ_API_KEY", "day": "2026-11-20"},
        {"key": "GROQ_API_KEY", "day": "2026-11-21"},
    ]


def test_a_day_is_a_day_of_utc(database: Database) -> None:
    mine = project(database)
    last_moment = DAY + timedelta(days=1) - timedelta(microseconds=1)
    calls(database, mine, {"at": last_moment}, {"at": DAY}, {"at": DAY - timedelta(microseconds=1)})
    assert {day: one.calls for (day,), one in sums(database, mine, "day").items()} == {"2026-11-20": 2, "2026-11-19": 1}


def test_a_time_begins_with_its_first_moment_and_ends_before_its_last(database: Database) -> None:
    mine = project(database)
    calls(database, mine, *({"at": DAY + timedelta(hours=hour)} for hour in range(4)))
    found = sums(database, mine, "provider", time=(DAY + timedelta(hours=1), DAY + timedelta(hours=3)))
    assert found["groq",].calls == 2
    assert reported(database, mine, "provider", time=(DAY, DAY)) == []


def test_unknown_is_none_and_counted_but_what_nobody_bills_is_nothing(database: Database) -> None:
    mine = project(database)
    calls(database, mine, {"model": "free", "state": S.FAILED, "kind": K.AUTH}, {"model": "free", "cost_nano": 0})
    calls(database, mine, {"model": "refused", "state": S.FAILED, "kind": K.OVERLOADED})
    calls(database, mine, {"model": "dark"}, {"model": "dark", "state": S.FAILED, "kind": K.TIMEOUT})
    calls(database, mine, {"model": "half", "cost_nano": 5}, {"model": "half", "state": S.LOST, "kind": K.INTERRUPTED})
    for status in (200, 500):
        calls(database, mine, {"model": f"{status}", "state": S.FAILED, "kind": K.SERVER_ERROR, "http_status": status})
    found = {model: (one.cost_nano, one.unknown_cost) for (model,), one in sums(database, mine, "model").items()}
    told = {"free": (0, 0), "refused": (0, 0), "dark": (None, 2), "half": (5, 1), "200": (None, 1), "500": (0, 0)}
    assert found == told
    assert sums(database, mine, "model")["dark",].usage == Usage()


def test_open_calls_are_calls_and_those_never_made_are_not(database: Database) -> None:
    mine = project(database)
    calls(database, mine, {"state": S.SENT}, {"state": S.SKIPPED}, {"state": S.CANCELLED})
    calls(database, mine, {"state": S.CANCELLED, "kind": K.CANCELLED}, {"state": S.SUPERSEDED, "cost_nano": 3})
    assert sums(database, mine, "provider") == {("groq",): Sums(3, 1, 1, Usage(), 3, 2)}


def test_another_projects_calls_are_nobody_elses(database: Database) -> None:
    mine, theirs = project(database), project(database, "theirs")
    calls(database, theirs, {"cost_nano": 5})
    assert reported(database, mine, "provider") == []
    calls(database, mine, {"cost_nano": 1})
    assert {name: one.cost_nano for (name,), one in sums(database, None, "project").items()} == {
        "default": 1,
        "theirs": 5,
    }


@pytest.mark.postgres
def test_a_short_time_is_read_off_the_index(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, database.write() as conn:
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        conn.exec_driver_sql("SET LOCAL enable_indexscan = off")
        statement = sa.select(sa.func.count()).where(attempt_table.c.sent_at >= DAY, attempt_table.c.sent_at < EVER[1])
        compiled = statement.compile(dialect=conn.dialect)
        plan = "\n".join(row[0] for row in conn.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params))
    assert "Bitmap Index Scan on ix_attempt_sent_at" in plan


CALL: Final = st.fixed_dictionaries(
    {
        "provider": st.sampled_from(["groq", "kimi"]),
        "model": st.sampled_from(["small", "big"]),
        "key_name": st.sampled_from([None, "KEY_1", "KEY_2"]),
        "state": st.sampled_from([S.ANSWERED, S.FAILED, S.LOST, S.CANCELLED, S.SUPERSEDED]),
        "kind": st.sampled_from([K.TIMEOUT, K.AUTH, K.SCHEMA_MISMATCH, K.CANCELLED, K.CONNECTION, K.SERVER_ERROR]),
        "http_status": st.sampled_from([None, 199, 200, 204, 299, 300, 503]),
        "usage": st.builds(Usage, *[st.none() | st.integers(0, 9)] * 4),
        "cost_nano": st.none() | st.integers(0, 9),
        # `to` itself is outside.
        "at": st.datetimes(
            EVER[0].replace(tzinfo=None), EVER[1].replace(tzinfo=None) - timedelta(seconds=1), timezones=st.just(UTC)
        ),
    }
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(CALL, max_size=8), by=st.lists(st.sampled_from(GROUPS), min_size=1, unique=True))
def test_however_calls_are_grouped_they_add_up_to_the_same(
    database: Database, made: list[dict[str, Any]], by: Sequence[Group]
) -> None:
    """And unknown is what the rules of budgets call so."""
    mine = project(database, clock.new_id("name"))
    calls(database, mine, *made)
    lines = reported(database, mine, *by)
    rows = [AttemptRow("", "", "", 1, target="", **{n: v for n, v in call.items() if n != "at"}) for call in made]
    costs = [row.cost_nano for row in rows if row.cost_nano is not None]
    assert reduce(add, (line.sums for line in lines), Sums()) == Sums(
        calls=len(rows),
        answered=sum(row.state in {S.ANSWERED, S.SUPERSEDED} for row in rows),
        failed=sum(row.state not in {S.ANSWERED, S.SUPERSEDED} for row in rows),
        usage=reduce(add, (row.usage for row in rows), Usage()),
        known_nano=sum(costs) if costs else None,
        unknown_cost=sum(row.cost_nano is None and maybe_billed(row) for row in rows),
    )
    assert len({tuple(line.group.values()) for line in lines}) == len(lines)


# -- over HTTP ------------------------------------------------------------------------------------------------------


def test_the_report_of_the_last_days(site: Web, provider: ScriptedProvider) -> None:
    database = site.deps.database
    mine = project(database)
    now = clock.now()
    calls(database, mine, {"usage": Usage(10, 5), "cost_nano": NANO // 2}, {}, at=now - timedelta(days=29))
    calls(database, mine, {"cost_nano": NANO}, at=now - timedelta(days=31))
    answer = site.get("/v1/usage")
    assert answer.status_code == 200
    body = answer.json
    told = {
        "calls": 2,
        "answered": 2,
        "failed": 0,
        "usage": {"input_tokens": 10, "output_tokens": 5, "cached_tokens": None, "reasoning_tokens": None},
        "cost": {"amount": 0.5, "currency": "USD", "complete": False},
        "unknown_cost": 1,
    }
    assert body["object"] == "usage"
    assert body["group_by"] == ["provider", "model"]
    assert body["data"] == [{"provider": "groq", "model": "small", **told}]
    assert body["total"] == told
    time = datetime.fromisoformat(body["to"]) - datetime.fromisoformat(body["from"])
    assert time == timedelta(days=30)


def test_a_real_job_shows_up(site: Web, provider: ScriptedProvider) -> None:
    provider.chat("hello", tokens=(9, 3))
    with site.working():
        made = site.post("/v1/jobs", {"input": {"prompt": "hi"}}, {"Prefer": "wait=10"})
        assert made.json["status"] == "completed"
    body = site.get("/v1/usage?group_by=key,provider").json
    assert [(line["key"], line["provider"], line["usage"]["output_tokens"]) for line in body["data"]] == [
        ("STUB_KEY", "stub", 3)
    ]
    assert body["total"]["cost"] == {"amount": None, "currency": "USD", "complete": False}


def test_nothing_costs_nothing(site: Web) -> None:
    body = site.get("/v1/usage?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00%2B02:00").json
    assert (body["from"], body["to"]) == ("2026-01-01T00:00:00.000Z", "2026-02-01T00:00:00.000+02:00")
    assert body["data"] == []
    assert body["total"]["cost"] == {"amount": 0.0, "currency": "USD", "complete": True}


@pytest.mark.parametrize("to", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00"])
@pytest.mark.parametrize("since", ["", "&from=0001-01-01T00:00:00%2B14:00"])
def test_the_ends_of_time_are_no_fault(site: Web, to: str, since: str) -> None:
    assert site.get(f"/v1/usage?to={to}{since}").status_code == 200


def test_only_admins_see_projects_apart(site: Web) -> None:
    database = site.deps.database
    calls(database, project(database, "theirs"), {"cost_nano": NANO}, at=clock.now())
    _, reader = site.new_key("jobs:read")
    auth = {"Authorization": f"Bearer {reader}"}
    assert site.get("/v1/usage", auth).json["data"] == []
    refused = site.get("/v1/usage?group_by=day,project", auth)
    assert refused.status_code == 403
    assert "admin" in refused.json["detail"]
    (line,) = site.get("/v1/usage?group_by=project").json["data"]
    assert (line["project"], line["cost"]["amount"]) == ("theirs", 1.0)
    assert site.get("/v1/usage").json["data"] == [], "an admin's own project has no calls"
    _, writer = site.new_key("jobs:write")
    assert site.get("/v1/usage", {"Authorization": f"Bearer {writer}"}).status_code == 403


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("group_by=colour", "group_by", "must match"),
        ("group_by=provider,", "group_by", "must match"),
        ("from=yesterday", "from", "must be a moment"),
        ("to=2026-11-20", "to", "must be a moment"),
        ("since=2026-11-20T00:00:00Z", "since", "is not a known field"),
    ],
)
def test_what_cannot_be_asked_is_told(site: Web, query: str, field: str, said: str) -> None:
    answer = site.get(f"/v1/usage?{query}")
    assert answer.status_code == 422
    (found,) = answer.json["errors"]
    assert found["field"] == field
    assert said in found["message"]


# -- what a job and a key may cost ----------------------------------------------------------------------------------


def test_max_cost_is_taken_everywhere_and_shown(site: Web) -> None:
    made = site.post("/v1/jobs", {"input": {"prompt": "hi"}, "max_cost": 0.25})
    assert (made.status_code, made.json["max_cost"]) == (202, 0.25)
    many = site.post(
        "/v1/jobs/bulk", {"jobs": [{"input": {"prompt": "hi"}, "max_cost": 1}, {"input": {"prompt": "x"}}]}
    )
    assert [job["max_cost"] for job in many.json["data"]] == [1.0, None]
    site.post(f"/v1/jobs/{made.json['id']}/cancel")
    again = site.post(f"/v1/jobs/{made.json['id']}/retry")
    assert again.json["max_cost"] == 0.25


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/jobs", {"input": {"prompt": "hi"}}, 422),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, 400),
        ("/v1/embeddings", {"input": "hi"}, 400),
        ("/completar", {"prompt": "hi"}, 422),
    ],
)
@pytest.mark.parametrize("amount", [0, -1, "1", 1_000_001, True])
def test_a_max_cost_is_a_positive_number(site: Web, path: str, body: dict[str, Any], status: int, amount: Any) -> None:
    answer = site.post(path, {**body, "max_cost": amount})
    assert answer.status_code == status
    assert "max_cost" in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/completar", {"prompt": "hi"}),
    ],
)
def test_over_its_max_cost_a_caller_who_waits_is_told(
    site: Web, provider: ScriptedProvider, path: str, body: dict[str, Any]
) -> None:
    """The stub's price is known to nobody, so under any bound it is not called."""
    with site.working():
        answer = site.post(path, {**body, "max_cost": 1})
    assert answer.status_code == 429
    assert answer.headers["x-should-retry"] == "false"
    assert "price of stub/scripted is not known" in answer.text
    assert provider.requests == []


def test_a_job_is_charged_to_the_key_that_made_it(site: Web, provider: ScriptedProvider) -> None:
    _, secret = site.new_key(budget_nano=NANO)
    auth = {"Authorization": f"Bearer {secret}", "Prefer": "wait=10"}
    provider.chat("free")
    with site.working():
        refused = site.post("/v1/jobs", {"input": {"prompt": "hi"}}, auth)
        taken = site.post("/v1/jobs", {"input": {"prompt": "hi"}}, {"Prefer": "wait=10"})
        bulk = site.post("/v1/jobs/bulk", {"jobs": [{"input": {"prompt": "hi"}}]}, auth)
        (line,) = bulk.json["data"]
        seen = wait_until(lambda: _failed(site, line["id"]), "the job of the bulk to fail")
        again = site.post(f"/v1/jobs/{refused.json['id']}/retry", None, {"Prefer": "wait=10"})
    assert refused.json["error"]["kind"] == "budget"
    assert taken.json["status"] == "completed"
    assert seen["error"]["kind"] == "budget"
    assert again.json["error"]["kind"] != "budget", "who runs it again pays for it"


def _failed(site: Web, job_id: str) -> Any:
    job = site.get(f"/v1/jobs/{job_id}").json
    return job if job["status"] == "failed" else None


# -- on the command line --------------------------------------------------------------------------------------------


def run(*arguments: str, **env: str) -> Any:
    done = CliRunner().invoke(root, list(arguments), obj=Screen(), env=env, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_the_command_explains_itself() -> None:
    told = run("usage", "--help").output
    assert "For example:\n    completar usage" in told
    assert "--quiet" in told


def test_the_command_shows_the_report(site: Web, tmp_path: Path) -> None:
    database = site.deps.database
    calls(database, project(database), {"usage": Usage(10, 5), "cost_nano": 1_500_000}, {}, at=clock.now())
    calls(database, project(database), {"key_name": None}, at=DAY - timedelta(days=400))
    with site.served() as url:
        env = {"COMPLETAR_URL": url, "COMPLETAR_API_KEY": site.key, "COMPLETAR_DATA_DIR": str(tmp_path)}
        shown = run("usage", **env)
        told = run("usage", "--by", "key, day", "--from", "2025-01-01", "--to", "2026-01-01", "--json", **env)
    assert shown.stdout == "groq\tsmall\t2\t2\t0\t10\t5\t$0.00150\t1\n"
    assert ": 2, $0.00150." in shown.stderr
    assert "perhaps billed, nobody knows how much (1)." in shown.stderr
    report = json.loads(told.stdout)
    assert (report["from"], report["to"]) == ("2025-01-01T00:00:00.000Z", "2026-01-01T00:00:00.000Z")
    assert [(line["key"], line["day"]) for line in report["data"]] == [(None, "2025-10-16")]


def test_a_key_is_made_with_a_budget_and_listed_with_what_is_spent(database_url: str, tmp_path: Path) -> None:
    env = {"DATABASE_URL": database_url, "COMPLETAR_DATA_DIR": str(tmp_path)}
    made = json.loads(run("keys", "create", "--name", "intern", "--budget", "0.29", "--json", **env).stdout)
    assert (made["budget"], made["spent"], made["held"]) == (0.29, 0.0, 0.0)
    run("keys", "create", "--name", "boss", **env)
    with closing(Database(database_url)) as database, database.read() as conn:
        assert [key.budget_nano for key in keys.listed(conn)] == [290_000_000, None]
    lines = run("keys", "list", **env).stdout.splitlines()
    assert lines[0].endswith("\t$0.290\t$0")
    assert lines[1].split("\t")[2] == "boss"
    assert "$" not in lines[1]
    with pytest.raises(click.UsageError):
        root.main(["keys", "create", "--budget", "0"], standalone_mode=False, obj=Screen())
