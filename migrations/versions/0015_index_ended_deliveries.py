"""Find deliveries that ended long ago: the sweep looks for them every few seconds.

Only adds.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

NAME = "ix_delivery_ended"
ENDED = sa.text("ended_at IS NOT NULL")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(NAME, "delivery", ["created_at"], unique=False, sqlite_where=ENDED)
        return
    with op.get_context().autocommit_block():
        # One that was cut short has left an index that nothing reads.
        op.drop_index(NAME, "delivery", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            NAME, "delivery", ["created_at"], unique=False, postgresql_where=ENDED, postgresql_concurrently=True
        )
