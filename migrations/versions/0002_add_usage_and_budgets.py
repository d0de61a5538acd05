"""Sums over calls by time; budgets of jobs and keys.

Only adds: a release that knows nothing of it writes rows without a budget, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("api_key", sa.Column("budget_nano", BIG, nullable=True))
    op.add_column("api_key", sa.Column("spent_nano", BIG, server_default=sa.text("0"), nullable=False))
    op.add_column("api_key", sa.Column("held_nano", BIG, server_default=sa.text("0"), nullable=False))
    op.add_column("job", sa.Column("max_cost_nano", BIG, nullable=True))
    op.add_column("job", sa.Column("key_id", ID, nullable=True))
    op.add_column("attempt", sa.Column("held_nano", BIG, nullable=True))
    op.create_index("ix_attempt_sent_at", "attempt", ["sent_at"], unique=False, postgresql_using="brin")
