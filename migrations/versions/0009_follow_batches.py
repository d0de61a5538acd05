"""Follow batches while they run, retry them, pause them, and stop them at a cost.

Only adds.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
RETRIES = sa.text("origin_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "batch_ended",
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("upto", sa.Integer(), nullable=False),
        sa.Column("job_ids", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "slot", "upto", name=op.f("pk_batch_ended")),
    )
    for column in (
        sa.Column("priority", sa.SmallInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("max_cost_nano", BIG, nullable=True),
        sa.Column("cost_nano", BIG, nullable=False, server_default=sa.text("0")),
        sa.Column("unpriced", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("paused_at", MOMENT, nullable=True),
        sa.Column("parked", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("stopped_for", sa.String(length=16), nullable=True),
        sa.Column("retry_of", ID, nullable=True),
        sa.Column("origin_id", ID, nullable=True),
    ):
        op.add_column("batch", column)
    op.create_index(
        "ix_batch_origin_id", "batch", ["origin_id"], unique=False, postgresql_where=RETRIES, sqlite_where=RETRIES
    )
    op.add_column("batch_tally", sa.Column("cost_nano", BIG, nullable=False, server_default=sa.text("0")))
    op.add_column("batch_tally", sa.Column("unpriced", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("batch_line", sa.Column("hold_nano", BIG, nullable=True))
    op.create_index("ix_batch_line_job_id", "batch_line", ["job_id"], unique=False)
