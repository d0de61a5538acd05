"""Alembic's entry: the caller brings the connection, so no URL stands in a file.

On Postgres each migration is a transaction of its own, so that one that has to come again finds those before it done,
and one may leave its transaction to build an index beside the traffic:

    with op.get_context().autocommit_block():
        op.create_index(..., postgresql_concurrently=True, if_not_exists=True)

On SQLite all are one transaction, which also keeps two starts from migrating at once.

Revisions are in the order of their `down_revision`; their numbers are not consecutive (0014 follows 0010).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from worker.store.schema import metadata

connection: sa.Connection = context.config.attributes["connection"]

context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
