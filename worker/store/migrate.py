"""Bring a database to this release's schema, and tell whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from worker.store.database import Database

_MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def _config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["database"] = database
    return config


def upgrade(database: Database) -> None:
    """Run every migration that is missing. Raises Unavailable when the database is away."""
    command.upgrade(_config(database), "head")


def pending(database: Database) -> bool:
    """Whether the schema is behind this release. Raises Unavailable when the database is away."""
    head = ScriptDirectory.from_config(_config(database)).get_current_head()
    with database.read() as conn:
        return MigrationContext.configure(conn).get_current_revision() != head
