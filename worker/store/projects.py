"""Projects, the walls between tenants."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker import clock
from worker.store.moment import db_now
from worker.store.tables import project

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Project:
    """Limits of its queue: None stands for the usual one, 0 for none."""

    id: str
    name: str
    queue_depth: int | None
    queue_age_s: float | None


def ensure(conn: sa.Connection, name: str = DEFAULT) -> str:
    """The id of the project of this name, made if there is none."""
    find = sa.select(project.c.id).where(project.c.name == name)
    found = conn.execute(find).scalar_one_or_none()
    if found is not None:
        return str(found)
    try:
        with conn.begin_nested():
            conn.execute(project.insert().values(id=clock.new_id("proj"), name=name, created_at=db_now()))
    except IntegrityError:  # two processes started at once
        pass
    return str(conn.execute(find).scalar_one())


def names(conn: sa.Connection) -> dict[str, str]:
    """Every project's name, by its id."""
    return {row.id: row.name for row in conn.execute(sa.select(project.c.id, project.c.name))}


def listed(conn: sa.Connection) -> list[Project]:
    """Every project, by name."""
    columns = (project.c.id, project.c.name, project.c.queue_depth, project.c.queue_age_s)
    return [Project(*row) for row in conn.execute(sa.select(*columns).order_by(project.c.name))]


def limit_depth(conn: sa.Connection, name: str, depth: int | None) -> bool:
    """Jobs that may wait in a lane. False: there is no such project."""
    return conn.execute(project.update().where(project.c.name == name).values(queue_depth=depth)).rowcount == 1


def limit_age(conn: sa.Connection, name: str, age_s: float | None) -> bool:
    """How long its first interactive job may wait. False: there is no such project."""
    return conn.execute(project.update().where(project.c.name == name).values(queue_age_s=age_s)).rowcount == 1
