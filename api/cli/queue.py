"""`completar queue`."""

from __future__ import annotations

import click

from api.cli.command import Command, as_json
from api.cli.screen import Screen
from api.cli.server import server


@click.command(cls=Command)
@as_json()
@click.pass_obj
def queue(screen: Screen, as_json: bool) -> None:
    """What of the project waits, lane by lane, and how much may.

    For example:
      completar queue
    """
    with server(screen) as at:
        response = at.client.get("/v1/queue")
    if as_json:
        screen.data(response.text)
        return
    screen.table(
        ("lane", "waiting", "most", "first waits", "longest", "state"),
        (
            (
                lane["lane"],
                f"{lane['waiting']:,}",
                "no bound" if lane["most"] is None else f"{lane['most']:,}",
                f"{lane['oldest_s']:,.0f} s",
                "no bound" if lane["longest_s"] is None else f"{lane['longest_s']:,.0f} s",
                "full" if lane["full"] else "open",
            )
            for lane in response.json()["lanes"]
        ),
    )
