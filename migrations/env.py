"""Alembic's entry: the caller brings its own Database, so no URL stands in a file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from worker.store import batch_tables
from worker.store.database import Database

database: Database = context.config.attributes["database"]

with database.write() as connection:
    if connection.dialect.name == "postgresql":
        # A migration that waits for a lock makes every statement behind it wait too.
        connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        # Two releases may start at once.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7263514)"))
    context.configure(connection=connection, target_metadata=batch_tables.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
