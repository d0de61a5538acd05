"""`completar workers`."""

from __future__ import annotations

from typing import Any

import click

from api.cli.command import Command, as_json
from api.cli.fault import Exit
from api.cli.screen import Screen
from api.cli.server import server


@click.command(cls=Command)
@as_json()
@click.pass_context
def workers(ctx: click.Context, as_json: bool) -> None:
    """Worker processes: which live, what they work on, and which are gone since yesterday. The API key must be one with
    the scope `admin`.

    Exit code 1 where none is alive.

    For example:
      completar workers
    """
    screen = ctx.ensure_object(Screen)
    with server(screen) as at:
        response = at.client.get("/v1/workers")
    told = response.json()
    if as_json:
        screen.data(response.text)
    else:
        screen.table(
            ("worker", "state", "in flight", "release", "host", "pid", "started", "heard", "gone"),
            (
                (
                    *(one["id"], one["state"], ", ".join(map(_lane, one["lanes"])), one["release"], one["host"]),
                    *(str(one["pid"]), one["started_at"], one["heard_at"], one["gone_at"] or ""),
                )
                for one in told["data"]
            ),
        )
    if told["alive"] == 0:
        screen.warn("No worker is alive: jobs are taken, and wait.")
        ctx.exit(Exit.FAILED)


def _lane(lane: dict[str, Any]) -> str:
    known = lane["in_flight"] is not None
    return f"{lane['lane']} {lane['in_flight']:,} of {lane['places']:,}" if known else str(lane["lane"])
