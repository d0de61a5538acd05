"""Pauses of providers, accounts and keys for the whole fleet, and which of them a parked job waits for.

Only adds: a release that knows nothing of it neither parks jobs so nor meets them before they are due.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
PARKED = sa.text("status = 'queued' AND parked_for IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("id", sa.String(10), nullable=False),
        sa.Column("covers", sa.String(12), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_name", sa.Text(), nullable=False),
        sa.Column("tag", sa.String(8), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since_at", MOMENT, nullable=False),
        sa.Column("until_at", MOMENT, nullable=True),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("who", sa.Text(), nullable=True),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pause")),
    )
    op.add_column("job", sa.Column("parked_for", sa.String(160), nullable=True))
    op.create_index(
        "ix_job_parked",
        "job",
        ["parked_for", "lane", "id"],
        unique=False,
        postgresql_where=PARKED,
        sqlite_where=PARKED,
    )
