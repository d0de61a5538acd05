"""`completar jobs list|get|wait|cancel|retry|attempts`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
import httpx

from api.cli import ids
from api.cli.client import WAIT_S, Client
from api.cli.command import Group, as_json
from api.cli.fault import Exit
from api.cli.program import PROGRAM
from api.cli.screen import Screen, money, seconds
from api.cli.server import server
from api.cli.standstill import paused, put_off
from worker import clock
from worker.domain.answer import JobKind
from worker.domain.failure import Lane
from worker.domain.state import FINAL, JobStatus

_KINDS: tuple[JobKind, ...] = ("completion", "embedding", "prediction")


@click.group(cls=Group)
def jobs() -> None:
    """Look at jobs, wait for them, cancel or retry them."""


@jobs.command(name="list")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only these.")
@click.option("--kind", type=click.Choice(_KINDS), help="Only these.")
@click.option("--created-after", metavar="TIME", help="RFC 3339, e.g. 2026-11-22T08:00:00Z.")
@click.option("--after", metavar="ID", help="Those before this one: the last id of the page you have.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--jsonl", is_flag=True, help="One JSON object per line.")
@as_json()
@click.pass_obj
def list_(
    screen: Screen,
    status: str | None,
    kind: str | None,
    created_after: str | None,
    after: str | None,
    limit: int,
    jsonl: bool,
    as_json: bool,
) -> None:
    """The jobs of the project, newest first.

    For example:
      completar jobs list --status failed
      completar jobs list --limit 100 --jsonl | jq .error.kind
    """
    wanted = {"status": status, "kind": kind, "created_after": created_after, "after": after, "limit": limit}
    with server(screen) as at:
        response = at.client.get("/v1/jobs", wanted)
    page = response.json()
    if as_json:
        screen.data(response.text)
        return
    if jsonl:
        for job in page["data"]:
            screen.line(job)
    else:
        columns = ("id", "status", "created", "took", "calls", "cost", "served by", "error")
        screen.table(columns, map(_row, page["data"]))
    if page["has_more"]:
        screen.say(f"There are more: --after {page['last_id']}")


def _row(job: dict[str, Any]) -> tuple[Any, ...]:
    by = job["served_by"]
    return (
        job["id"],
        job["status"],
        job["created_at"],
        seconds(took_s(job)),
        job["attempts"],
        money(job["cost"]["amount"]),
        None if by is None else f"{by['provider']}/{by['model']}",
        None if job["error"] is None else job["error"]["kind"],
    )


@jobs.command()
@click.argument("job_id")
@as_json()
@click.pass_obj
def get(screen: Screen, job_id: str, as_json: bool) -> None:
    """One job, as it stands.

    For example:
      completar jobs get job_01... --json
    """
    with server(screen) as at:
        response = at.client.get(f"/v1/jobs/{checked(job_id)}")
    _shown(screen, response, as_json=as_json)


@jobs.command()
@click.argument("job_id")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), default=600.0, show_default=True, help="Seconds to wait."
)
@as_json()
@click.pass_obj
def wait(screen: Screen, job_id: str, timeout_s: float, as_json: bool) -> Exit:
    """Wait for a job to end. Exit code 1 when it failed, 5 when the time was over first.

    For example:
      completar jobs wait job_01... --timeout 60
    """
    until_s = clock.monotonic_s() + timeout_s
    with server(screen, works=frozenset(Lane)) as at:
        response = waited_for(at.client, at.client.get(f"/v1/jobs/{checked(job_id)}"), until_s)
        if response is None:
            screen.warn(f"{job_id} has not ended within {timeout_s:g} s.")
            return Exit.TIMED_OUT
        _shown(screen, response, as_json=as_json)
        return ended_as(screen, response.json())


@jobs.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@as_json()
@click.pass_obj
def cancel(screen: Screen, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Stop jobs: one that waits ends at once, of one that runs no further call starts.

    For example:
      completar jobs cancel job_01... job_02...
    """
    with server(screen) as at:
        for job_id in job_ids:
            response = at.client.post(f"/v1/jobs/{checked(job_id)}/cancel")
            if as_json:
                screen.data(response.text)
            else:
                screen.data(f"{job_id}\t{response.json()['status']}")


