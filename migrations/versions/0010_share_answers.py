"""Lines of a batch that ask the same share one end, and stored answers are taken again where a batch asks for it.

Only adds: batches of an older release ask for neither, and in their rows all of this is empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
DIGEST = sa.text("digest IS NOT NULL")
AWAITED = sa.text("shared = 'awaited'")


def upgrade() -> None:
    for column in (
        sa.Column("dedupe", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("cache_age", sa.String(length=8), nullable=True),
        sa.Column("twins", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("cached", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("awaited", sa.Integer(), nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("batch", column)
    for column in (
        sa.Column("digest", ID, nullable=True),
        sa.Column("shared", sa.String(length=8), nullable=True),
        sa.Column("source_id", ID, nullable=True),
    ):
        op.add_column("batch_line", column)
    op.create_index(
        "ix_batch_line_digest",
        "batch_line",
        ["digest", "batch_id"],
        unique=False,
        postgresql_where=DIGEST,
        sqlite_where=DIGEST,
    )
    op.create_index(
        "ix_batch_line_awaited",
        "batch_line",
        ["batch_id", "source_id"],
        unique=False,
        postgresql_where=AWAITED,
        sqlite_where=AWAITED,
    )
