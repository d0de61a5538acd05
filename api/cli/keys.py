"""`completar keys create|list|revoke`: straight on the database, so that the first key can be made."""

from __future__ import annotations

from typing import Any, Final

import click

from api.cli.command import Group, as_json
from api.cli.consent import confirm
from api.cli.database import database
from api.cli.fault import CliFault
from api.cli.local import settings
from api.cli.program import PROGRAM
from api.cli.screen import Screen, money
from worker import clock
from worker.domain.money import NANO, nano_of
from worker.store import keys as stored
from worker.store import projects
from worker.store.keys import SCOPES, ApiKey


@click.group(cls=Group)
def keys() -> None:
    """Keys of the API: made, listed and revoked in the database that DATABASE_URL names."""


# Who has `admin` sees the usage of all projects and pauses providers for everybody.
_USUAL: Final = tuple(scope for scope in SCOPES if scope != "admin")


@keys.command()
@click.option("--project", default=projects.DEFAULT, show_default=True, help="Made if there is none of this name.")
@click.option("--name", default="", help="To tell keys apart.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="What it may do; all but admin where not said."
)
@click.option("--days", type=click.FloatRange(0, min_open=True), help="It expires after so many.")
@click.option(
    "--budget", metavar="USD", type=click.FloatRange(0, 1_000_000, min_open=True), help="What its jobs may cost in all."
)
@as_json("One JSON document.")
@click.pass_obj
def create(
    screen: Screen,
    project: str,
    name: str,
    scopes: tuple[str, ...],
    days: float | None,
    budget: float | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown once; only a digest is stored.

    A call that could pass the budget is not made, nor one whose price is not known. The budget is for good: when it is
    spent, make another key.

    For example:
      completar keys create --name laptop
      completar keys create --project shop --scope jobs:read --days 30
      completar keys create --name intern --budget 5
    """
    with database(settings()) as opened, opened.write() as conn:
        made, secret = stored.create(
            conn,
            projects.ensure(conn, project),
            name,
            scopes=scopes or _USUAL,
            lasts_s=None if days is None else days * 86_400,
            budget_nano=None if budget is None else nano_of(budget),
        )
    if as_json:
        screen.document({**_document(made, project), "key": secret})
    else:
        screen.say(f"Key {made.id} of project {project}, shown only now:")
        screen.data(secret)


@keys.command(name="list")
@click.option("--project", help="Of this project only.")
@as_json("One JSON document.")
@click.pass_obj
def list_(screen: Screen, project: str | None, as_json: bool) -> None:
    """Every key, by its first characters.

    For example:
      completar keys list --project shop
    """
    with database(settings()) as opened, opened.read() as conn:
        names = projects.names(conn)
        found = [(key, names.get(key.project_id, key.project_id)) for key in stored.listed(conn)]
    wanted = [(key, name) for key, name in found if project is None or name == project]
    if as_json:
        screen.document([_document(key, name) for key, name in wanted])
        return
    screen.table(
        ("id", "project", "name", "begins", "state", "scopes", "created", "last used", "budget", "spent"),
        (
            (
                *(k.id, name, k.name, k.hint, _state(k), " ".join(sorted(k.scopes)), k.created_at, k.last_used_at),
                *(() if k.budget_nano is None else (money(k.budget_nano / NANO), money(k.spent_nano / NANO))),
            )
            for k, name in wanted
        ),
    )


@keys.command()
@click.argument("key_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(screen: Screen, key_id: str, yes: bool) -> None:
    """Make a key useless, for good.

    For example:
      completar keys revoke key_01... --yes
    """
    confirm(f"Programs that use {key_id} will be refused. Revoke it?", yes=yes)
    with database(settings()) as opened, opened.write() as conn:
        done = stored.revoke(conn, key_id)
    if not done:
        raise CliFault(f"There is no key {key_id} that could be revoked.", f"`{PROGRAM} keys list` shows the ids.")
    screen.say(f"{key_id} is revoked.")


def _document(key: ApiKey, project: str) -> dict[str, Any]:
    return {
        "id": key.id,
        "project": project,
        "name": key.name,
        "hint": key.hint,
        "scopes": sorted(key.scopes),
        "state": _state(key),
        "created_at": key.created_at.isoformat(),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
        "last_used_at": None if key.last_used_at is None else key.last_used_at.isoformat(),
        "budget": None if key.budget_nano is None else key.budget_nano / NANO,
        "spent": None if key.budget_nano is None else key.spent_nano / NANO,
        "held": None if key.budget_nano is None else key.held_nano / NANO,
    }


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= clock.now() else "active"