@jobs.command()
@click.argument("job_id")
@as_json()
@click.pass_obj
def retry(screen: Screen, job_id: str, as_json: bool) -> None:
    """Run a failed, expired or cancelled job again, as a new one; its id is printed.

    For example:
      completar jobs retry job_01...
    """
    with server(screen) as at:
        response = at.client.post(f"/v1/jobs/{checked(job_id)}/retry")
        made = response.json()["id"]
        if as_json:
            screen.data(response.text)
        else:
            screen.data(made)
        screen.say(
            f"It runs: {PROGRAM} jobs wait {made}"
            if at.lasts
            else f"It is stored. `{PROGRAM} jobs wait {made}` runs it, and so does `{PROGRAM} up`."
        )


@jobs.command()
@click.argument("job_id")
@as_json()
@click.pass_obj
def attempts(screen: Screen, job_id: str, as_json: bool) -> None:
    """Every call that was made for a job, and every target that was passed over.

    For example:
      completar jobs attempts job_01...
    """
    with server(screen) as at:
        response = at.client.get(f"/v1/jobs/{checked(job_id)}/attempts")
    if as_json:
        screen.data(response.text)
        return
    screen.table(
        ("number", "target", "key", "state", "kind", "status", "took", "cost", "reason"),
        (
            (
                one["number"],
                one["target"],
                one["key_name"],
                one["state"],
                one["kind"],
                one["http_status"],
                seconds(one["total_s"]),
                money(one["cost"]["amount"]) if one["state"] != "skipped" else None,
                one["reason"],
            )
            for one in response.json()["data"]
        ),
    )


def waited_for(client: Client, seen: httpx.Response, until_s: float) -> httpx.Response | None:
    """The answer that shows the job ended; None when the time (of the steady clock) is over first."""
    while (job := seen.json())["status"] not in FINAL:
        left_s = until_s - clock.monotonic_s()
        if left_s <= 0:
            return None
        seen = client.get(f"/v1/jobs/{job['id']}", wait_s=max(1, min(WAIT_S, int(left_s))), patience_s=left_s)
    return seen


def not_done(screen: Screen, client: Client, job_id: str, timeout_s: float) -> None:
    """That the time was over, and what the job waits for."""
    screen.warn(f"Not done within {timeout_s:g} s.")
    job = client.get(f"/v1/jobs/{job_id}").json()
    if (pause := paused(job)) is not None:
        screen.warn(f"It waits for {pause}")
    elif (found := put_off(client, job)) is not None:
        screen.warn(found[1])


def ended_as(screen: Screen, job: dict[str, Any]) -> Exit:
    """The exit code of a job that has ended; what went wrong is told."""
    if job["status"] == JobStatus.COMPLETED:
        return Exit.OK
    error = job["error"] or {}
    why = f": {error['kind']}: {error['message']}" if error else ""
    screen.warn(f"completar: the job {'was ' if job['status'] == 'cancelled' else ''}{job['status']}{why}")
    screen.warn(f"What was tried: {PROGRAM} jobs attempts {job['id']}")
    return Exit.FAILED


def took_s(job: dict[str, Any]) -> float | None:
    """From its making to its end, in seconds."""
    if job["ended_at"] is None:
        return None
    return (datetime.fromisoformat(job["ended_at"]) - datetime.fromisoformat(job["created_at"])).total_seconds()


def _shown(screen: Screen, response: httpx.Response, *, as_json: bool) -> None:
    if as_json:
        screen.data(response.text)
        return
    job = response.json()
    shown = {
        name: job[name] for name in ("id", "status", "kind", "lane", "created_at", "ended_at", "attempts", "error")
    }
    if job["result"] is not None:
        shown["answer"] = job["result"].get("text", job["result"].get("answer"))
    if job.get("waiting_for") is not None:
        shown["waits for"] = f"{job['waiting_for']['of']} ({job['waiting_for']['reason']})"
    for name, value in shown.items():
        if value is not None:
            said = f"{value['message']} ({value['kind']})" if name == "error" else value
            screen.data(f"{name + ':':12} {said}")


def checked(job_id: str) -> str:
    return ids.checked(job_id, "id of a job", "jobs list")
