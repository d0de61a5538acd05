"""The database of this machine's settings, for commands that ask no server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from api.data_folder import DataFolder
from worker.settings import Settings
from worker.store import migrate
from worker.store.database import Database, Unavailable

MIGRATE = f"Bring it up to date: `{PROGRAM} db upgrade`."


@contextlib.contextmanager
def database(told: Settings, *, current: bool = True) -> Iterator[Database]:
    """An embedded one is made and kept up to date; another must be `current`."""
    opened = Database(told.database, connections=1)
    try:
        with unavailable_told():
            if told.database_url is None:
                DataFolder(told.data_dir).make()
                migrate.upgrade(opened)
            elif current and migrate.pending(opened):
                raise CliFault("The database's schema is behind this release.", MIGRATE, Exit.CONFIG)
            yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def unavailable_told() -> Iterator[None]:
    try:
        yield
    except Unavailable as away:
        raise CliFault(
            f"The database cannot be reached: {away}.",
            f"`{PROGRAM} doctor` says more; DATABASE_URL names it.",
            Exit.CONFIG,
        ) from None
