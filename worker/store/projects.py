"""Projects, the walls between tenants."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker import clock
from worker.store.moment import db_now
from worker.store.tables import project

DEFAULT = "default"


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
