"""Forget addresses that came with requests once nothing refers to them any more.

Only adds.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0010"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.add_column("webhook_endpoint", sa.Column("retired_at", MOMENT, nullable=True))
    op.create_index("ix_subscription_endpoint_id", "subscription", ["endpoint_id"], unique=False)
