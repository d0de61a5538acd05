"""Limits of a project's queue, and the format of a stored request.

Only adds, and rewrites no row: a constant default is kept in the catalogue.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("project", sa.Column("queue_depth", sa.Integer(), nullable=True))
    op.add_column("project", sa.Column("queue_age_s", sa.Float(), nullable=True))
    op.add_column("job", sa.Column("format", sa.SmallInteger(), server_default=sa.text("1"), nullable=False))
