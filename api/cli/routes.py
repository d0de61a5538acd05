"""`completar routes`."""

from __future__ import annotations

import click

from api.cli.command import Command, as_json
from api.cli.configured import configured
from api.cli.screen import Screen


@click.command(cls=Command)
@as_json("One JSON document.")
@click.pass_obj
def routes(screen: Screen, as_json: bool) -> None:
    """The routes: which targets are asked, in which order, and how often.

    For example:
      completar routes
      completar plan default
    """
    _, catalog = configured()
    if as_json:
        screen.document({"routes": catalog.describe()["routes"]})
        return
    screen.table(
        ("route", "targets", "calls", "each at most"),
        (
            (
                route.name,
                ", ".join(target.name for target in route.targets),
                route.max_attempts,
                f"{route.attempt_timeout_s:g} s",
            )
            for route in catalog.routes.values()
        ),
    )
