"""List jobs and deliveries of a project by how they ended, and jobs that are still kept, without reading all others.

Replaces `ix_job_project_id`, in which jobs that were forgotten stayed for ever: a listing that came to its end read
them all. The release before asks in words that fit the new ones too.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

OLD = "ix_job_project_id"
NEW = {
    "ix_job_kept": ("job", ["project_id", "id"], "purged_at IS NULL"),
    "ix_delivery_undelivered": (
        "delivery",
        ["project_id", "state", "id"],
        "state IN ('exhausted', 'refused', 'skipped')",
    ),
    "ix_job_unanswered": (
        "job",
        ["project_id", "status", "id"],
        "status IN ('failed', 'expired', 'cancelled') AND purged_at IS NULL",
    ),
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name, (table, columns, where) in NEW.items():
            op.create_index(name, table, columns, unique=False, sqlite_where=sa.text(where))
        op.drop_index(OLD, "job")
        return
    with op.get_context().autocommit_block():
        for name, (table, columns, where) in NEW.items():
            if _cut_short(name):
                op.drop_index(name, table, postgresql_concurrently=True)
            op.create_index(
                name,
                table,
                columns,
                unique=False,
                postgresql_where=sa.text(where),
                postgresql_concurrently=True,
                if_not_exists=True,
            )
        op.drop_index(OLD, "job", postgresql_concurrently=True, if_exists=True)


def _cut_short(name: str) -> bool:
    """Whether an earlier try left an index that nothing reads; one that is whole is not built again."""
    found = sa.text("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    return bool(op.get_bind().execute(found, {"name": name}).scalar_one())
