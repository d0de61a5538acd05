"""`completar config check`."""

from __future__ import annotations

from pathlib import Path

import click

from api import production
from api.cli.command import Group, as_json
from api.cli.configured import configured
from api.cli.screen import Screen
from worker.settings import read, redacted


@click.group(cls=Group)
def config() -> None:
    """Check the configuration."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@as_json("One JSON document.")
@click.pass_obj
def check(screen: Screen, file: Path | None, as_json: bool) -> None:
    """What is in force, secrets masked; or everything that is wrong, at once.

    For example:
      completar config check
      completar config check other.toml
    """
    settings, catalog = configured(file)
    described = catalog.describe()
    if as_json:
        screen.document({"environment": redacted(settings), **described})
    else:
        screen.data("[environment]")
        screen.table(("variable", "value"), ((name, _plain(value)) for name, value in redacted(settings).items()))
        for kind in ("providers", "routes"):
            for name, said in described[kind].items():
                shown = said | {"base_url": "(built in)"} if said.get("sandbox") else said
                screen.data(f"\n[{kind}.{name}]")
                screen.table(("key", "value"), ((key, _plain(value)) for key, value in shown.items()))
    for warning in [*catalog.warnings, *_of_web(file)]:
        screen.warn(f"warning: {warning}")
    screen.say("The configuration is in order.")


def _of_web(file: Path | None) -> list[str]:
    """What would keep `web` from starting, though it is no fault where only this machine is served."""
    _, faults = read(production.environment(), file)
    return [f"`web` (gunicorn) would not start, where HOST is not set: {fault}" for fault in faults]


def _plain(value: object) -> str:
    if value is None:
        return "(not set)"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) or "(none)"
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value) or "(none)"
    return str(value)
