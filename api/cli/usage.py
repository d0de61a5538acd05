"""`completar usage`."""

from __future__ import annotations

from datetime import date
from typing import Any

import click

from api.cli.command import Command, as_json
from api.cli.screen import Screen, money
from api.cli.server import server


def _moment(_ctx: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    """A day is its first moment in UTC; anything else is the server's to judge."""
    try:
        return None if given is None else f"{date.fromisoformat(given)}T00:00:00Z"
    except ValueError:
        return given


@click.command(cls=Command)
@click.option(
    "--by", default="provider,model", show_default=True, help="Of provider, model, key, day and project, with commas."
)
@click.option("--from", "since", metavar="TIME", callback=_moment, help="A day, or RFC 3339; 30 days ago if not said.")
@click.option("--to", "until", metavar="TIME", callback=_moment, help="Calls before it; now if not said.")
@as_json()
@click.pass_obj
def usage(screen: Screen, by: str, since: str | None, until: str | None, as_json: bool) -> None:
    """Calls, tokens and cost of the project, also of jobs that failed.

    For example:
      completar usage
      completar usage --by day,provider --from 2026-11-01 --json
    """
    wanted = {"group_by": "".join(by.split()), "from": since, "to": until}
    with server(screen) as at:
        response = at.client.get("/v1/usage", wanted)
    if as_json:
        screen.data(response.text)
        return
    report = response.json()
    groups = report["group_by"]
    sums = ("calls", "answered", "failed", "input tokens", "output tokens", "cost", "of unknown cost")
    screen.table((*groups, *sums), ((*(line[name] for name in groups), *_sums(line)) for line in report["data"]))
    total = report["total"]
    screen.say(f"Calls from {report['from']} to {report['to']}: {total['calls']}, {money(total['cost']['amount'])}.")
    if not total["cost"]["complete"]:
        screen.say(f"Not in it: calls that were perhaps billed, nobody knows how much ({total['unknown_cost']}).")


def _sums(line: dict[str, Any]) -> tuple[Any, ...]:
    tokens = line["usage"]
    return (
        line["calls"],
        line["answered"],
        line["failed"],
        tokens["input_tokens"],
        tokens["output_tokens"],
        money(line["cost"]["amount"]),
        line["unknown_cost"],
    )
