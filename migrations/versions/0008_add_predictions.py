"""Members of panels and what they said, outcomes of predictions, and how each model did.

Only adds, and rewrites no row.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.add_column("attempt", sa.Column("member", sa.Text(), nullable=True))
    op.add_column("attempt", sa.Column("answer", sa.Text(), nullable=True))
    op.create_table(
        "prediction_outcome",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("type", sa.String(12), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.Column("corrected_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_prediction_outcome")),
    )
    op.create_table(
        "prediction_score",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("type", sa.String(12), nullable=False),
        sa.Column("correct", sa.Boolean(), nullable=True),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("happened", sa.Boolean(), nullable=False),
        sa.Column("voted_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "model", "job_id", "member", name=op.f("pk_prediction_score")),
    )
    op.create_index("ix_prediction_score_job_id", "prediction_score", ["job_id"], unique=False)
