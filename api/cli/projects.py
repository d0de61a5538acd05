"""`completar projects list|limit`: straight on the database, as keys are made."""

from __future__ import annotations

from typing import Any, Final

import click

from api.cli.command import Group, as_json
from api.cli.database import database
from api.cli.fault import CliFault, Exit
from api.cli.local import settings
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from worker.store import projects as stored
from worker.store.projects import Project

USUAL: Final = "usual"


class _Bound(click.ParamType[str | float]):
    """A number, or `usual`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | float:
        if value == USUAL:
            return USUAL
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100_000_000:
            self.fail(f"{value!r} is neither `{USUAL}` nor a number from 0 to 100,000,000.", param, ctx)
        return number


@click.group(cls=Group)
def projects() -> None:
    """Projects, in the database that DATABASE_URL names. `keys create --project NAME` makes one."""


@projects.command(name="list")
@as_json("One JSON document.")
@click.pass_obj
def list_(screen: Screen, as_json: bool) -> None:
    """Every project, with the limits of its queue where it has its own.

    For example:
      completar projects list
    """
    with database(settings()) as opened, opened.read() as conn:
        found = stored.listed(conn)
    if as_json:
        screen.document([_document(project) for project in found])
        return
    screen.table(
        ("id", "name", "queue depth", "queue age"),
        ((p.id, p.name, _said(p.queue_depth, ""), _said(p.queue_age_s, " s")) for p in found),
    )


@projects.command()
@click.argument("name")
@click.option("--depth", type=_Bound(), help="Jobs that may wait in a lane; 0: no bound.")
@click.option("--age", type=_Bound(), help="Seconds that its first interactive job may wait; 0: no bound.")
@click.pass_obj
def limit(screen: Screen, name: str, depth: str | float | None, age: str | float | None) -> None:
    """Give a project's queue limits of its own; `usual` goes back to COMPLETAR_QUEUE_DEPTH and COMPLETAR_QUEUE_AGE_S.

    They hold within a few seconds. What waits already is kept.

    For example:
      completar projects limit shop --depth 5000 --age 60
      completar projects limit shop --depth usual
    """
    if depth is None and age is None:
        raise CliFault("There is nothing to change.", "Say --depth, --age or both.", Exit.USAGE)
    with database(settings()) as opened, opened.write() as conn:
        changed = True
        if depth is not None:
            changed = stored.limit_depth(conn, name, None if isinstance(depth, str) else int(depth))
        if age is not None:
            changed = stored.limit_age(conn, name, None if isinstance(age, str) else age)
    if not changed:
        raise CliFault(f"There is no project {name}.", f"`{PROGRAM} projects list` shows them.")
    screen.say(f"The limits of project {name} are changed.")


def _document(project: Project) -> dict[str, Any]:
    return {
        "id": project.id,
        "name": project.name,
        "queue_depth": project.queue_depth,
        "queue_age_s": project.queue_age_s,
    }


def _said(bound: float | None, unit: str) -> str:
    if bound is None:
        return USUAL
    return f"{bound:,.0f}{unit}" if bound else "no bound"
