"""`completar db upgrade`."""

from __future__ import annotations

import click

from api.cli.command import Group
from api.cli.database import database
from api.cli.local import settings
from api.cli.screen import Screen
from worker.store import migrate


@click.group(cls=Group)
def db() -> None:
    """The database's schema."""


@db.command()
@click.pass_obj
def upgrade(screen: Screen) -> None:
    """Bring the database to this release's schema. Safe to run again, and on several machines at once.

    For example:
      DATABASE_URL=postgresql://... completar db upgrade
    """
    with database(settings(), current=False) as opened:
        pending = migrate.pending(opened)
        migrate.upgrade(opened)
    screen.say("The schema is up to date now." if pending else "The schema was up to date.")
