"""`completar dead-letters list|show|replay`."""

from __future__ import annotations

from typing import Any

import click

from api.cli.command import Group, as_json
from api.cli.jobs import checked
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from api.cli.server import server


@click.group(cls=Group)
def dead_letters() -> None:
    """Jobs that killed their workers, or that a fault of Completar broke: look at them, run them again."""


@dead_letters.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Those that were run again too.")
@click.option("--after", metavar="ID", help="Those before this one: the last id of the page you have.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@as_json()
@click.pass_obj
def list_(screen: Screen, everything: bool, after: str | None, limit: int, as_json: bool) -> None:
    """The dead letters of the project that nobody has run again, newest first.

    For example:
      completar dead-letters list
    """
    wanted = {"replayed": None if everything else "false", "after": after, "limit": limit}
    with server(screen) as at:
        response = at.client.get("/v1/dead_letters", wanted)
    if as_json:
        screen.data(response.text)
        return
    page = response.json()
    screen.table(("id", "ended", "cause", "deaths", "replays", "what happened"), map(_row, page["data"]))
    if page["has_more"]:
        screen.say(f"There are more: --after {page['last_id']}")


def _row(letter: dict[str, Any]) -> tuple[Any, ...]:
    job = letter["job"]
    error = job["error"]
    return (
        letter["id"],
        job["ended_at"],
        error["kind"],
        len(letter["deaths"]),
        len(letter["replays"]),
        error["message"],
    )


@dead_letters.command()
@click.argument("job_id")
@as_json()
@click.pass_obj
def show(screen: Screen, job_id: str, as_json: bool) -> None:
    """One dead letter: why it was given up, and each worker that died while it had the job.

    For example:
      completar dead-letters show job_01...
    """
    with server(screen) as at:
        response = at.client.get(f"/v1/dead_letters/{checked(job_id)}")
    if as_json:
        screen.data(response.text)
        return
    letter = response.json()
    error = letter["job"]["error"]
    screen.data(f"{'id:':12} {letter['id']}")
    screen.data(f"{'cause:':12} {error['message']} ({error['kind']})")
    for new in letter["replays"]:
        screen.data(f"{'replay:':12} {new}")
    if letter["deaths"]:
        columns = ("found", "last heartbeat", "host", "pid", "worker", "jobs it had", "open call")
        names = ("found_at", "heartbeat_at", "host", "pid", "worker_id", "in_flight", "open_target")
        screen.table(columns, (tuple(death[name] for name in names) for death in letter["deaths"]))
    screen.say(f"What was asked: {PROGRAM} jobs attempts {letter['id']}")


@dead_letters.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@as_json()
@click.pass_obj
def replay(screen: Screen, job_ids: tuple[str, ...], as_json: bool) -> None:
    """Run dead letters again, as new jobs; their ids are printed.

    For example:
      completar dead-letters replay job_01... job_02...
    """
    with server(screen) as at:
        for job_id in job_ids:
            response = at.client.post(f"/v1/dead_letters/{checked(job_id)}/replay")
            screen.data(response.text if as_json else response.json()["id"])
        if not at.lasts:
            screen.say(f"They are stored. `{PROGRAM} up` runs them.")
